"""Random calls of the layers' functions on tensors of every kind, to crash the process or to catch a wrong value.

    python tests/nn/fuzz.py [--calls 100000] [--seed 0]

Each call draws a function, a shape, a type, a layout, a storage, a rate, a mode and a number of threads. It must return
or raise a Python exception that names no bug of ours; where it returns, each element is its input's times 0 or one
scale. The process ends with "N calls, ..." and status 0; a crash is its death.
"""

import argparse
import collections
import random
import sys
import threading
import warnings

import torch

import allmasks as am
from allmasks.nn.law import drawn_law

f = am.nn.functional
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ODD_DTYPES = [torch.int64, torch.bool, torch.complex64, torch.uint8, torch.float8_e4m3fn]
SIZES = [0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 257]
LARGE = [2**14 - 1, 2**15, 2**15 + 1, 2**16 + 77, 2**17]
RATES = [0.0, 1.0, 0.5, 0.25, 0.1, 1e-9, 0.999999, 1 / 256, 1 - 2**-20, 0.3]
ALLOWED = (TypeError, ValueError, RuntimeError, NotImplementedError, IndexError)
SCALED = ("dropout", "dropout1d", "dropout2d", "dropout3d", "drop_path", "locked_dropout", "drop_connect")
ALL = [*SCALED, "alpha_dropout", "feature_alpha_dropout", "gaussian_dropout", "drop_block2d"]


class Sub(torch.Tensor):
    pass


def tensor(r):
    """Of a random shape, type, layout and storage."""
    axes = r.choice([0, 1, 1, 2, 2, 3, 4, 5])
    shape = [r.choice(LARGE)] if r.random() < 0.05 else [r.choice(SIZES[: 21 - 4 * axes]) for _ in range(axes)]
    dtype = r.choice(DTYPES) if r.random() < 0.9 else r.choice(ODD_DTYPES)
    x = torch.ones(shape).add_(torch.rand(shape)).to(dtype)
    for _ in range(r.randrange(3)):
        if x.layout is not torch.strided:
            break  # torch itself dies of some views of what lies in other layouts
        how = r.randrange(15)
        n = x.ndim
        try:
            if how == 0 and n >= 2:
                x = x.transpose(r.randrange(n), r.randrange(n))
            elif how == 1 and n:
                x = x[r.randrange(3) :: r.choice([1, 2, 3])]
            elif how == 2:
                x = x.expand(r.choice([1, 2, 5]), *x.shape)
            elif how == 3:
                x = torch._neg_view(x)
            elif how == 4:
                x = torch._efficientzerotensor(x.shape, dtype=x.dtype)
            elif how == 5 and n == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            elif how == 6:
                x = x.as_subclass(Sub)
            elif how == 7 and n:
                x = x.unbind()[0]
            elif how == 8 and n:
                x = x.flip(0)
            elif how == 9 and n:
                x = torch.as_strided(x, [max(x.shape[0] // 2, 1)], [r.choice([0, 1])])
            elif how == 10 and n >= 2:
                x = x.diagonal()
            elif how == 11:
                x = x.unfold(0, 2, 1) if n and x.shape[0] > 2 else x
            elif how == 12:
                x = r.choice([lambda t: t.to_sparse(), lambda t: t.to_mkldnn(), lambda t: t.to("meta")])(x)
            elif how == 13:
                with torch.inference_mode():
                    x = x.clone()
            elif how == 14 and x.is_floating_point():
                x = x.detach().requires_grad_(True)
                x = x * 1 if r.random() < 0.5 else x
        except ALLOWED:
            pass
    return x


def call(r):
    """One call; what came of it."""
    name, x, p = r.choice(ALL), tensor(r), r.choice(RATES)
    args = {"inplace": r.random() < 0.3} if name not in ("gaussian_dropout", "drop_connect") else {}
    if r.random() < 0.1 and name.startswith("dropout"):
        units = x.shape[-1] if name == "dropout" and x.ndim else 1
        p = torch.rand(units) * r.choice([1.0, 1.0, 2.0])
    if name == "drop_block2d":
        args["block_size"] = r.choice([1, 2, 7, 300])
    if r.random() < 0.3:
        args[r.choice(["key", "seed"])] = r.choice([0, 1, 2**64 - 1, r.getrandbits(64), -1, "a"])
    training = r.random() < 0.9
    if r.random() < 0.02:
        torch.set_num_threads(r.choice([1, 2, 3, 5]))
    mode = r.choice([torch.enable_grad, torch.enable_grad, torch.no_grad, torch.inference_mode])
    plain = x.layout is torch.strided and x.device.type == "cpu" and x.dtype in DTYPES
    # In place on memory that overlaps in part, which torch does not notice, nobody knows what is right.
    plain = plain and not (args.get("inplace") and torch._debug_has_internal_overlap(x))
    before = x.detach().clone().double() if plain else None
    with mode():
        out = getattr(f, name)(x, p, training=training, **args)
        if r.random() < 0.2 and out.requires_grad and not out.is_inference():
            out.float().sum().backward()
    if plain and name in SCALED and training and not isinstance(p, torch.Tensor) and 0 < p < 1:
        ratio = torch.where(before != 0, out.detach().double() / before, 0.0).as_subclass(torch.Tensor)
        scale = drawn_law(p).scale
        if x.dtype is torch.float16 and scale > 1e4:
            return  # beyond its largest number
        off = torch.minimum(ratio.abs(), (ratio / scale - 1).abs())
        worst = float(off.max()) if off.numel() else 0.0
        if worst > {torch.float64: 1e-12, torch.float32: 1e-6}.get(x.dtype, 2e-2):
            raise AssertionError(f"{name} of {x.dtype} {tuple(x.shape)} {x.stride()} at p = {p}: {worst}")


def run(calls, seed, outcomes):
    r = random.Random(seed)
    for _ in range(calls):
        try:
            call(r)
            outcomes["returned"] += 1
        except ALLOWED as error:
            text = str(error)
            if "INTERNAL ASSERT" in text or "data pointer" in text:
                outcomes["bad: " + text[:200]] += 1
            outcomes[type(error).__name__] += 1
        except Exception as error:
            outcomes[f"bad: {type(error).__name__}: {str(error)[:200]}"] += 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(options.seed)
    outcomes = collections.Counter()
    # Two Python threads, each with half of the calls, beside the kernels' own threads.
    threads = [
        threading.Thread(target=run, args=(options.calls // 2, 2 * options.seed + i, outcomes)) for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bad = {what: n for what, n in outcomes.items() if what.startswith("bad")}
    print(f"{options.calls} calls, {dict(outcomes)}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
