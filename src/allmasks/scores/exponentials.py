"""Means of exponentials over masks, in logs to the end: log E e^S, how far it is above E S, and their round-off.

Whatever is finite in the end is computed without anything infinite on the way; what is not is `inf`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allmasks.scores.score import EPS, LEAST, Moments, ScoreProblem

__all__ = [
    "LogMoment",
    "error_of_exp",
    "exp",
    "exponential_moments",
    "gap",
    "log_mean_exp",
    "log_moment",
    "log_tilt",
    "tilt",
]

Array = NDArray[np.float64]

_FARTHEST = 37.0
"""−log q of the largest rate a double below 1 can be, rounded up."""

_LARGEST_EXPONENT = 709.0

_DIES = 750.0
"""Beyond this |a|, the smaller of the two powers in p + q e^a is no double: from there on the log is linear in a."""


def exp(x: Array) -> Array:
    """e^x, `inf` where no double is large enough, without a warning."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(x)


def log_mean_exp(a: Array, p: Array) -> Array:
    """log(p + (1 − p) e^a) without overflow or cancellation.

    >>> log_mean_exp(np.array([1000.0, -1000.0, 1e-20]), np.array([0.5, 0.5, 0.5])).round(4)
    array([ 9.993069e+02, -6.931000e-01,  0.000000e+00])
    """
    q = 1.0 - p
    with np.errstate(divide="ignore", under="ignore"):
        near = q * np.expm1(np.minimum(a, _LARGEST_EXPONENT))
        # Near 1 its distance from 1 counts; far below, that distance would round away what is left; far above, e^|a|
        # is taken out of the log.
        far = np.where(a > 0, q + p * np.exp(-np.abs(a)), p + q * np.exp(-np.abs(a)))
        log = np.where(np.abs(near) <= 0.5, np.log1p(np.maximum(near, -0.5)), np.maximum(a, 0.0) + np.log(far))
    # A sure unit's is a itself, however far down.
    return np.where(p == 0, a, log)


def tilt(a: Array, p: Array) -> Array:
    """e^a / (p + q e^a) ≤ 1/q: how much more a kept unit counts under e^a."""
    q = 1.0 - p
    with np.errstate(divide="ignore", under="ignore", invalid="ignore"):
        power = np.exp(-np.abs(a))
        return np.where(p == 0, 1.0, np.where(a > 0, 1.0, power) / np.where(a > 0, q + p * power, p + q * power))


def log_tilt(a: Array, p: Array) -> Array:
    """The log of `tilt`, which itself may be no double."""
    q = 1.0 - p
    with np.errstate(divide="ignore", under="ignore", invalid="ignore"):
        power = np.exp(-np.abs(a))
        log = np.minimum(a, 0.0) - np.log(np.where(a > 0, q + p * power, p + q * power))
    return np.where(p == 0, 0.0, log)


def _sensitivity(a: Array, p: Array, log: Array) -> Array:
    """Round-off of log(p + q e^a), computed as `log`, for a that is itself off by two units in its last place."""
    moved = a * (1.0 - p) * tilt(a + 2 * EPS * np.abs(a), p)
    return EPS * (2 * np.abs(moved) + 4 * np.abs(log) + 4 * np.clip(a, 0.0, _FARTHEST) * (p > 0))


def _beyond_linear(s: Array) -> Array:
    """e^s − 1 − s ≥ 0, without cancellation."""
    near = np.clip(s, -0.5, 0.5)
    series = np.zeros_like(near)
    for n in range(16, 1, -1):
        series = (series + 1.0 / math.factorial(n)) * near
    return np.where(np.abs(s) <= 0.5, series * near, np.expm1(s) - s)


def _below_linear(u: Array) -> Array:
    """u − log(1 + u) ≥ 0 for u in [−½, 1], without cancellation: with t = u / (2 + u), tu − 2 (t³/3 + t⁵/5 + …)."""
    t = u / (2.0 + u)
    square = t * t
    series = np.zeros_like(t)
    for n in range(35, 1, -2):
        series = (series + 1.0 / n) * square
    return t * (u - 2.0 * series)


def _excess(a: Array, p: Array) -> Array:
    """log(p + q e^a) − q a ≥ 0: what dropping a unit adds to the log of a mean of exponentials.

    It is log(1 + r (e^s − 1)) − r s with r = min(p, q) and s = ±a, and so on neither side of ½ do its parts cancel.
    """
    r = np.minimum(p, 1.0 - p)
    s = np.where(p <= 0.5, -a, a)
    with np.errstate(under="ignore"):
        u = r * np.expm1(np.minimum(s, _LARGEST_EXPONENT))
        small = r * _beyond_linear(np.minimum(s, _LARGEST_EXPONENT)) - _below_linear(np.clip(u, -0.5, 1.0))
        large = s * (1.0 - r) + np.log(np.maximum(r + (1.0 - r) * np.exp(-np.maximum(s, 0.0)), LEAST))
    return np.where(p == 0, 0.0, np.maximum(np.where((u <= 1.0) & (s < _LARGEST_EXPONENT), small, large), 0.0))


