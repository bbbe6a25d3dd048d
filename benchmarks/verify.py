"""False alarms of `am.verify` on right steps, what it catches of graded faults, and how long it takes.

python benchmarks/verify.py --runs 200          # false alarms and power; the figures of the docs: --runs 2000
python benchmarks/verify.py --times
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am


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
    for name, (net, x, y) in nets().items():
        smallest = []
        for seed in range(runs):
            found = am.verify(net, x, y, "cross_entropy", passes=48, level=0.01, seed=seed)
            smallest.append(min(check.p_value for check in found.checks))
        failed = sum(p <= 0.01 for p in smallest)
        print(f"{name:8} runs {runs}  below .01: {failed / runs:.2%}  below 1e-6: {sum(p <= 1e-6 for p in smallest)}")


def power(runs: int) -> None:
    net, x, y = nets()["mlp"]
    least = am.verify(net, x, y, "cross_entropy", passes=48).detectable["rate of 5"]
    print(f"rate of 5: smallest detectable {least:.4f}")
    for share in (0.5, 0.75, 1.0, 1.5):
        caught = 0
        for seed in range(runs):

            def step(share: float = share) -> torch.Tensor:
                h = net[4](net[3](net[2](net[1](net[0](x)))))
                rate = 0.5 + share * least
                return F.cross_entropy(net[6](h * torch.bernoulli(torch.full_like(h, 1 - rate)) * 2), y)

            found = am.verify(net, x, y, "cross_entropy", step=step, passes=48, seed=seed)
            caught += not found.ok
        print(f"  off by {share:4} of it: caught {caught / runs:.2f}")


def times() -> None:
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
        for passes in (16, None):
            wall, cpu = time.perf_counter(), time.process_time()
            found = am.verify(net, x, y, "cross_entropy", passes=passes)
            took = time.perf_counter() - wall, time.process_time() - cpu
            print(f"{name:18} passes {found.passes:4} ok {found.ok}", flush=True)
            print(f"  {took[0]:.1f} s, processor {took[1]:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--times", action="store_true")
    given = parser.parse_args()
    if given.times:
        times()
    else:
        false_alarms(given.runs)
        power(given.runs)
