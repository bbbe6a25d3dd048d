"""Squared, Poisson and exponential losses: explicit formulas, in logs to the end where powers of e are involved."""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import ScoreLoss, power_less_line
from allmasks.scores.exponentials import LogMoment, error_of_exp, exp, gap, log_moment, tilt
from allmasks.scores.problem import EPS, Gradient, RowResults, ScoreProblem

__all__ = ["CLOSED_FORMS", "closed_form", "closed_form_gradient"]

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


def _exponentials(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    poisson = loss.name == "poisson"
    mu = problem.mean()
    moment = log_moment(problem, _sign(y, loss))
    penalty, penalty_error = gap(moment.mean, moment.mean_error, moment.excess, moment.excess_error)
    error = error_of_exp(moment.mean, moment.mean_error)
    if poisson:
        value = power_less_line(moment.mean, y, mu)
        with np.errstate(over="ignore"):
            # Of the mean; of the product and, where both are large, of the difference.
            error = error + y * (problem.mean_error() + 4 * EPS * np.abs(mu)) + 4 * EPS * np.abs(value)
    else:
        value = exp(moment.mean)
    gradient = None
    if want_grad:
        gradient = _exponential_gradient(problem, moment, y, loss)
    return RowResults(value, error, penalty, penalty_error, "exact", gradient=gradient)


def closed_form_gradient(problem: ScoreProblem, y: Array, loss: ScoreLoss) -> Gradient:
    """The gradient of `closed_form` of the Poisson and the exponential loss."""
    return _exponential_gradient(problem, log_moment(problem, _sign(y, loss)), y, loss)


def _sign(y: Array, loss: ScoreLoss) -> Array:
    """Of the score in the exponent."""
    return np.ones(len(y)) if loss.name == "poisson" else -y


_STEP = 512
"""Rows whose means are powers of 2 that far apart have their gradients added up apart, so that none overflows."""

_FARTHEST = 3000.0
"""A row whose log mean exceeds it has an infinite gradient whatever it is multiplied by."""


def _exponential_gradient(problem: ScoreProblem, moment: LogMoment, y: Array, loss: ScoreLoss) -> Gradient:
    """From E[L'(S) mⱼ/qⱼ] = ± E e^{±S} · tiltⱼ, less y for Poisson; `moment` is that of ±S."""
    sign, line = _sign(y, loss), -y if loss.name == "poisson" else np.zeros(problem.n)
    log = np.minimum(moment.mean, _FARTHEST)
    power = _STEP * np.maximum(np.ceil((log / np.log(2.0) - _STEP) / _STEP), 0.0).astype(np.int64)
    parts = []
    for shift in np.unique(np.append(power, 0))[::-1]:
        mine = power == shift
        # 2^-shift of the rows of this step; of the others nothing.
        scaled = np.where(mine, sign * exp(np.where(mine, log - shift * np.log(2.0), 0.0)), 0.0)

        def slope(rows: slice, scaled: Array = scaled) -> Array:
            a, columns = problem.entries(rows)
            z = a * problem.by_entry(sign, rows)
            return np.asarray(problem.by_entry(scaled, rows) * tilt(z, problem.p[columns]))

        base = line if shift == 0 else np.zeros(problem.n)
        parts.append(problem.gradient(base, slope, intercept=scaled + base).times_power(int(shift)))
    return reduce(Gradient.plus, parts)