def _apart(a: Array, p: Array) -> Array:
    """log(p + q e^2a) − 2 log(p + q e^a) = log(1 + p q (e^a − 1)² / (p + q e^a)²) ≥ 0."""
    q = 1.0 - p
    with np.errstate(divide="ignore", under="ignore", invalid="ignore"):
        power = np.exp(-np.abs(a))
        ratio = np.expm1(-np.abs(a)) / np.where(a > 0, q + p * power, p + q * power)
        return np.where(p == 0, 0.0, np.log1p((np.sqrt(p * q) * ratio) ** 2))


@dataclass(frozen=True)
class LogMoment:
    """Of each row (n,): log E e^S, E e^S in units of e^{E S} and, where asked for, the spread of e^S; all in logs.

    mean : log E e^S.
    excess : that, less E S.
    apart : log(E e^{2S} / (E e^S)²).
    Each with a bound of its round-off.
    """

    mean: Array
    mean_error: Array
    excess: Array
    excess_error: Array
    apart: Array
    apart_error: Array


def log_moment(problem: ScoreProblem, factor: Array | None = None, *, want_apart: bool = False) -> LogMoment:
    """Log moments of f S for each row, f = `factor` (n,) of −1 or 1, or 1 for all."""
    n, d, b = problem.n, problem.d, problem.intercept
    sign = np.ones(n) if factor is None else factor
    log, size, sensitivity, excess, excess_error, apart, apart_error = np.zeros((7, n))
    for rows in problem.blocks():
        a, columns = problem.entries(rows)
        p = problem.p[columns]
        z = a * problem.by_entry(sign, rows)
        here = log_mean_exp(z, p)
        above = _excess(z, p)
        # |a h'(a) / h(a)|, no larger for either: what a relative error of a costs.
        steep = np.minimum(np.abs(z), _DIES)
        log[rows] = problem.row_sums(here, rows)
        size[rows] = problem.row_sums(np.abs(here), rows)
        sensitivity[rows] = problem.row_sums(_sensitivity(z, p, here), rows)
        excess[rows] = problem.row_sums(above, rows)
        excess_error[rows] = problem.row_sums(above * (16.0 + 4.0 * steep), rows)
        if want_apart:
            wider = _apart(z, p)
            apart[rows] = problem.row_sums(wider, rows)
            apart_error[rows] = problem.row_sums(wider * (24.0 + 8.0 * steep), rows)
    adding, lost = (d + 4) * EPS, problem.lost()
    return LogMoment(
        mean=sign * b + log,
        mean_error=sensitivity + adding * (abs(b) + size) + lost,
        excess=excess,
        excess_error=EPS * excess_error + adding * excess + lost,
        apart=apart,
        apart_error=EPS * apart_error + adding * apart + lost,
    )


def _log_expm1(x: Array) -> Array:
    """log(e^x − 1) for x ≥ 0."""
    with np.errstate(divide="ignore", under="ignore"):
        return np.where(x > 1.0, x + np.log1p(-np.exp(-np.maximum(x, 1.0))), np.log(np.expm1(np.minimum(x, 1.0))))


def error_of_exp(log: Array, error: Array) -> Array:
    """How far e^log may be off where log is off by at most `error`, (n,)."""
    return exp(log + _log_expm1(error + 4 * EPS)) + 4 * LEAST


def gap(log: Array, log_error: Array, above: Array, above_error: Array) -> tuple[Array, Array]:
    """e^log − e^(log − above) for above ≥ 0, and its error: finite wherever it is, and without cancellation."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        direct = np.exp(log) * -np.expm1(-above)
    # log(1 − e^−above)
    share = _log_expm1(above) - above
    value = np.where(log < 700.0, direct, exp(log + share))
    in_logs = np.where((log < 700.0) | (above == 0), 0.0, np.abs(share))
    error = exp(log + share + _log_expm1(log_error + 8 * EPS * (1 + in_logs)))
    return value, error + exp(log + log_error - above + _log_expm1(above_error + 4 * EPS * above)) + 4 * LEAST


def exponential_moments(problem: ScoreProblem) -> Moments:
    """Mean, variance and standard deviation of e^S.

    The variance is (E e^S)² (e^D − 1), D = log(E e^{2S} / (E e^S)²), which does not cancel where it is small.
    """
    moment = log_moment(problem, want_apart=True)
    log, apart = moment.mean, moment.apart
    wide = 2 * log + apart
    variance, error = gap(wide, 2 * moment.mean_error + moment.apart_error, apart, moment.apart_error)
    deviation = np.where(
        (variance > 1e-290) & np.isfinite(variance), np.sqrt(variance), exp(log + 0.5 * _log_expm1(apart))
    )
    return Moments(exp(log), error_of_exp(log, moment.mean_error), variance, error, deviation)
