"""Nets trained on scikit-learn's digits for the benchmarks: some seconds each, seeds fixed, kept in the user's cache.

At initialization a net's scores are nearly linear in the masks, which flatters antithetic and Latin hypercube draws:
what is compared must have learned something.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from joblib import Memory
from sklearn.datasets import load_digits
from torch import Tensor, nn

from allmasks.demo import cache_folder

__all__ = ["HELD_OUT", "digits", "trained"]

HELD_OUT = 360
_memory = Memory(cache_folder() / "benchmarks", verbose=0)


def digits(size: int = 8) -> tuple[Tensor, Tensor]:
    """x (1797, 1, size, size) in [0, 1], enlarged smoothly, and y (1797,), in a fixed random order."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(pixels / 16.0, dtype=torch.float32)[order].reshape(-1, 1, 8, 8)
    return F.interpolate(x, (size, size), mode="bilinear"), torch.tensor(labels, dtype=torch.int64)[order]


def trained(name: str, build: Callable[[], nn.Module], x: Tensor, y: Tensor, epochs: int = 20) -> nn.Module:
    """The net in eval mode after Adam on all but the first `HELD_OUT` rows; binary where its output has one column."""
    net = _seeded(build)
    net.load_state_dict(_weights(name, str(net), epochs, build, x, y))
    return net.eval()


def _seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


@_memory.cache(ignore=["build", "x", "y"])
def _weights(
    name: str, layers: str, epochs: int, build: Callable[[], nn.Module], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """What `name` and `layers` are found by: the function that builds the net has no value of its own."""
    net = _seeded(build).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in (torch.randperm(len(x) - HELD_OUT) + HELD_OUT).split(64):
            optimizer.zero_grad()
            z = net(x[rows])
            if z.shape[1] == 1:
                F.binary_cross_entropy_with_logits(z[:, 0], y[rows].to(z)).backward()
            else:
                F.cross_entropy(z, y[rows]).backward()
            optimizer.step()
    return net.state_dict()
