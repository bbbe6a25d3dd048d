"""Every mask of a score, weighted by its probability: the ground truth, for any loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.losses import CallableScoreLoss, Exponential, Poisson, ScoreLoss
from allmasks.scores.formulas import closed_form_gradient
from allmasks.scores.score import EPS, LEAST, Gradient, RowResults, ScoreProblem

__all__ = [
    "Masks",
    "all_scores",
    "blocks_of_rows",
    "enumerate_loss",
    "masks_of",
    "probabilities",
    "random_units",
]

Array = NDArray[np.float64]

_BLOCK_MASKS = 2**21
"""Scores held at once: 16 MB for each array of them."""

_TRUSTED_OFF = 1e-3
"""Round-off of a score beyond which a function without a derivative may do anything in between."""


def random_units(problem: ScoreProblem, rows: slice) -> NDArray[np.int64]:
    """Columns whose units move the score of some of these rows."""
    x = problem.X[rows]
    active = np.asarray(abs(x).max(axis=0).todense() if problem.is_sparse else np.abs(x).max(axis=0)).reshape(-1) > 0
    return np.flatnonzero(active & (problem.p > 0) & (problem.weights != 0))


def all_scores(a: Array, start: Array) -> Array:
    """Scores under every mask of the units with contributions a (rows, d'): (rows, 2^d'), unit j being bit j."""
    scores = start[:, None]
    for j in range(a.shape[1]):
        scores = np.concatenate([scores, scores + a[:, j, None]], axis=1)
    return scores


def probabilities(p: Array) -> Array:
    """P(mask) of every mask of units with these rates, unit j being bit j: (2^d',)."""
    weight = np.ones(1)
    for rate in p:
        weight = np.concatenate([weight * rate, weight * (1.0 - rate)])
    return weight


@dataclass(frozen=True)
class Masks:
    """Every mask of some rows: scores and what they may be off by, (rows, masks), and probabilities (masks,)."""

    rows: slice
    units: NDArray[np.int64]
    p: Array
    scores: Array
    off: Array
    weight: Array

    def log_weight(self) -> Array:
        """log P(mask), also where P(mask) itself is no double."""
        log = np.zeros(1)
        for rate in self.p:
            log = np.concatenate([log + np.log(rate), log + np.log1p(-rate)])
        return log

    @property
    def faint(self) -> NDArray[np.bool_]:
        """(masks,) whether P(mask) is no normal double: it may have lost digits, or all of them."""
        return self.weight < np.finfo(np.float64).tiny

    def lost(self) -> Array:
        """(masks,) what P(mask) may be off by beside its relative rounding."""
        return np.where(self.faint, len(self.p) * LEAST, 0.0)

    def where(self, chosen: NDArray[np.bool_], y: Array) -> tuple[Array, Array, Array, Array]:
        """Score, target, log P and round-off of the score at some of (rows, masks); y is (rows, 1)."""
        target, log_weight = np.broadcast_to(y, chosen.shape), np.broadcast_to(self.log_weight(), chosen.shape)
        return self.scores[chosen], target[chosen], log_weight[chosen], self.off[chosen]


def blocks_of_rows(problem: ScoreProblem, max_masks: int) -> list[tuple[slice, NDArray[np.int64]]]:
    """Rows that are enumerated together, and the units that vary in them. Refuses before anything is computed."""
    blocks, lo = [], 0
    while lo < problem.n:
        rows = slice(lo, lo + 1)
        units = random_units(problem, rows)
        if len(units) > 62 or 2 ** len(units) > max_masks:
            raise MethodNotApplicable(
                "Enumeration",
                f"row {lo} has {len(units)} random units, 2^{len(units)} masks, more than max_masks={max_masks}",
                "ClosedForm() or Fourier() where the loss has a formula, or MonteCarlo()",
            )
        hi = lo + 1
        while hi < problem.n:
            more = random_units(problem, slice(lo, hi + 1))
            n_scores = (hi + 1 - lo) * 2.0 ** len(more)
            if n_scores > _BLOCK_MASKS or 2 ** len(more) > max_masks or len(more) > len(units) + 2:
                break
            hi, units = hi + 1, more
        blocks.append((slice(lo, hi), units))
        lo = hi
    return blocks


def masks_of(problem: ScoreProblem, rows: slice, units: NDArray[np.int64]) -> Masks:
    """The masks of some rows in which no other units vary."""
    a = problem.contributions(rows)
    fixed = np.setdiff1d(np.arange(problem.d), units)
    # Fixed units never drop (p = 0) or add nothing; either way their contribution is a constant.
    sure = a[:, fixed][:, problem.p[fixed] == 0]
    scores = all_scores(a[:, units], sure.sum(axis=1) + problem.intercept)
    sizes = all_scores(np.abs(a[:, units]), np.abs(sure).sum(axis=1) + abs(problem.intercept))
    off = (problem.d + 8) * EPS * sizes + problem.lost()[rows, None]
    return Masks(rows, units, problem.p[units], scores, off, probabilities(problem.p[units]))


def enumerate_loss(problem: ScoreProblem, y: Array, loss: ScoreLoss, max_masks: int, want_grad: bool) -> RowResults:
    """Σ_m P(m) L(S(m), y) for each row; exact."""
    n = problem.n
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((n, problem.d)) if want_grad else None
    mean_slope = np.empty(n)
    most, farthest_off = 1, 0.0
    unknown = isinstance(loss, CallableScoreLoss)
    for rows, units in blocks_of_rows(problem, max_masks):
        masks = masks_of(problem, rows, units)
        most, farthest_off = max(most, masks.scores.shape[1]), max(farthest_off, float(masks.off.max()))
        value[rows], error[rows] = _mean_loss(problem, masks, loss, y[rows, None])
        if slopes is not None:
            weighted = _weighted(masks, loss, y[rows, None], 1)
            mean_slope[rows] = weighted.sum(axis=1)
            slopes[rows] = mean_slope[rows][:, None]
            for bit, j in enumerate(units):
                kept = weighted.reshape(len(weighted), -1, 2, 2**bit)[:, :, 1, :].sum(axis=(1, 2))
                slopes[rows, j] = kept / problem.keep_prob[j]
    mu = problem.mean()
    at_mean = loss.value(mu, y)
    gradients: tuple[Gradient, ...] = ()
    if slopes is not None:
        overflows = not np.isfinite(slopes).all() and isinstance(loss, Poisson | Exponential)
        # Slopes beyond the largest double may be multiplied by tiny inputs: the formula then works in logs.
        own = closed_form_gradient(problem, y, loss) if overflows else problem.gradient_of(slopes, mean_slope)
        gradients = (own,)
    with np.errstate(over="ignore", invalid="ignore"):
        penalty = np.where(np.isinf(value), value, value - at_mean)
        penalty_error = error + loss.change(mu, y, problem.mean_error()) + 4 * EPS * loss.size(mu, y)
    return RowResults(
        value,
        error,
        penalty,
        penalty_error,
        "estimated" if unknown and farthest_off > _TRUSTED_OFF else "exact",
        most,
        gradients=gradients,
    )


def _mean_loss(problem: ScoreProblem, masks: Masks, loss: ScoreLoss, y: Array) -> tuple[Array, Array]:
    """Σ_m P(m) L(S(m), y) of each row, and a bound of its round-off.

    Of each score: what the loss can change by within the score's own rounding. Of each loss: that of its terms. Of
    the weights, products of as many factors as there are units, and of the pairwise sum: that of the sum of sizes.
    """
    terms = _weighted(masks, loss, y)
    with np.errstate(over="ignore", invalid="ignore"):
        own = masks.weight * (loss.change(masks.scores, y, masks.off) + 4 * EPS * loss.size(masks.scores, y))
        own = own + masks.lost() * loss.size(masks.scores, y)
        over = ~np.isfinite(own) | _in_logs(masks, loss)
        if over.any():
            s, target, log_weight, off = masks.where(over, y)
            own[over] = loss.weighted_change(s, target, log_weight, off)
        error = own.sum(axis=1) + (problem.d + 24) * EPS * np.abs(terms).sum(axis=1)
        return terms.sum(axis=1), error + 4 * LEAST * terms.shape[1]


def _in_logs(masks: Masks, loss: ScoreLoss) -> NDArray[np.bool_]:
    """(masks,) whether P(mask) is multiplied as its log: it is faint, and a loss of powers of e may make up for it."""
    return masks.faint if isinstance(loss, Poisson | Exponential) else np.zeros_like(masks.faint)


def _weighted(masks: Masks, loss: ScoreLoss, y: Array, order: int = 0) -> Array:
    """P(m) L(S(m), y), or its derivative, for every mask: (rows, masks)."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = loss.derivative(masks.scores, y) if order else loss.value(masks.scores, y)
        terms = np.asarray(values * masks.weight)
        over = ~np.isfinite(values) | _in_logs(masks, loss)
    if not over.any():
        return terms
    if isinstance(loss, CallableScoreLoss):
        i, mask = (int(v) for v in np.argwhere(over)[0])
        raise ValueError(
            f"the loss of row {masks.rows.start + i} is not finite at score {masks.scores[i, mask]:.6g}, which mask "
            f"{mask} gives; scale the weights down or use another loss"
        )
    s, target, log_weight, _ = masks.where(over, y)
    terms[over] = loss.weighted(s, target, log_weight, order)
    return terms
