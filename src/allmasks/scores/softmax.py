"""The cross-entropy of several classes and their probabilities over all masks: proven bounds of each row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.errors import MethodNotApplicable
from allmasks.scores.characteristic import fourier_logistic, sigmoid_moments
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.score import EPS, Gradient, Moments, RowResults, ScoreProblem

__all__ = [
    "Bounds",
    "Rule",
    "bounded_losses",
    "bounded_probabilities",
    "jensen_bounds",
    "middle_moments",
    "share_moments",
]

Array = NDArray[np.float64]

_CHUNKS = 64
"""A fixed number of chunks, so that sums do not depend on the number of threads."""


class Rule(Protocol):
    """Half of the width that is wanted, and how many moments there may be: 2, 4, or None for what it takes."""

    @property
    def tol(self) -> float: ...
    @property
    def moments(self) -> int | None: ...


@dataclass
class Bounds:
    """Of each row: bounds of its mean loss, round-off included, and the gradient of the middles' weighted mean."""

    low: Array
    high: Array
    gradient: Gradient | None = None

    @property
    def value(self) -> Array:
        return 0.5 * (self.low + self.high)

    @property
    def error(self) -> Array:
        """Half of the width, (n,): inf where nothing is known."""
        half = 0.5 * (self.high - self.low) + 4 * EPS * (np.abs(self.low) + np.abs(self.high))
        return np.where(np.isfinite(half) & (self.low <= self.high), half, np.inf)

    def results(self, problem: ClassProblem, targets: Array) -> RowResults:
        """The middles with half the widths, and so for the penalty."""
        at_mean, off = problem.at_mean(targets)
        gradients = () if self.gradient is None else (self.gradient,)
        value, error = self.value, self.error
        return RowResults(value, error, value - at_mean, error + off, "bounded", gradients=gradients)


