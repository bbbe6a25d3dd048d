"""Every mask of a score, weighted by its probability: the ground truth, for any loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.losses import CallableScoreLoss, ScoreLoss
from allmasks.methods import Enumeration
from allmasks.scores.problem import EPS, RowResults, ScoreProblem

__all__ = ["all_scores", "enumerate_loss", "enumerated_moments", "random_units"]

Array = NDArray[np.float64]

_BLOCK_MASKS = 2**21
"""Scores held at once: 16 MB for each array of them."""


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


def _probabilities(p: Array) -> Array:
    weight = np.ones(1)
    for rate in p:
        weight = np.concatenate([weight * rate, weight * (1.0 - rate)])
    return weight


def _row_blocks(problem: ScoreProblem, method: Enumeration) -> list[tuple[slice, NDArray[np.int64]]]:
    """Rows that are enumerated together, and the units that vary in them. Refuses before anything is computed."""
    blocks, lo = [], 0
    while lo < problem.n:
        rows = slice(lo, lo + 1)
        units = random_units(problem, rows)
        if len(units) > 62 or 2 ** len(units) > method.max_masks:
            raise MethodNotApplicable(
                "Enumeration",
                f"row {lo} has {len(units)} random units, 2^{len(units)} masks, more than max_masks={method.max_masks}",
                "ClosedForm() or Fourier() where the loss has a formula, or MonteCarlo()",
            )
        hi = lo + 1
        while hi < problem.n:
            more = random_units(problem, slice(lo, hi + 1))
            n_scores = (hi + 1 - lo) * 2.0 ** len(more)
            if n_scores > _BLOCK_MASKS or 2 ** len(more) > method.max_masks or len(more) > len(units) + 2:
                break
            hi, units = hi + 1, more
        blocks.append((slice(lo, hi), units))
        lo = hi
    return blocks


def enumerate_loss(
    problem: ScoreProblem, y: Array, loss: ScoreLoss, method: Enumeration, want_grad: bool
) -> RowResults:
    """Σ_m P(m) L(S(m), y) for each row; exact."""
    n = problem.n
    value, spread = np.empty(n), np.empty(n)
    slopes = np.zeros((n, problem.d)) if want_grad else None
    mean_slope = np.empty(n)
    most = 1
    if want_grad and isinstance(loss, CallableScoreLoss):
        raise MethodNotApplicable(
            "Enumeration",
            "return_grad needs the loss's derivative, which a callable does not have",
            "Fourier(), or a named loss",
        )
    for rows, units in _row_blocks(problem, method):
        scores, weight, at = _block(problem, rows, units)
        most = max(most, scores.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            losses = loss.value(scores, y[rows, None])
        if not np.isfinite(losses).all():
            i, mask = (int(v) for v in np.argwhere(~np.isfinite(losses))[0])
            raise ValueError(
                f"the loss of row {rows.start + i} is not finite at score {scores[i, mask]:.6g}, which mask {mask} "
                "gives; scale the weights down or use another loss"
            )
        value[rows] = losses @ weight
        spread[rows] = np.abs(losses) @ weight + np.abs(scores).max(axis=1) * _steepness(losses, scores, weight)
        if slopes is not None:
            weighted = loss.derivative(scores, y[rows, None]) * weight
            mean_slope[rows] = weighted.sum(axis=1)
            slopes[rows] = mean_slope[rows][:, None]
            for bit, j in enumerate(units):
                kept = weighted.reshape(len(weighted), -1, 2, 2**bit)[:, :, 1, :].sum(axis=(1, 2))
                slopes[rows, j] = kept / problem.keep_prob[j]
        del at
    at_mean = loss.value(problem.mean(), y)
    error = (problem.d + 24) * EPS * spread + problem.lost()
    gradient = None if slopes is None else problem.gradient_of(slopes, mean_slope)
    penalty_error = error + (problem.d + 24) * EPS * (np.abs(at_mean) + problem.magnitude())
    return RowResults(value, error, value - at_mean, penalty_error, "exact", n_masks=most, gradient=gradient)


def _steepness(losses: Array, scores: Array, weight: Array) -> Array:
    """Mean slope of the loss between neighbouring scores: what an error in the score costs."""
    order = np.argsort(scores, axis=1)
    s, v = np.take_along_axis(scores, order, 1), np.take_along_axis(losses, order, 1)
    w = weight[order]
    step = np.diff(s, axis=1)
    rise = np.abs(np.diff(v, axis=1)) / np.where(step > 0, step, np.inf)
    return (rise * np.maximum(w[:, 1:], w[:, :-1])).sum(axis=1) + 1.0


def _block(problem: ScoreProblem, rows: slice, units: NDArray[np.int64]) -> tuple[Array, Array, Array]:
    a = problem.contributions(rows)
    fixed = np.setdiff1d(np.arange(problem.d), units)
    # Fixed units never drop (p = 0) or add nothing; either way their contribution is a constant.
    start = a[:, fixed][:, problem.p[fixed] == 0].sum(axis=1) + problem.intercept
    return all_scores(a[:, units], start), _probabilities(problem.p[units]), start


def enumerated_moments(problem: ScoreProblem, function: object, method: Enumeration) -> tuple[Array, Array]:
    """Mean and variance over masks of function(S), (n,) each."""
    mean, variance = np.empty(problem.n), np.empty(problem.n)
    for rows, units in _row_blocks(problem, method):
        scores, weight, _ = _block(problem, rows, units)
        values = function(scores)  # type: ignore[operator]
        mean[rows] = values @ weight
        variance[rows] = (values - mean[rows, None]) ** 2 @ weight
    return mean, variance
