"""A small net trained as one watches: the same recipe is the same net, in every chapter that looks at it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from allmasks.evidence.datasets import load, split
from allmasks.evidence.nets import Arm, descend
from allmasks.expect import expected_loss
from allmasks.nn import Dropout

__all__ = [
    "GRID",
    "PICTURES",
    "Recipe",
    "Seen",
    "finished",
    "keep",
    "measurable",
    "plane",
    "rows",
    "surface",
    "trained",
    "training",
]

Array = NDArray[np.float64]

PICTURES = 40
"""Pictures of one training, the untrained net's included."""

LOOK, MASKS = 10, 32
"""E_m[L] is measured at every so many pictures, over so many masks."""

GRID = 28
REACH = 2.6
"""A surface's points a side, and how far it goes from 0."""


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on. l2, l1 : λ of λ‖w‖² and of λ‖w‖₁."""

    data: str = "moons"
    p: float = 0.5
    width: int = 32
    l2: float = 0.0
    l1: float = 0.0


@dataclass
class Seen:
    """What has been seen of a training so far, one number a picture."""

    steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    expected: list[tuple[int, float, float]] = field(default_factory=list)
    """Step, E_m[L] of the training rows, its error."""


@lru_cache(maxsize=4)
def rows(data: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and validation rows: x (n, d), y (n,). Few and noisy for training, so that a net can overfit them."""
    if data == "digits":
        found = split(load("digits"), 0)
        pairs = [found.train, found.validation]
    else:
        from sklearn.datasets import make_moons

        pairs = []
        for n, seed in ((50, 1), (400, 2)):
            X, y = make_moons(n, noise=0.35, random_state=seed)
            pairs.append((1.4 * (X - [0.5, 0.25]), y))
    found_ = [torch.as_tensor(v, dtype=kind) for x, y in pairs for v, kind in ((x, torch.float32), (y, torch.int64))]
    return found_[0], found_[1], found_[2], found_[3]


def _net(recipe: Recipe) -> nn.Sequential:
    """d-width-width-classes with ReLU and dropout; weights from a generator of its own."""
    x, y, _, _ = rows(recipe.data)
    sizes = (x.shape[1], recipe.width, recipe.width, int(y.max()) + 1)
    generator = torch.Generator().manual_seed(7)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(sizes)):
        layer = nn.utils.skip_init(nn.Linear, before, after)
        with torch.no_grad():
            layer.weight.uniform_(-1, 1, generator=generator).mul_((6 / before) ** 0.5 if i < 2 else before**-0.5)
            layer.bias.zero_()
        layers += [layer] if i == 2 else [layer, nn.ReLU(), Dropout(recipe.p, seed=i)]
    return nn.Sequential(*layers)


def training(recipe: Recipe, *, look: bool = True) -> Iterator[tuple[nn.Sequential, Seen]]:
    """The net and what has been seen so far, picture by picture; the last is the trained net.

    look : whether E_m[L] is measured on the way.
    """
    x, y, _, _ = rows(recipe.data)
    net, seen = _net(recipe), Seen()
    arm = Arm("lab", p=recipe.p, l2=recipe.l2, l1=recipe.l1)
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    rate = 2e-3 if recipe.data == "digits" else 1e-2
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    order = torch.Generator().manual_seed(8)
    batch = 50
    for picture in range(PICTURES):
        losses = []
        with torch.enable_grad():
            for _step in range(8 if picture else 0):
                chosen = torch.randperm(len(x), generator=order)[:batch]
                loss = F.cross_entropy(net.train()(x[chosen]), y[chosen])
                descend(optimizer, loss[None], weights, arm, rate)
                losses.append(float(loss.detach()))
        _look(net, recipe, seen, 8 * picture, losses, look and (picture % LOOK == 0 or picture == PICTURES - 1))
        yield net, seen


@torch.no_grad()
def _look(net: nn.Sequential, recipe: Recipe, seen: Seen, step: int, losses: list[float], masks: bool) -> None:
    x, y, held_x, held_y = rows(recipe.data)
    logits = net.eval()(held_x)
    seen.steps.append(step)
    seen.evaluated.append(float(F.cross_entropy(net(x), y)))
    seen.validation.append(float(F.cross_entropy(logits, held_y)))
    seen.accuracy.append(float((logits.argmax(1) == held_y).double().mean()))
    if masks or not seen.expected:
        found = expected_loss(net, x, y, "cross_entropy", n_masks=MASKS)
        seen.expected.append((step, float(found.value), float(found.error)))
    # Before the first step there is no training loss yet: E_m[L] is what it would be on the mean.
    seen.train.append(float(np.mean(losses)) if losses else seen.expected[0][1])


def trained(recipe: Recipe) -> Iterator[float | tuple[nn.Sequential, Seen]]:
    """Shares of the work done, then the trained net: trained once for every recipe, whoever asks."""
    known = _KEPT.get(recipe)
    if known is None:
        last = None
        for last in training(recipe, look=False):
            yield len(last[1].steps) / PICTURES
        assert last is not None
        known = keep(recipe, *last)
    yield known


def finished(recipe: Recipe) -> tuple[nn.Sequential, Seen]:
    """The trained net, at once or after its training."""
    for step in trained(recipe):
        if not isinstance(step, float):
            return step
    raise AssertionError("a training ends with its net")


_KEPT: dict[Recipe, tuple[nn.Sequential, Seen]] = {}
_MOST = 64


def keep(recipe: Recipe, net: nn.Sequential, seen: Seen) -> tuple[nn.Sequential, Seen]:
    """A finished net, for the chapters that look at it."""
    while len(_KEPT) >= _MOST:
        _KEPT.pop(next(iter(_KEPT)))
    _KEPT[recipe] = (copy.deepcopy(net).eval(), copy.deepcopy(seen))
    return _KEPT[recipe]


def measurable(net: nn.Sequential, p: float) -> nn.Sequential:
    """A copy in float64 whose two dropout sites, "2" and "5", have this rate."""
    found = copy.deepcopy(net).double()
    found[2], found[5] = nn.Dropout(p), nn.Dropout(p)
    return found.eval().requires_grad_(False)


def plane() -> Tensor:
    """The points (GRID², 2) of a surface, row by row from below."""
    side = torch.linspace(-REACH, REACH, GRID)
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


@torch.no_grad()
def surface(net: nn.Module, axes: str = "") -> dict[str, Any]:
    """The probability of class 1 over the plane, to be painted beneath a picture."""
    z = net.eval()(plane()).softmax(1)[:, 1].reshape(GRID, GRID)
    painted = np.rint(z.numpy().astype(float) * 100)
    reach = [-REACH, REACH]
    return {"z": painted, "low": 0, "high": 100, "x": reach, "y": reach, "xref": f"x{axes}", "yref": f"y{axes}"}
