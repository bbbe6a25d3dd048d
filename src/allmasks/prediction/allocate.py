"""How many masks of the last layer each mask below it gets: a pilot measures where the variance arises."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from allmasks.expect.distributed import ALONE, Group
from allmasks.methods import MonteCarlo
from allmasks.prediction.evaluate import Nested, Wanted
from allmasks.prediction.run import PILOT_FIRST, Route
from allmasks.prediction.setup import Setup

__all__ = ["allocate", "inner_masks"]

_PILOT_MASKS, _PILOT_EXAMPLES = 64, 64
_CHOICES = (8, 16, 32, 64)
"""Whole blocks of every sampler; at most as many as make the last layer's noise small beside any other."""


def inner_masks(below: float, last: float, cost_ratio: float) -> int:
    """The choice of least cost times variance, (b + l/J) (c + J).

    Parameters
    ----------
    below, last : variance over the masks below, and over the last layer's for a given mask below.
    cost_ratio : cost of a pass below in masks of the last layer.

    >>> inner_masks(1.0, 1.0, 100.0), inner_masks(1.0, 25.0, 100.0), inner_masks(0.0, 1.0, 100.0)
    (8, 64, 64)
    """
    return min(_CHOICES, key=lambda j: (below + last / j) * (cost_ratio + j))


def allocate(setup: Setup, route: Route, seed: int, ranks: Group = ALONE) -> Route:
    """`route` with as many inner masks as the pilot's shares of variance ask for.

    The pilot's masks have numbers of their own and its examples are always the first ones, on whatever rank they lie,
    so what follows is unbiased and does not depend on the batch size or the ranks.
    """
    nested = route.evaluate
    if not isinstance(nested, Nested) or not isinstance(route.method, MonteCarlo):
        return route
    before = sum(ranks.gather(setup.data.n_examples)[: ranks.rank])
    piloted = min(max(_PILOT_EXAMPLES - before, 0), setup.data.n_examples)
    own = ranks.run(lambda: _variances(setup, route, nested, seed, piloted) if piloted else (0.0, 0.0))
    outer, total = (sum(parts) for parts in zip(*ranks.gather(own), strict=True))
    # Averages over J masks keep l/J of the last layer's variance: outer = b + l/J and total = b + l.
    last = max(total - outer, 0.0) * nested.inner / (nested.inner - 1)
    below = max(outer - last / nested.inner, 0.0)
    assert setup.last is not None
    outputs, width = setup.last.weight.shape
    parameters = sum(p.numel() for p in setup.model.parameters()) - setup.last.weight.numel()
    inner = inner_masks(below, last, parameters / (width * (outputs + 16))) if math.isfinite(total) else nested.inner
    return replace(route, evaluate=replace(nested, inner=inner), inner=inner)


def _variances(setup: Setup, route: Route, nested: Nested, seed: int, examples: int) -> tuple[float, float]:
    """Variance of the inner averages, and of single masks, summed over the outputs of the first examples."""
    batch = setup.keyed(setup.data.first(examples))
    center = [setup.task.value(leaf) for leaf in setup.in_eval(batch)]
    pieces = list(nested(batch, route.source(_PILOT_MASKS, seed, first=PILOT_FIRST), center, Wanted()))
    first = torch.cat([piece.features[0]["first"] for piece in pieces])
    second = torch.cat([piece.features[0]["second"] for piece in pieces])
    return float(first.var(dim=0).sum()), float((second.mean(dim=0) - first.mean(dim=0) ** 2).sum())
