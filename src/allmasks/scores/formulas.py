"""Squared, Poisson and exponential losses: explicit formulas, in logs to the end where powers of e are involved."""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import Exponential, Poisson, ScoreLoss, SquaredError, power_less_line
from allmasks.scores.exponentials import LogMoment, error_of_exp, exp, gap, log_moment, log_tilt
from allmasks.scores.score import EPS, Gradient, RowResults, ScoreProblem

__all__ = ["CLOSED_FORMS", "closed_form", "closed_form_gradient"]

Array = NDArray[np.float64]

CLOSED_FORMS = (SquaredError, Poisson, Exponential)


def closed_form(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    """E L(S, y) for a loss that has a formula; exact.

    squared_error : (μ − y)² + σ²
    poisson : e^b Πⱼ (pⱼ + qⱼ e^{aⱼ}) − y μ
    exponential : e^{−yb} Πⱼ (pⱼ + qⱼ e^{−y aⱼ})
    """
    if isinstance(loss, SquaredError):
        return _squared(problem, y, want_grad)
    return _exponentials(problem, y, loss, want_grad)


def _squared(problem: ScoreProblem, y: Array, want_grad: bool) -> RowResults:
    mu, var = problem.mean(), problem.variance()
    shift, penalty_error = problem.mean_error(), problem.variance_error(var)
    residual = np.abs(mu - y)
    value = (mu - y) ** 2 + var
    error = 2 * residual * shift + shift**2 + penalty_error + 8 * EPS * value

    def slope(rows: slice) -> Array:
        a, columns = problem.entries(rows)
        return 2.0 * problem.p[columns] * a

    gradients = (problem.gradient(2.0 * (mu - y), slope),) if want_grad else ()
    return RowResults(value, error, var, penalty_error, "exact", gradients=gradients)


def _exponentials(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    poisson = isinstance(loss, Poisson)
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
    gradients = (_exponential_gradient(problem, moment, y, loss),) if want_grad else ()
    return RowResults(value, error, penalty, penalty_error, "exact", gradients=gradients)


def closed_form_gradient(problem: ScoreProblem, y: Array, loss: ScoreLoss) -> Gradient:
    """The gradient of `closed_form` of the Poisson and the exponential loss."""
    return _exponential_gradient(problem, log_moment(problem, _sign(y, loss)), y, loss)


def _sign(y: Array, loss: ScoreLoss) -> Array:
    """Of the score in the exponent."""
    return np.ones(len(y)) if isinstance(loss, Poisson) else -y


_STEP = 512
"""Slopes whose powers of 2 are that far apart are added up apart, so that none overflows."""

_FARTHEST = 3000.0
"""A slope whose log exceeds it is infinite whatever it is multiplied by."""


def _exponential_gradient(problem: ScoreProblem, moment: LogMoment, y: Array, loss: ScoreLoss) -> Gradient:
    """From E[L'(S) mⱼ/qⱼ] = ± E e^{±S} · tiltⱼ, less y for Poisson; `moment` is that of ±S."""
    sign, line = _sign(y, loss), -y if isinstance(loss, Poisson) else np.zeros(problem.n)

    def logs(rows: slice) -> Array:
        a, columns = problem.entries(rows)
        log = problem.by_entry(moment.mean, rows) + log_tilt(a * problem.by_entry(sign, rows), problem.p[columns])
        return np.asarray(np.minimum(log, _FARTHEST))

    # No tilt exceeds e^37.
    highest = min(float(moment.mean.max()) + 37.0, _FARTHEST) / np.log(2.0)
    parts = []
    for power in range(0, max(int(highest), 0) + 1, _STEP)[::-1]:

        def share(log: Array, power: int = power) -> Array:
            mine = (log < (power + _STEP) * np.log(2.0)) & ((power == 0) | (log >= power * np.log(2.0)))
            return np.where(mine, exp(np.where(mine, log - power * np.log(2.0), 0.0)), 0.0)

        base = line if power == 0 else np.zeros(problem.n)
        own = sign * share(np.minimum(moment.mean, _FARTHEST)) + base
        part = problem.gradient(
            base, lambda rows, share=share: problem.by_entry(sign, rows) * share(logs(rows)), intercept=own
        )
        parts.append(part.times_power(power))
    return reduce(Gradient.plus, parts)
