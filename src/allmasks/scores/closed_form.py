"""Squared, Poisson and exponential losses: explicit formulas, in logs where powers of e are involved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import ScoreLoss
from allmasks.scores.problem import EPS, RowResults, ScoreProblem

__all__ = ["CLOSED_FORMS", "closed_form", "log_mean_exp"]

Array = NDArray[np.float64]

CLOSED_FORMS = ("squared_error", "poisson", "exponential")


def closed_form(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    """E L(S, y) for a loss that has a formula; exact.

    squared_error : (μ − y)² + σ²
    poisson : e^b Πⱼ (pⱼ + qⱼ e^{aⱼ}) − y μ
    exponential : e^{−yb} Πⱼ (pⱼ + qⱼ e^{−y aⱼ})
    """
    if loss.name == "squared_error":
        return _squared(problem, y, want_grad)
    return _exponentials(problem, y, loss, want_grad)


def _squared(problem: ScoreProblem, y: Array, want_grad: bool) -> RowResults:
    mu, var = problem.mean(), problem.variance()
    d = problem.d
    shift = (d + 8) * EPS * problem.magnitude()
    residual = np.abs(mu - y)
    penalty_error = (2 * d + 16) * EPS * var
    value = (mu - y) ** 2 + var
    error = 2 * residual * shift + shift**2 + penalty_error + 8 * EPS * value
    gradient = None
    if want_grad:
        base = 2.0 * (mu - y)

        def slope(rows: slice) -> Array:
            a, columns = problem.entries(rows)
            return 2.0 * problem.p[columns] * a

        gradient = problem.gradient(base, slope)
    return RowResults(value, error, var, penalty_error, "exact", gradient=gradient)


def log_mean_exp(a: Array, p: Array) -> Array:
    """log(p + (1 − p) e^a) without overflow or cancellation.

    >>> log_mean_exp(np.array([1000.0, -1000.0, 1e-20]), np.array([0.5, 0.5, 0.5])).round(4)
    array([ 9.993069e+02, -6.931000e-01,  0.000000e+00])
    """
    up, down = np.maximum(a, 0.0), np.minimum(a, 0.0)
    return np.where(a > 0, up + np.log1p(p * np.expm1(-up)), np.log1p((1.0 - p) * np.expm1(down)))


def _excess(a: Array, p: Array) -> Array:
    """log(p + q e^a) − q a ≥ 0: what dropping a unit adds to the log of a mean of exponentials.

    Near 0 the two terms cancel to ½ p q a² + …; the first cumulants are then more accurate than the difference.
    """
    q = 1.0 - p
    direct = log_mean_exp(a, p) - q * a
    pq = p * q
    series = pq * a**2 * (0.5 + a * (p - q) / 6.0 + a**2 * (1.0 - 6.0 * pq) / 24.0)
    return np.where(np.abs(a) < 1e-3, series, np.maximum(direct, 0.0))


def _exponentials(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    n, d = problem.n, problem.d
    sign = np.ones(n) if loss.name == "poisson" else -y
    mu = problem.mean() * sign
    excess = np.zeros(n)
    for rows in problem.blocks():
        a, columns = problem.entries(rows)
        if problem.is_sparse:
            row_of = np.repeat(np.arange(rows.stop - rows.start), np.diff(problem.X[rows].indptr))
            terms = _excess(a * sign[rows][row_of], problem.p[columns])
            excess[rows] = np.bincount(row_of, terms, minlength=rows.stop - rows.start)
        else:
            excess[rows] = _excess(a * sign[rows][:, None], problem.p).sum(axis=1)
    highest = float((mu + excess).max())
    if highest > 709.0:
        row = int(np.argmax(mu + excess))
        raise ValueError(
            f"the expected {loss.name} loss of row {row} is e^{highest:.0f}, beyond the largest double; scale that "
            "row or the weights down"
        )
    at_mean = np.exp(mu)
    penalty = at_mean * np.expm1(excess)
    expectation = at_mean + penalty
    log_error = (d + 16) * EPS * (1.0 + problem.magnitude())
    penalty_error = expectation * np.expm1(np.minimum(log_error, 1.0)) + 1e-12 * EPS
    linear = y * mu if loss.name == "poisson" else np.zeros(n)
    value = expectation - linear
    error = (
        penalty_error
        + (d + 8) * EPS * np.abs(y) * problem.magnitude() * (loss.name == "poisson")
        + 8 * EPS * np.abs(value)
    )
    gradient = None
    if want_grad:
        full = sign * expectation
        shared = -y if loss.name == "poisson" else np.zeros(n)

        def slope(rows: slice) -> Array:
            a, columns = problem.entries(rows)
            p = problem.p[columns]
            if problem.is_sparse:
                row_of = np.repeat(np.arange(rows.stop - rows.start), np.diff(problem.X[rows].indptr))
                s, f = sign[rows][row_of], full[rows][row_of]
            else:
                s, f = sign[rows][:, None], full[rows][:, None]
            # e^a / (p + q e^a), the tilt of a kept unit
            z = a * s
            return f * np.exp(z - log_mean_exp(z, p))

        gradient = problem.gradient(shared, slope, intercept=full + shared)
    return RowResults(value, error, penalty, penalty_error, "exact", gradient=gradient)
