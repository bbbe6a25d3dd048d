"""The softmax of several classes with its last layer's masks integrated between proven bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allmasks.methods import SoftmaxBounds
from allmasks.over_masks.data import Batch
from allmasks.over_masks.sources import MaskSource, no_masks
from allmasks.prediction.outputs import Outputs
from allmasks.prediction.pieces import Piece, Wanted
from allmasks.prediction.round_off import ULPS
from allmasks.scores.class_scores import ClassProblem, check_classes
from allmasks.scores.softmax import bounded_losses, bounded_probabilities

__all__ = ["Bounded"]

Array = NDArray[np.float64]

_STEPS = 0.1, 0.01, 1e-3
"""Steps of the slopes that hold E Σ π S: a wide one where the bounds are wide, a narrow one where they are narrow."""

_NARROW = 1e-9
"""Half a width that no number of moments goes below: as many are taken as there are."""


@dataclass
class Bounded:
    """Means of softmax, its square and its entropy, each the middle of its bounds; nothing else is random."""

    outputs: Outputs
    rule: SoftmaxBounds

    def __call__(self, batch: Batch, source: MaskSource, center: list[Tensor], wanted: Wanted) -> Iterator[Piece]:
        site, last = self.outputs.last_site
        ((_, hidden),) = self.outputs.forward((), observe=site.name)(batch, no_masks(batch.examples))
        rows = hidden.reshape(-1, hidden.shape[-1]).detach().double().cpu().numpy()
        weights = last.weight.detach().double().cpu().numpy()
        bias = np.zeros(len(weights)) if last.bias is None else last.bias.detach().double().cpu().numpy()
        problem = check_classes(weights, rows, site.p, bias, None)
        low, high, low_square, high_square = bounded_probabilities(problem, self.rule)
        half = 0.5 * (high - low)
        self.rule.refuse_wide(half.max(axis=1), np.ones(len(half)), batch.start)
        entropy, entropy_half = entropies(problem, self.rule)
        # The model's own arithmetic: under a mask every score may move by its share of what it adds up, and the mean of
        # the largest of those over masks is this.
        share = ULPS * torch.finfo(hidden.dtype).eps
        moved = share * (np.abs(rows) @ np.abs(weights).max(axis=0) + np.abs(bias).max())[:, None]

        def of(values: Array) -> Tensor:
            return torch.from_numpy(values).to(center[0].device)

        at_mean = center[0].double()
        mean, square = of(0.5 * (low + high)), of(0.5 * (low_square + high_square))
        first = of(half + moved / 2)
        second = of(0.5 * (high_square - low_square) + moved)
        errors = {
            "first": first,
            # About the center: E(π − c)² = E π² − 2 c E π + c²; and what is taken from it is the square of a mean.
            "second": second + 2 * at_mean.abs() * first + first**2 + 8 * torch.finfo(torch.float64).eps,
            "entropy": of(entropy_half + 2 * math.log(len(weights)) * moved[:, 0]),
        }
        sums = {
            "first": mean - at_mean,
            "second": (square - 2 * at_mean * mean + at_mean**2).clamp(min=0.0),
            "entropy": of(entropy),
        }
        one = torch.ones(1, dtype=torch.float64, device=center[0].device)
        yield Piece(one, [{k: v[None] for k, v in sums.items()}], [{k: v[None] for k, v in errors.items()}])


def entropies(problem: ClassProblem, rule: SoftmaxBounds) -> tuple[Array, Array]:
    """Middle and half width of E H(π), (n,).

    H = F(1) − Σ π S with F(t) = log Σ e^{tS}, and Σ π S = F'(1). F is convex, so that its mean slope lies between those
    of E F to the left and to the right, whatever the step: (F(1) − F(1−δ))/δ ≤ F'(1) ≤ (F(1+δ) − F(1))/δ.
    """
    narrow = replace(rule, tol=_NARROW)
    first = np.zeros((problem.n, problem.classes))
    first[:, 0] = 1.0  # F of S − S_0: the entropy is the same

    def at(t: float) -> tuple[Array, Array]:
        scaled = replace(problem, weights=t * problem.weights, intercept=t * problem.intercept)
        found = bounded_losses(scaled, first, narrow, False)
        # t · w is rounded once more: F moves by no more than its scores, twice.
        size = np.asarray(abs(problem.X) @ np.abs(problem.weights).max(axis=0)) + np.abs(problem.intercept).max()
        wrong = 4 * np.finfo(np.float64).eps * size
        return found.low - wrong, found.high + wrong

    low, high = at(1.0)
    least, most = np.full(problem.n, -np.inf), np.full(problem.n, np.inf)
    for step in _STEPS:
        (below_low, below_high), (above_low, above_high) = at(1.0 - step), at(1.0 + step)
        # The steps themselves are rounded, by less than this share.
        slack = 1 + 1e-12
        down, up = (low - below_high) / step, (above_high - low) / step
        least = np.maximum(least, down - np.abs(down) * (slack - 1))
        most = np.minimum(most, up + np.abs(up) * (slack - 1))
        del below_low, above_low
    bottom = np.clip(low - most, 0.0, math.log(problem.classes))
    top = np.clip(high - least, 0.0, math.log(problem.classes))
    return 0.5 * (bottom + top), 0.5 * np.maximum(top - bottom, 0.0) + 1e-15
