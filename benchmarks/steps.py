"""False alarms of `am.verify` on right steps, what it catches of graded faults, and how long it takes.

python benchmarks/steps.py --runs 200          # false alarms, so many of each net; the issue asks for 2000 in all
python benchmarks/steps.py --power 50          # so many runs of each fault at each size
python benchmarks/steps.py --times

The first two go round by round and print what they have so far, so that a run may be stopped at any time.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am

GRADES = (0.5, 0.75, 1.0, 1.5)
"""Sizes of a fault, in units of the smallest discrepancy that `detectable` states."""


def nets() -> dict[str, tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    mlp = nn.Sequential(
        nn.Linear(6, 24), nn.Tanh(), nn.Dropout(0.3), nn.Linear(24, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 3)
    )
    rare = nn.Sequential(nn.Dropout(0.02), nn.Linear(6, 3))
    block = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    tokens = nn.Sequential(block, nn.Flatten(), nn.Linear(32, 3))
    return {"mlp": (mlp, x, y), "rare": (rare, x, y), "encoder": (tokens, torch.randn(16, 4, 8), y)}


def false_alarms(runs: int) -> None:
    below, far, took = Counter[str](), Counter[str](), Counter[str]()
    for seed in range(runs):
        for name, (net, x, y) in nets().items():
            began = time.process_time()
            found = am.verify(net, x, y, "cross_entropy", passes=48, level=0.01, seed=seed)
            took[name] += time.process_time() - began  # type: ignore[assignment]
            least = min(check.p_value for check in found.checks)
            below[name] += least <= 0.01
            far[name] += least <= 1e-6
        done = seed + 1
        if done % 10 == 0 or done == runs:
            each = ", ".join(f"{name} {below[name]} ({took[name] / done:.2f} s each)" for name in took)
            print(
                f"{done * len(took)} runs, {done} of each net: below .01: {each}; below 1e-6: {far.total()}", flush=True
            )


class _Steeper(torch.autograd.Function):
    """The same loss with a gradient that is larger by some share."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, share: float) -> torch.Tensor:
        ctx.share = share
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * (1 + ctx.share), None


def _drop(h: torch.Tensor, p: float, net: nn.Module) -> torch.Tensor:
    if not net.training:
        return torch.full_like(h, 1 - p)  # with the factor beside it: weight scaling
    return (torch.rand_like(h) >= p).to(h)  # bernoulli would tell its rate


def faults() -> Iterator[tuple[str, float, str, dict[str, Any], Callable[[], torch.Tensor]]]:
    """(fault, size, what the size is of, arguments of verify, the step)."""
    net, x, y = nets()["mlp"]
    given = {"model": net, "x": x, "y": y, "loss": "cross_entropy", "passes": 48}
    right = am.verify(**given)
    least = right.detectable

    def head(until: int) -> torch.Tensor:
        return net[:until](x)

    for grade in GRADES:
        rate = 0.5 + grade * least["rate of 5"]
        yield (
            "rate",
            grade,
            f"of the stated {least['rate of 5']:.4f}",
            given,
            lambda rate=rate: F.cross_entropy(net[6]((h := head(5)) * _drop(h, rate, net) / (1 - rate)), y),
        )
    for grade in GRADES:
        share = grade * least["gradient"]
        yield (
            "gradient",
            grade,
            f"of the stated {least['gradient']:.3f}",
            given,
            lambda share=share: _Steeper.apply(F.cross_entropy(net(x), y), share),
        )
    for off in (0.0003, 0.001, 0.003, 0.01):
        yield (
            "scale",
            off,
            "relative error of 1/(1 − p)",
            given,
            lambda off=off: F.cross_entropy(net[6]((h := head(5)) * _drop(h, 0.5, net) * 2 * (1 + off)), y),
        )
    for units in (2, 6, 12, 24):

        def step(units: int = units) -> torch.Tensor:
            h = head(5)
            mask = _drop(h, 0.5, net)
            mask[1, :units] = mask[0, :units]
            return F.cross_entropy(net[6](h * mask * 2), y)

        yield "shared masks", units, "of 24 units of one example have the mask of another one of 16", given, step
    for p in (0.02, 0.05, 0.1, 0.2):
        torch.manual_seed(1)
        several = nn.Sequential(
            nn.Linear(6, 24), nn.ReLU(), nn.Dropout(p), nn.Linear(24, 24), nn.ReLU(), nn.Dropout(0.3), nn.Linear(24, 3)
        )
        with torch.no_grad():
            several[6].weight *= 3
        arguments = given | {"model": several}
        yield (
            "a layer off",
            p,
            "is the rate of the layer that the step leaves out",
            arguments,
            lambda net=several: F.cross_entropy(net[3:](net[:2](x)), y),
        )


def power(runs: int) -> None:
    cases = list(faults())
    caught = [0] * len(cases)
    for seed in range(runs):
        for i, (_, _, _, given, step) in enumerate(cases):
            caught[i] += not am.verify(**given, step=step, seed=seed).ok
        if seed in (0, runs - 1) or (seed + 1) % 5 == 0:
            print(f"\n| fault | size | | caught of {seed + 1} |\n|---|---|---|---|")
            for i, (fault, size, unit, _, _) in enumerate(cases):
                print(f"| {fault} | {size:g} | {unit} | {caught[i]} |", flush=True)


def times(only: str) -> None:
    layer = nn.TransformerEncoderLayer(128, 4, 256, 0.1, batch_first=True)
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Flatten(), nn.Linear(4096, 10)
    )
    wide = nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(784, 1024),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(1024, 10),
    )
    cases = {
        "encoder": (encoder, torch.randn(16, 32, 128), torch.randint(10, (16,))),
        "784-1024-1024-10": (wide, torch.randn(256, 784), torch.randint(10, (256,))),
    }
    for name, (net, x, y) in cases.items():
        for passes in (16, None) if name.startswith(only) else ():
            wall, cpu = time.perf_counter(), time.process_time()
            found = am.verify(net, x, y, "cross_entropy", passes=passes)
            took = time.perf_counter() - wall, time.process_time() - cpu
            print(f"{name:18} passes {found.passes:4} ok {found.ok}", flush=True)
            print(f"  {took[0]:.1f} s, processor {took[1]:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--power", type=int, default=0)
    parser.add_argument("--times", action="store_true")
    parser.add_argument("--only", default="", help="of the times: the net whose name begins so")
    given = parser.parse_args()
    if given.runs:
        false_alarms(given.runs)
    if given.power:
        power(given.power)
    if given.times:
        times(given.only)
