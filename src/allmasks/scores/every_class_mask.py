"""Every mask of the scores of several classes, weighted by its probability: the ground truth of the cross-entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from allmasks.scores.class_scores import ClassProblem, over_classes
from allmasks.scores.every_mask import all_scores, blocks_of_rows, probabilities
from allmasks.scores.score import EPS, Gradient, RowResults

__all__ = ["enumerated_classes", "enumerated_shares"]

Array = NDArray[np.float64]

_BLOCK = 2**21
"""Scores held at once: classes × rows × masks."""


def _listed(problem: ClassProblem, max_masks: int):  # type: ignore[no-untyped-def]
    """(row, units, scores (K, masks), their round-off (masks,), P(mask)) of every row."""
    # Units that move any of the scores.
    moves = problem.of(np.abs(problem.weights).max(axis=0), 0.0)
    for rows, units in blocks_of_rows(moves, min(max_masks, max(2, _BLOCK // problem.classes))):
        fixed = np.setdiff1d(np.arange(problem.d), units)
        sure = fixed[problem.p[fixed] == 0]
        parts = [(one.contributions(rows), one.intercept) for one in problem.each]
        weight = probabilities(problem.p[units])
        for i in range(rows.stop - rows.start):
            a = np.stack([part[i] for part, _ in parts])
            start = a[:, sure].sum(axis=1) + problem.intercept
            scores = all_scores(a[:, units], start)
            sizes = all_scores(np.abs(a[:, units]), np.abs(a[:, sure]).sum(axis=1) + np.abs(problem.intercept))
            yield rows.start + i, units, scores, (problem.d + 8) * EPS * sizes.max(axis=0), weight


def enumerated_classes(problem: ClassProblem, targets: Array, max_masks: int, want_grad: bool) -> RowResults:
    """Σ_m P(m) Σ_k t_k (log Σ e^S − S_k) of each row; exact."""
    n, classes, d = problem.n, problem.classes, problem.d
    value, error = np.empty(n), np.empty(n)
    slopes, mean_slope = np.zeros((classes, n, d)) if want_grad else None, np.zeros((classes, n))
    most = 1
    for i, units, scores, off, weight in _listed(problem, max_masks):
        t, mass = targets[i], np.abs(targets[i]).sum()
        losses = (t[:, None] * (logsumexp(scores, axis=0) - scores)).sum(axis=0)
        most = max(most, len(weight))
        value[i] = weight @ losses
        sizes = (2 * off + (classes + 16) * EPS * (1 + np.abs(scores).max(axis=0))) * mass
        error[i] = weight @ sizes + (d + 24) * EPS * (weight @ np.abs(losses)) + 1e-290
        if slopes is None:
            continue
        slope = (softmax(scores, axis=0) * t.sum() - t[:, None]) * weight
        mean_slope[:, i] = slope.sum(axis=1)
        slopes[:, i] = mean_slope[:, i, None]
        for bit, j in enumerate(units):
            kept = slope.reshape(classes, -1, 2, 2**bit)[:, :, 1, :].sum(axis=(1, 2))
            slopes[:, i, j] = kept / (1.0 - problem.p[j])
    at_mean, off_mean = problem.at_mean(targets)
    gradients: tuple[Gradient, ...] = ()
    if slopes is not None:
        each = tuple(one.gradient_of(slopes[k], mean_slope[k]) for k, one in enumerate(problem.each))
        gradients = (over_classes(each),)
    return RowResults(value, error, value - at_mean, error + off_mean, "exact", most, gradients=gradients)


def enumerated_shares(problem: ClassProblem, max_masks: int) -> tuple[Array, Array, Array, Array]:
    """(low, high) of E π and of E π², (n, K) each, to round-off."""
    out = np.empty((4, problem.n, problem.classes))
    for i, _, scores, off, weight in _listed(problem, max_masks):
        pi = softmax(scores, axis=0)
        wrong = weight @ (2 * off + (problem.classes + 16) * EPS * (1 + np.abs(scores).max(axis=0)))
        for at, values in ((0, pi), (2, pi**2)):
            mean = values @ weight
            error = 2 * wrong + (problem.d + 24) * EPS * mean
            out[at, i], out[at + 1, i] = np.maximum(mean - error, 0.0), np.minimum(mean + error, 1.0)
    return out[0], out[1], out[2], out[3]
