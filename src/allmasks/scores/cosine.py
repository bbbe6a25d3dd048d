"""Any smooth function of a score, by its trigonometric series and the score's characteristic function.

g is sampled on the interval that holds every possible score, continued smoothly to 0 beyond it, and expanded as
g(s) = Σ_n c_n e^{iω_n s}; then E g(S) = Σ_n c_n φ(ω_n). Terms are doubled until the answer settles. That gives an
estimate of the error and no proof: a bump narrower than the samples' spacing is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.losses import ScoreLoss
from allmasks.methods import Fourier
from allmasks.scores.problem import EPS, RowResults, ScoreProblem

__all__ = ["cosine_loss", "cosine_mean"]

Array = NDArray[np.float64]

_FIRST_TERMS = 256
_TINY = float(np.finfo(np.float64).tiny)
"""Below this, rounding is no longer relative."""


def cosine_loss(problem: ScoreProblem, y: Array, loss: ScoreLoss, method: Fourier, want_grad: bool) -> RowResults:
    """E g(S, y) for each row, with an estimated error."""
    n = problem.n
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((n, problem.d)) if want_grad else None
    mean_slope = np.zeros(n)
    for i in range(n):
        a = problem.contributions(slice(i, i + 1))[0]
        at_target = partial(_loss_at, loss, float(y[i]))
        value[i], error[i], own = cosine_mean(a, problem.p, problem.intercept, at_target, method, want_grad, i)
        if slopes is not None and own is not None:
            mean_slope[i], slopes[i] = own
    at_mean = loss.value(problem.mean(), y)
    gradient = None if slopes is None else problem.gradient_of(slopes, mean_slope)
    return RowResults(value, error, value - at_mean, error + 4 * EPS * np.abs(at_mean), "estimated", gradient=gradient)


def _loss_at(loss: ScoreLoss, target: float, s: Array) -> Array:
    return loss.value(s, np.full_like(s, target))


def _continued(g: Callable[[Array], Array], s: Array, lo: float, hi: float, margin: float) -> Array:
    """g times a smooth window that is 1 on [lo, hi] and 0 from `margin` beyond."""
    outside = np.maximum(np.maximum(lo - s, s - hi), 0.0) / margin
    with np.errstate(all="ignore"):
        # The infinitely smooth step e^{-1/u} / (e^{-1/u} + e^{-1/(1-u)})
        u = np.clip(1.0 - outside, 1e-300, 1.0)
        v = np.clip(outside, 1e-300, 1.0)
        window = np.where(outside <= 0, 1.0, np.where(outside >= 1, 0.0, 1.0 / (1.0 + np.exp(1.0 / u - 1.0 / v))))
        values = g(s)
    return np.where(window > 0, values * window, 0.0)


def cosine_mean(
    a: Array,
    p: Array,
    b: float,
    g: Callable[[Array], Array],
    method: Fourier,
    want_grad: bool,
    row: int,
) -> tuple[float, float, tuple[float, Array] | None]:
    """E g(b + Σ aⱼ Bⱼ), an estimate of its error, and E g'(S) beside E[g'(S) Bⱼ]/qⱼ."""
    fixed = p == 0
    lo = b + a[fixed].sum() + np.minimum(a[~fixed], 0.0).sum()
    hi = b + a[fixed].sum() + np.maximum(a[~fixed], 0.0).sum()
    width = max(hi - lo, 1e-3 * (1.0 + abs(lo)))
    margin = max(width, 2.0)
    previous = None
    terms = _FIRST_TERMS
    while terms <= 2 * method.max_nodes:
        period = width + 2 * margin
        s = lo - margin + period * np.arange(terms) / terms
        values = _continued(g, s, lo, lo + width, margin)
        if not np.isfinite(values).all():
            if margin > 1e-3 * width:
                margin = margin / 4  # g is not finite so far out; keep closer to where scores can be
                continue
            raise ValueError(
                f"the loss of row {row} is not finite near scores {lo:.6g} … {hi:.6g}, which masks can reach"
            )
        coefficients = np.fft.rfft(values) / terms
        omega = 2 * np.pi * np.arange(len(coefficients)) / period
        weight = np.where((np.arange(len(omega)) == 0) | (np.arange(len(omega)) == terms / 2), 1.0, 2.0)
        factors = np.asarray(p + (1 - p) * np.exp(1j * np.outer(omega, a)), np.complex128)
        phi = np.exp(1j * omega * (b - s[0])) * factors.prod(axis=1)
        parts = weight * coefficients * phi
        answer = float(parts.real.sum())
        scale = float(np.abs(values).max())
        if previous is not None:
            change = abs(answer - previous)
            settled = change <= method.tol * (1.0 + scale)
            if settled or terms == 2 * method.max_nodes:
                tail = float(np.abs(parts[len(parts) * 3 // 4 :]).sum())
                # Rounding: of g and of the sum; of the scores, carried by g's slope; and where all is denormal.
                steepest = float(np.abs(np.diff(values)).max()) * terms / period
                carried = steepest * max(abs(lo), abs(hi))
                error = change + tail + 16 * EPS * (scale + carried) * (1 + len(a)) + terms * _TINY
                return answer, error, _slopes(a, p, omega, weight * coefficients, phi, factors) if want_grad else None
        previous = answer
        terms *= 2
    raise MethodNotApplicable("Fourier", f"row {row} did not settle", "Fourier(max_nodes=...) with more nodes")


def _slopes(
    a: Array,
    p: Array,
    omega: Array,
    coefficients: NDArray[np.complex128],
    phi: NDArray[np.complex128],
    factors: NDArray[np.complex128],
) -> tuple[float, Array]:
    derivative = coefficients * 1j * omega * phi
    shared = float(derivative.real.sum())
    with np.errstate(all="ignore"):
        tilt = np.exp(1j * np.outer(omega, a)) / factors
    per_unit = (derivative[:, None] * np.where(np.isfinite(tilt), tilt, 0.0)).real.sum(axis=0)
    return shared, np.where(p == 0, shared, per_unit)
