"""E_m[L] of a net: allmasks against the loop that people write, both timed and held to the truth in one run.

    python benchmarks/expected_loss.py [--examples 256] [--masks 256]

The rival is a loop over train-mode passes under no_grad with BatchNorm in eval mode, its whole batch at once: the
fastest way to write it by hand. Printed for each: seconds, the standard error of the mean loss, and the time needed
for equal error (time × error², relative to the loop).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.samplers import Antithetic, Independent, LatinHypercube


def net(kind: str) -> tuple[nn.Module, tuple[int, ...], int]:
    """A model, one example's shape, and the number of classes."""
    torch.manual_seed(0)
    if kind == "MLP 64-512-512-10":
        layers = [nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(512, 10)), (64,), 10
    if kind == "MLP, dropout last only":
        layers = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(512, 10)), (64,), 10
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Dropout2d(0.25), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 36, 10)), (1, 16, 16), 10


def loop(model: nn.Module, x: torch.Tensor, y: torch.Tensor, n_masks: int) -> tuple[float, float]:
    """The mean over train-mode passes and its standard error, as people write it."""
    model.train()
    total, squares = 0.0, 0.0
    with torch.no_grad():
        for _ in range(n_masks):
            loss = float(F.cross_entropy(model(x), y))
            total += loss
            squares += loss * loss
    model.eval()
    mean = total / n_masks
    return mean, ((squares / n_masks - mean**2) / (n_masks - 1)) ** 0.5


def timed(function, repeats: int = 5):
    """Median seconds, and the last answer."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        answer = function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--masks", type=int, default=256)
    options = parser.parse_args()
    table = Table("model", "method", "seconds", "mean loss", "standard error", "time for equal error")
    for kind in ("MLP 64-512-512-10", "MLP, dropout last only", "convnet"):
        model, shape, classes = net(kind)
        x, y = torch.randn(options.examples, *shape), torch.randint(0, classes, (options.examples,))
        seconds, (mean, error) = timed(lambda m=model, x=x, y=y: loop(m, x, y, options.masks))
        table.add_row(kind, "loop of train-mode passes", f"{seconds:.3f}", f"{mean:.5f}", f"{error:.1e}", "1")
        cost = seconds * error**2
        for sampler in (Independent(), Antithetic(), LatinHypercube()):
            method = MonteCarlo(n_masks=options.masks, sampler=sampler)

            def ours(m=model, x=x, y=y, method=method):
                with torch.no_grad():
                    return am.expected_loss(m, x, y, "cross_entropy", method=method)

            seconds, result = timed(ours)
            ratio = seconds * float(result.error) ** 2 / cost
            name = f"expected_loss, {type(sampler).__name__}"
            row = (f"{seconds:.3f}", f"{float(result.value):.5f}", f"{float(result.error):.1e}", f"{ratio:.2g}")
            table.add_row("", name, *row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
