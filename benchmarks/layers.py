"""allmasks.nn against torch.nn.functional.dropout and against moving the same memory, measured in one run.

    python benchmarks/layers.py [--threads 2] [--no-compile]

Every ratio is of medians of interleaved repeats. What is claimed holds for processors where torch's CPU generator is
serial (AMD, ARM); on Intel processors torch may take a parallel generator of MKL. The processor is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch._inductor.config
import torch.nn.functional as F
from measure import Rows, machine, small
from torch import Tensor, nn

import allmasks as am

ours = am.nn.functional.dropout


def with_backward(function: Callable[..., Tensor], x: Tensor, g: Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()

    def run() -> None:
        x.grad = None
        function(x, 0.5).backward(g)

    return run


def saved_bytes(function: Callable[..., Tensor], n: int = 2**20) -> int:
    """Bytes of what autograd keeps for backward beside the input."""
    x = torch.randn(n, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if t.data_ptr() != x.data_ptr():
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = function(x, 0.5)
    context = getattr(out.grad_fn, "__dict__", {})  # what a Python function keeps without saving it
    kept.update({t.data_ptr(): t.numel() * t.element_size() for t in context.values() if isinstance(t, Tensor)})
    return sum(kept.values())


def speed(table: Rows) -> None:
    x = torch.randn(2**20)
    g = torch.ones_like(x)
    out = torch.empty_like(x)
    t = small({"torch": lambda: F.dropout(x, 0.5), "ours": lambda: ours(x, 0.5), "copy": lambda: out.copy_(x)})
    row(table, "2^20 float32, forward", t, "torch", "≥ 40")
    between = {"torch": lambda: F.dropout(x, 0.5), "ours": lambda: ours(x, 0.5), "again": lambda: F.dropout(x, 0.5)}
    t = small({**between, "x.clone()": lambda: x.clone()}, fresh=True)
    row(table, "2^20 float32, forward, the first call", t, "torch", "")
    row(table, "2^20 float32, forward, the first call", t, "x.clone()", "")
    copies = with_backward(lambda x, _: x.clone(), x, g)
    t = small({"torch": with_backward(F.dropout, x, g), "ours": with_backward(ours, x, g), "x.clone()": copies})
    row(table, "2^20 float32, forward + backward", t, "torch", "≥ 30")
    row(table, "2^20 float32, forward + backward", t, "x.clone()", "")
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        y = x.to(dtype)
        t = small({"torch": lambda y=y: F.dropout(y, 0.5), "ours": lambda y=y: ours(y, 0.5)}, 1.0)
        row(table, f"2^20 {str(dtype).removeprefix('torch.')}, forward", t, "torch", "≥ 20")
    for p, bits in ((0.1, 16), (0.001, 32)):
        t = small({"torch": lambda p=p: F.dropout(x, p), "ours": lambda p=p: ours(x, p)}, 1.0)
        row(table, f"2^20 float32, p = {p} ({bits} bits), forward", t, "torch", "")
    strided = torch.randn(2**10, 2**10).t()
    t = small({"torch": lambda: F.dropout(strided, 0.5), "ours": lambda: ours(strided, 0.5)}, 1.0)
    row(table, "2^20 float32, transposed, forward", t, "torch", "")
    maps = torch.randn(64, 64, 16, 16)
    t = small({"torch": lambda: F.dropout2d(maps, 0.5), "ours": lambda: am.nn.functional.dropout2d(maps, 0.5)}, 1.0)
    row(table, "2^20 float32, dropout2d, forward", t, "torch", "")

    x = torch.randn(2**24)
    out = torch.empty_like(x)
    t = small({"x.clone()": lambda: x.clone(), "ours": lambda: ours(x, 0.5)}, 3.0)
    row(table, "2^24 float32, forward", t, "x.clone()", "≥ 0.67")
    y = x.clone()
    functions = {
        "torch": lambda: F.dropout(y, 0.5, inplace=True),
        "copy": lambda: out.copy_(x),
        "ours": lambda: ours(y, 0.5, inplace=True),
    }
    t = small(functions, 6.0)
    row(table, "2^24 float32, in place", t, "torch", "≥ 40")
    row(table, "2^24 float32, in place", t, "copy", "≥ 0.5")

    few = torch.randn(1024)
    few_grad = few.clone().requires_grad_()
    g = torch.ones_like(few)
    t = small({"torch": lambda: F.dropout(few, 0.5), "ours": lambda: ours(few, 0.5)}, 1.0, 200)
    row(table, "1024 float32, no grad", t, "torch", "≥ 1")
    t = small({"torch": lambda: F.dropout(few_grad, 0.5), "ours": lambda: ours(few_grad, 0.5)}, 1.0, 200)
    row(table, "1024 float32, with grad, forward", t, "torch", "≥ 1")
    t = small({"torch": with_backward(F.dropout, few, g), "ours": with_backward(ours, few, g)}, 1.0, 200)
    row(table, "1024 float32, forward + backward", t, "torch", "≥ 1")


def row(table: Rows, what: str, times: dict[str, float], rival: str, wanted: str) -> None:
    ratio = times[rival] / times["ours"]
    table.add(what, f"{times['ours'] * 1e3:.4f}", rival, f"{times[rival] * 1e3:.4f}", f"{ratio:.2f}", wanted)


KEPT = {"MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TOP_PAD_": str(2**26)}
"""With these glibc keeps what is freed instead of giving it back to the system, as jemalloc and tcmalloc do."""


def with_memory_kept(table: Rows, threads: int) -> None:
    """The rows that allocate, in a process of their own whose allocator keeps freed memory."""
    command = [sys.executable, __file__, "--threads", str(threads), "--kept"]
    run = subprocess.run(command, env={**os.environ, **KEPT}, stdout=subprocess.PIPE, text=True, check=True)
    for what, times, rival in json.loads(run.stdout):
        row(table, f"{what}; freed memory kept", times, rival, "")


def kept_rows() -> list[tuple[str, dict[str, float], str]]:
    x = torch.randn(2**20)
    g = torch.ones_like(x)
    t = small({"torch": with_backward(F.dropout, x, g), "ours": with_backward(ours, x, g)}, 3.0)
    large = torch.randn(2**24)
    u = small({"x.clone()": lambda: large.clone(), "ours": lambda: ours(large, 0.5)}, 3.0)
    steps = {"no dropout": step(net(nn.Identity)), "ours": step(net(lambda: am.nn.Dropout(0.5)))}
    v = small(steps, 8.0)
    return [
        ("2^20 float32, forward + backward", t, "torch"),
        ("2^24 float32, forward", u, "x.clone()"),
        ("step of 784-1024-1024-10, batch 256", v, "no dropout"),
    ]


def net(layer: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), layer(), nn.Linear(1024, 1024), nn.ReLU(), layer(), nn.Linear(1024, 10)
    )


def step(model: nn.Module) -> Callable[[], object]:
    x, y = torch.randn(256, 784), torch.randint(0, 10, (256,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def relu_and_sign(h: Tensor) -> tuple[Tensor, Tensor]:
    return h.relu(), h.relu() <= 0


def training(table: Rows, compiled: bool) -> None:
    steps = {
        "torch.nn.Dropout": step(net(lambda: nn.Dropout(0.5))),
        "no dropout": step(net(nn.Identity)),
        "ours": step(net(lambda: am.nn.Dropout(0.5))),
    }
    if compiled:
        # What an earlier version of the operators was compiled to may lie in the compiler's cache on disk.
        torch._inductor.config.force_disable_caches = True
        steps["ours, compiled"] = step(torch.compile(net(lambda: am.nn.Dropout(0.5)), fullgraph=True))
        steps["no dropout, compiled"] = step(torch.compile(net(nn.Identity), fullgraph=True))
        steps["torch.nn.Dropout, compiled"] = step(torch.compile(net(lambda: nn.Dropout(0.5)), fullgraph=True))
    t = small(steps, 24.0)
    what = "step of 784-1024-1024-10, batch 256"
    row(table, what, t, "torch.nn.Dropout", "≥ 1.3")
    row(table, what, t, "no dropout", "≥ 0.95")
    if compiled:
        fast = {**t, "ours": t["ours, compiled"], "ours, eager": t["ours"]}
        row(table, what + ", compiled", fast, "ours, eager", "≥ 1")
        row(table, what + ", compiled", fast, "torch.nn.Dropout, compiled", "")
        # What compilation itself costs or saves here, and what dropout adds to it.
        row(table, what + ", compiled", fast, "no dropout, compiled", "")
        plain = {"ours": t["no dropout, compiled"], "no dropout, eager": t["no dropout"]}
        row(table, "no dropout, compiled (in the first column)", plain, "no dropout, eager", "")
        # With any dropout after it the compiler keeps a ReLU's sign as booleans; without AVX-512 it writes them slowly.
        h = torch.randn(256, 1024)
        signs = small({"ours": partial(torch.compile(relu_and_sign), h), "eager": partial(relu_and_sign, h)})
        row(table, "ReLU of 256 × 1024 and its sign, compiled (in the first column)", signs, "eager", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--kept", action="store_true", help="only the rows that allocate, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.kept:
        print(json.dumps(kept_rows()))
        return
    print(f"{machine()}, {options.threads} threads, torch {torch.__version__}")
    table = Rows(("what", 66), ("ours, ms", 9), ("against", 26), ("ms", 9), "times faster", "wanted")
    speed(table)
    with_memory_kept(table, options.threads)
    training(table, not options.no_compile)
    memory = Rows("kept for backward, 2^20 float32", ("bytes", 9), "bytes an element")
    for name, function in (("F.dropout", F.dropout), ("ours", ours)):
        kept = saved_bytes(function)
        memory.add(name, kept, f"{kept / 2**20:g}")


if __name__ == "__main__":
    main()
