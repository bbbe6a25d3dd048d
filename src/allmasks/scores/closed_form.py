"""Squared, Poisson and exponential losses: explicit formulas, in logs where powers of e are involved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import ScoreLoss
from allmasks.scores.problem import EPS, RowResults, ScoreProblem

__all__ = ["CLOSED_FORMS", "closed_form", "exponential_moments", "log_mean_exp"]

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
    shift, penalty_error = problem.mean_error(), problem.variance_error(var)
    residual = np.abs(mu - y)
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
    q = 1.0 - p
    # |a| is taken out of the log; what remains is m + (1 − m) e^{−|a|}, m the weight of the larger power.
    m = np.where(a > 0, q, p)
    rest = np.where(a > 0, p, q)
    small = m + rest * np.exp(-np.abs(a))
    with np.errstate(divide="ignore"):
        # Near 1 its distance from 1 counts; far below, that distance would round away what is left.
        log = np.where(small > 0.5, np.log1p(rest * np.expm1(-np.abs(a))), np.log(small))
    # A sure unit's is a itself, however far down.
    return np.where(p == 0, a, np.maximum(a, 0.0) + log)


def _excess(a: Array, p: Array) -> Array:
    """log(p + q e^a) − q a ≥ 0: what dropping a unit adds to the log of a mean of exponentials.

    Near 0 the two terms cancel to ½ p q a² + …; the first cumulants are then more accurate than the difference.
    """
    q = 1.0 - p
    direct = log_mean_exp(a, p) - q * a
    pq = p * q
    series = pq * a**2 * (0.5 + a * (p - q) / 6.0 + a**2 * (1.0 - 6.0 * pq) / 24.0)
    return np.where(np.abs(a) < 1e-3, series, np.maximum(direct, 0.0))


def _total_excess(problem: ScoreProblem, factor: Array) -> Array:
    """log E e^{f S} − f μ for each row, f = factor (n,)."""
    excess = np.zeros(problem.n)
    for rows in problem.blocks():
        a, columns = problem.entries(rows)
        if problem.is_sparse:
            row_of = np.repeat(np.arange(rows.stop - rows.start), np.diff(problem.X[rows].indptr))
            terms = _excess(a * factor[rows][row_of], problem.p[columns])
            excess[rows] = np.bincount(row_of, terms, minlength=rows.stop - rows.start)
        else:
            excess[rows] = _excess(a * factor[rows][:, None], problem.p).sum(axis=1)
    return excess


def exponential_moments(problem: ScoreProblem) -> tuple[Array, Array, Array, Array]:
    """Mean of e^S, its error, variance of e^S, its error, (n,) each.

    With K(t) = log E e^{tS}: the variance is e^{2K(1)} (e^{K(2) − 2K(1)} − 1), which does not cancel where it is small.
    """
    ones = np.ones(problem.n)
    mu, once, twice = problem.mean(), _total_excess(problem, ones), _total_excess(problem, 2 * ones)
    highest = 2 * mu + twice
    if float(highest.max()) > 709.0:
        row = int(np.argmax(highest))
        raise ValueError(
            f"the scores of row {row} spread too far for the log link: the second moment of e^S is "
            f"e^{highest[row]:.0f}, beyond the largest double; scale that row or the weights down"
        )
    mean, apart = np.exp(mu + once), np.maximum(twice - 2 * once, 0.0)
    variance = mean**2 * np.expm1(apart)
    log_error = np.minimum((problem.d + 16) * EPS * (1.0 + 2 * problem.magnitude()), 1.0)
    tiny = 1e-12 * EPS
    return (
        mean,
        mean * np.expm1(log_error) + tiny,
        variance,
        (2 * variance + mean**2 * np.exp(apart)) * np.expm1(2 * log_error) + tiny,
    )


def _exponentials(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    n, d = problem.n, problem.d
    sign = np.ones(n) if loss.name == "poisson" else -y
    mu = problem.mean() * sign
    excess = _total_excess(problem, sign)
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