def bounded_losses(problem: ClassProblem, targets: Array, rule: Rule, want_grad: bool) -> Bounds:
    """Σ t E log Σ e^{S_k} − t · E S of each row, t being its targets (n, K)."""
    from allmasks.scores.every_class import loss_rows

    if problem.classes == 1 and not want_grad:
        return Bounds(np.zeros(problem.n), np.zeros(problem.n))  # the score less itself
    if problem.classes == 2 and (found := _two_classes(problem, targets, want_grad)) is not None:
        return found
    n, classes, d = problem.n, problem.classes, problem.d
    mass = targets.sum(axis=1)
    out = np.empty((n, 3))
    to_weights, to_b = np.zeros((classes, d)), np.zeros(classes)
    parts = []
    most = 4 if rule.moments is None else rule.moments
    tol = rule.tol / max(1.0, float(np.abs(mass).max()))
    for rows in problem.blocks():
        stored = problem.stored(rows)
        chunks = max(1, min(_CHUNKS, rows.stop - rows.start, 2**24 // (classes * d) if want_grad else _CHUNKS))
        by_chunk = np.zeros((chunks, classes, d) if want_grad else (chunks, 1, 1))
        by_b = np.zeros((chunks, classes))
        terms = np.zeros(len(stored.data) if want_grad else 1)
        where = stored.data, stored.indices, stored.indptr, problem.weights, problem.p, problem.intercept
        wanted = problem.share[rows], targets[rows], want_grad, out[rows], by_chunk, by_b, terms
        loss_rows(*where, tol, most, *wanted)
        if want_grad:
            to_weights += by_chunk.sum(axis=0)
            to_b += by_b.sum(axis=0)
            parts.append(terms)
    gradient = None
    if want_grad:
        flat = np.concatenate(parts)
        X = (
            sparse.csr_matrix((flat, problem.X.indices, problem.X.indptr), problem.X.shape)
            if problem.is_sparse
            else None
        )
        gradient = Gradient(to_weights, to_b, flat.reshape(n, d) if X is None else X)
    linear = (targets * problem.mean()).sum(axis=1)
    off = (np.abs(targets) * problem.mean_error()).sum(axis=1) + (classes + 4) * EPS * np.abs(
        targets * problem.mean()
    ).sum(axis=1)
    off += (classes + 8) * EPS * mass * np.abs(out[:, :2]).max(axis=1)
    return Bounds(mass * out[:, 0] - linear - off, mass * out[:, 1] - linear + off, gradient)


def jensen_bounds(problem: ClassProblem, mass: Array) -> tuple[Array, Array, Array]:
    """E log Σ e^{S_k} from above, (n,), and the gradient of Σ mass · bound by weights (K, d) and intercepts (K,).

    By one moment, for what is computed again and again: round-off is not in it.
    """
    from allmasks.scores.log_mean import log_mean_rows

    out, weights = np.empty(problem.n), np.ascontiguousarray(problem.weights.T)
    to_weights, to_b = np.zeros_like(weights), np.zeros(problem.classes)
    for rows in problem.blocks():
        stored = problem.stored(rows)
        chunks = max(1, min(_CHUNKS, rows.stop - rows.start, 2**24 // max(weights.size, 1)))
        by_chunk, by_b = np.zeros((chunks, *weights.shape)), np.zeros((chunks, problem.classes))
        where = stored.data, stored.indices, stored.indptr, weights, problem.p, problem.intercept
        log_mean_rows(*where, mass[rows], out[rows], by_chunk, by_b)
        to_weights += by_chunk.sum(axis=0)
        to_b += by_b.sum(axis=0)
    return out, np.ascontiguousarray(to_weights.T), to_b


def bounded_probabilities(problem: ClassProblem, rule: Rule) -> tuple[Array, Array, Array, Array]:
    """(low, high) of E π, then of E π², (n, K) each."""
    from allmasks.scores.every_class import probability_rows

    if problem.classes == 2 and (found := _two_shares(problem)) is not None:
        return found
    out = np.empty((problem.n, problem.classes, 4))
    most = 4 if rule.moments is None else rule.moments
    for rows in problem.blocks():
        stored = problem.stored(rows)
        where = stored.data, stored.indices, stored.indptr, problem.weights, problem.p, problem.intercept
        probability_rows(*where, rule.tol, most, max(1, min(_CHUNKS, rows.stop - rows.start)), out[rows])
    return out[..., 0], out[..., 1], out[..., 2], out[..., 3]


def share_moments(problem: ClassProblem, rule: Rule) -> Moments:
    """Mean and variance of each π_k, (n, K), as middles of their bounds."""
    return middle_moments(*bounded_probabilities(problem, rule))


def middle_moments(low: Array, high: Array, low_square: Array, high_square: Array) -> Moments:
    """Mean and variance, and their errors, from bounds of mean and second moment."""
    least = np.maximum(low_square - high**2, 0.0)
    most = np.maximum(np.minimum(high_square - low**2, 0.25), least)
    rounding = 8 * EPS
    mean, variance = 0.5 * (low + high), 0.5 * (least + most)
    return Moments(mean, 0.5 * (high - low) + rounding, variance, 0.5 * (most - least) + rounding)


@dataclass(frozen=True)
class _Finest:
    """Fourier's own default."""

    tol: float = 1e-12
    max_nodes: int = 4096


def _difference(problem: ClassProblem) -> tuple[ScoreProblem, Array]:
    """S_1 − S_0, and what the mean of a function of slope 1 may be off by since its weights are rounded, (n,)."""
    size = np.abs(problem.weights).sum(axis=0), float(np.abs(problem.intercept).sum())
    one = problem.of(problem.weights[1] - problem.weights[0], problem.intercept[1] - problem.intercept[0])
    return one, 4 * EPS * (np.asarray(abs(problem.X) @ size[0]) + size[1])


def _two_classes(problem: ClassProblem, targets: Array, want_grad: bool) -> Bounds | None:
    """Of two classes the loss is the logistic one of the scores' difference; None where Fourier does not reach."""
    mass = targets.sum(axis=1)
    y = np.where(mass > 0, targets[:, 1] / np.where(mass > 0, mass, 1.0), 0.0)
    one, moved = _difference(problem)
    try:
        found = fourier_logistic(replace(one, share=problem.share * mass), y, _Finest(), want_grad)
    except MethodNotApplicable:
        return None
    gradient = None
    if want_grad:
        (own,) = found.gradients
        gradient = Gradient(np.stack([-own.weights, own.weights]), np.array([-own.intercept, own.intercept]), own.X)
    value, error = mass * found.value, mass * (found.error + 2 * moved + 8 * EPS * (1 + np.abs(found.value)))
    return Bounds(value - error, value + error, gradient)


def _two_shares(problem: ClassProblem) -> tuple[Array, Array, Array, Array] | None:
    """Bounds of E π and E π² of two classes, by the sigmoid of their difference; None where that does not reach."""
    one, moved = _difference(problem)
    try:
        found = sigmoid_moments(one, _Finest())
    except MethodNotApplicable:
        return None
    mean, error = found.mean, found.mean_error + moved + 8 * EPS
    square = found.variance + mean**2
    off = found.variance_error + 2 * found.mean_error + 2 * moved + 16 * EPS
    both, both_square = np.stack([1 - mean, mean], axis=1), np.stack([1 - 2 * mean + square, square], axis=1)
    wide = np.stack([off + 2 * error, off], axis=1)
    low, high = both - error[:, None], both + error[:, None]
    return np.maximum(low, 0.0), np.minimum(high, 1.0), np.maximum(both_square - wide, 0.0), both_square + wide
