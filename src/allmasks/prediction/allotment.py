"""How many masks of the last layer each mask below it gets: a pilot measures where the variance arises."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from allmasks.methods import MonteCarlo
from allmasks.over_masks.sources import SampledMasks
from allmasks.prediction.averages import Route
from allmasks.prediction.outputs import Outputs
from allmasks.prediction.pieces import Nested, Wanted
from allmasks.sampling import PILOT_FIRST
from allmasks.sites import n_parameters

__all__ = ["allotted", "inner_blocks"]

_PILOT_MASKS, _PILOT_EXAMPLES = 64, 64
_CHOICES = (1, 2, 4, 8)
_UNIT = 96
"""What a unit of one mask of the last layer costs beside its products, in multiply-adds of a large matrix product:
its bit is drawn and turned into a number, and its product is an example's own (measured: benchmarks/predict.py)."""


def inner_blocks(below: float, block: float, cost_ratio: float) -> int:
    """Blocks k of least cost times variance, (b + w/k) (c + k).

    Parameters
    ----------
    below : variance over the masks below.
    block : variance of the mean over one block of the last layer's masks, for a given mask below.
    cost_ratio : cost of a pass below in blocks of the last layer.

    >>> inner_blocks(1.0, 0.1, 2.0), inner_blocks(1.0, 10.0, 2.0), inner_blocks(0.0, 1.0, 2.0)
    (1, 4, 8)
    """
    return min(_CHOICES, key=lambda k: (below + block / k) * (cost_ratio + k))


def allotted(outputs: Outputs, route: Route, seed: int) -> Route:
    """`route` with as many inner masks as the pilot's shares of variance ask for.

    The pilot goes through the same masks below twice, with a block of the last layer's own each time: what differs is
    the last layer's share, as small as the sampler makes it. Its masks have numbers of their own and its examples are
    always the first ones, on whatever rank they lie, so what follows is unbiased and does not depend on the batch size
    or the ranks.
    """
    nested = route.evaluate
    if not isinstance(nested, Nested) or not isinstance(route.option.method, MonteCarlo):
        return route
    ranks = outputs.look.group
    before = sum(ranks.gather(outputs.look.data.n_examples)[: ranks.rank])
    piloted = min(max(_PILOT_EXAMPLES - before, 0), outputs.look.data.n_examples)
    own = ranks.run(lambda: _variances(outputs, route, nested, seed, piloted) if piloted else (0.0, 0.0))
    block, both = (sum(parts) for parts in zip(*ranks.gather(own), strict=True))
    below = max(both - block / 2, 0.0)
    assert outputs.last is not None
    n_outputs, width = outputs.last.weight.shape
    parameters = n_parameters(outputs.look.model) - outputs.last.weight.numel()
    ratio = parameters / (nested.inner * width * (n_outputs + _UNIT))
    inner = nested.inner * (inner_blocks(below, block, ratio) if math.isfinite(block + below) else 1)
    return Route(replace(route.option, inner=inner), replace(nested, inner=inner))


def _variances(outputs: Outputs, route: Route, nested: Nested, seed: int, examples: int) -> tuple[float, float]:
    """Variance over one block of the last layer's masks, and of the mean of two, over the outputs of the examples."""
    batch = outputs.keyed(outputs.look.data.first(examples))
    center = [outputs.task.value(leaf) for leaf in outputs.in_eval(batch)]
    # A block as in the run: its masks' share of the variance is what is asked.
    source = SampledMasks(route.option.sites, nested.sampler, _PILOT_MASKS, seed, PILOT_FIRST, min_blocks=1)

    def means(evaluate: Nested) -> Tensor:
        return torch.cat([piece.features[0]["first"] for piece in evaluate(batch, source, center, Wanted())])

    one, other = means(nested), means(replace(nested, seed=nested.seed ^ 1))
    return float((one - other).square().mean(dim=0).sum()) / 2, float(((one + other) / 2).var(dim=0).sum())
