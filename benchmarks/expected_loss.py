"""E_m[L] of a net: allmasks against the loop that people write, both timed and held to the truth in one run.

    python benchmarks/expected_loss.py [--examples 256] [--masks 256]

Nets trained on digits (`benchmarks/trained.py`), held-out examples. The rival is a loop over train-mode passes under
no_grad with BatchNorm in eval mode, its whole batch at once: the fastest way to write it by hand. Printed for each, as
it is measured: seconds, the standard error of the mean loss, and the time needed for equal error (time × error²,
relative to the loop).
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from measure import Rows, machine, median
from torch import nn
from trained import HELD_OUT, digits, trained

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.samplers import Antithetic, Independent, LatinHypercube


def everywhere() -> nn.Module:
    layers = [nn.Linear(64, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(512, 10))


def last_only() -> nn.Module:
    layers = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(512, 10))


def convnet() -> nn.Module:
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Dropout2d(0.25), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.5), nn.Linear(16 * 36, 10))


NETS = {
    "MLP 64-512-512-10": (everywhere, 8, 30),
    "MLP, dropout last only": (last_only, 8, 30),
    "convnet": (convnet, 16, 6),
}
"""Each net with the size of its pictures and the epochs that train it in seconds."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=256, help=f"at most {HELD_OUT}")
    parser.add_argument("--masks", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    rows = Rows(
        ("model", 22), ("method", 30), ("seconds", 7), "mean loss", ("standard error", 7), "time for equal error"
    )
    for name, (build, size, epochs) in NETS.items():
        x, y = digits(size)
        model = trained(name, build, x, y, epochs)
        x, y = x[: min(options.examples, HELD_OUT)], y[: min(options.examples, HELD_OUT)]

        def ours(sampler, model=model, x=x, y=y):
            with torch.no_grad():
                method = MonteCarlo(n_masks=options.masks, sampler=sampler)
                found = am.expected_loss(model, x, y, "cross_entropy", method=method)
            return float(found.value), float(found.error)

        calls = {"loop of train-mode passes": lambda m=model, x=x, y=y: loop(m, x, y, options.masks)}
        for sampler in (Independent(), Antithetic(), LatinHypercube()):
            calls[f"expected_loss, {type(sampler).__name__}"] = lambda ours=ours, sampler=sampler: ours(sampler)
        cost = None
        for method, call in calls.items():
            seconds, (mean, error) = median(call, options.repeats)
            cost = cost or seconds * error**2
            rows.add(name, method, f"{seconds:.3f}", f"{mean:.5f}", f"{error:.1e}", f"{seconds * error**2 / cost:.2g}")
            name = ""


if __name__ == "__main__":
    main()
