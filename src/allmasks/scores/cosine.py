"""Any smooth function of a score, by its trigonometric series and the score's characteristic function.

g is sampled on the interval that holds every possible score, continued smoothly to 0 beyond it, and expanded as
g(s) = Σ_n c_n e^{iω_n s}; then E g(S) = Σ_n c_n φ(ω_n). Terms are doubled until the answer settles *and* the series is
g where it was not sampled: at scores that masks really give, all of them or a few drawn at random, and on a second,
finer grid whose points never meet those of the first. Agreement of two series alone proves nothing: what one aliases,
so may the next. What the series is off by at those points is part of the error; where it is off by much, the masks are
listed instead, or, if they are too many, the error is unknown. All that is an estimate and no proof: a bump between
all of these points is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.losses import ScoreLoss
from allmasks.scores.characteristic import Rule
from allmasks.scores.every_mask import all_scores, enumerate_loss, probabilities
from allmasks.scores.score import EPS, RowResults, ScoreProblem
from allmasks.scores.series import Series, continued

__all__ = ["cosine_loss"]

Array = NDArray[np.float64]

_FIRST_TERMS = 256
_TINY = float(np.finfo(np.float64).tiny)
"""Below this, rounding is no longer relative."""

_SPOTS = 512
"""Masks drawn for the check, where not all are taken; the same for every row, so that no row depends on the others."""

_EVERY_BITS = 12
"""Up to this many units the series is checked at every score there is."""

_SPOT_ELEMENTS = 2**22

_LISTED_BITS = 16
"""Up to this many units are listed where the series does not hold."""

_COARSE = 0.01
"""Of the size of g, the misfit from which on the series says nothing about it."""


@dataclass(frozen=True)
class _Row:
    """E g(S) of one row; its estimated error; what the series is off by where it was tried; how large g is there."""

    value: float
    error: float
    misfit: float
    size: float
    settled: bool
    slopes: tuple[float, Array] | None

    @property
    def coarse(self) -> bool:
        return not self.settled and not self.misfit <= _COARSE * self.size


def cosine_loss(problem: ScoreProblem, y: Array, loss: ScoreLoss, rule: Rule, want_grad: bool) -> RowResults:
    """E g(S, y) for each row, with an estimated error."""
    n = problem.n
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((n, problem.d)) if want_grad else None
    mean_slope = np.zeros(n)
    kept = _drawn_masks(problem.p)
    listed, unknown = [], []
    for i in range(n):
        a = problem.contributions(slice(i, i + 1))[0]
        target = partial(_loss_at, loss, float(y[i]))
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is looked for
            row = _mean_of_row(a, problem.p, problem.intercept, target, rule, want_grad, i, kept)
        value[i], error[i] = row.value, row.error
        if slopes is not None and row.slopes is not None:
            if row.coarse:
                raise MethodNotApplicable(
                    "Fourier",
                    f"the loss of row {i} changes faster than its series resolves, so that its gradient would be wrong",
                    "Fourier(max_nodes=...) with more nodes, or a named loss",
                )
            mean_slope[i], slopes[i] = row.slopes
        elif not row.settled and np.count_nonzero((a != 0) & (problem.p > 0)) <= _LISTED_BITS:
            alone = ScoreProblem(problem.weights, problem.X[i : i + 1], problem.p, problem.intercept, np.ones(1))
            every = enumerate_loss(alone, y[i : i + 1], loss, 2**_LISTED_BITS, False)
            value[i], error[i] = every.value[0], every.error[0]
            listed.append(i)
        elif row.coarse:
            error[i] = np.nan
            unknown.append(i)
    at_mean = loss.value(problem.mean(), y)
    notes = []
    if listed:
        notes.append(f"the series of {_rows(listed)} did not settle; all masks were listed instead")
    if unknown:
        notes.append(
            f"the loss of {_rows(unknown)} changes faster than its series resolves: the error is unknown; MonteCarlo() "
            "gives one"
        )
    return RowResults(
        value,
        error,
        value - at_mean,
        error + 4 * EPS * np.abs(at_mean),
        "uncontrolled" if unknown else "estimated",
        gradients=() if slopes is None else (problem.gradient_of(slopes, mean_slope),),
        notes=tuple(notes),
    )


def _rows(numbers: list[int]) -> str:
    return f"row {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} rows, the first of them {numbers[0]},"


def _loss_at(loss: ScoreLoss, target: float, s: Array) -> Array:
    return loss.value(s, np.full_like(s, target))


def _drawn_masks(p: Array) -> Array:
    """Masks at random, (masks, d), 0 and 1: as many as fit in a bounded table."""
    n_masks = int(np.clip(_SPOT_ELEMENTS // max(len(p), 1), 32, _SPOTS))
    return (np.random.default_rng(0).random((n_masks, len(p))) >= p).astype(np.float64)


def _spots(a: Array, p: Array, b: float, kept: Array) -> tuple[Array, Array]:
    """Scores of one row and how likely each is: all of them where they are few, else those of the masks drawn."""
    moving = (a != 0) & (p > 0)
    if np.count_nonzero(moving) > _EVERY_BITS:
        return b + kept @ a, np.full(len(kept), 1.0 / len(kept))
    start = np.array([b + a[~moving & (p == 0)].sum()])
    return all_scores(a[None, moving], start)[0], probabilities(p[moving])


def _mean_of_row(
    a: Array,
    p: Array,
    b: float,
    g: Callable[[Array], Array],
    rule: Rule,
    want_grad: bool,
    row: int,
    kept: Array,
) -> _Row:
    """E g(b + Σ aⱼ Bⱼ), an estimate of its error, and E g'(S) beside E[g'(S) Bⱼ]/qⱼ."""
    fixed = p == 0
    lo = b + a[fixed].sum() + np.minimum(a[~fixed], 0.0).sum()
    hi = b + a[fixed].sum() + np.maximum(a[~fixed], 0.0).sum()
    width = max(hi - lo, 1e-3 * (1.0 + abs(lo)))
    if not 8 * width < 1e300:
        raise MethodNotApplicable("Fourier", f"the scores of row {row} spread too far", "Enumeration() or MonteCarlo()")
    margin = max(width, 2.0)
    spots, chances = _spots(a, p, b, kept)
    spots = np.clip(spots, lo, hi)
    previous = None
    terms = _FIRST_TERMS
    while terms <= 2 * rule.max_nodes:
        period = width + 2 * margin
        s = lo - margin + period * np.arange(terms) / terms
        values = continued(g, s, lo, lo + width, margin)
        if not np.isfinite(values).all():
            if margin > 1e-3 * width:
                margin = margin / 4  # g is not finite so far out; keep closer to where scores can be
                continue
            raise ValueError(
                f"the loss of row {row} is not finite near scores {lo:.6g} … {hi:.6g}, which masks can reach"
            )
        series = Series.of(values, s[0], period)
        factors = np.asarray(p + (1 - p) * np.exp(1j * np.outer(series.omega, a)), np.complex128)
        phi = np.exp(1j * series.omega * (b - s[0])) * factors.prod(axis=1)
        parts = series.coefficients * phi
        answer = float(parts.real.sum())
        scale = float(np.abs(values).max())
        change = np.inf if previous is None else abs(answer - previous)
        last = terms == 2 * rule.max_nodes
        if change <= rule.tol * (1.0 + scale) or last:
            # Rounding: of g and of the sum; of the scores, carried by g's slope; and where all is denormal.
            steepest = float(np.abs(np.diff(values)).max()) * terms / period
            rounding = 16 * EPS * (scale + steepest * max(abs(lo), abs(hi))) * (1 + len(a)) + terms * _TINY
            off, misfit, size = series.misfit(g, spots, lo, hi)
            # Where g overflows, so does its series.
            misfit = misfit if np.isfinite(answer + rounding) else np.inf
            settled = misfit <= 100 * rule.tol * (1.0 + scale) + rounding < np.inf
            if settled or last:
                tail = float(np.abs(parts[len(parts) * 3 // 4 :]).sum())
                slopes = _slopes(a, p, series.omega, series.coefficients, phi, factors) if want_grad else None
                error = change + tail + misfit + rounding + rule.tol * (1.0 + size)
                return _Row(answer - float(chances @ off) * (not settled), error, misfit, size, settled, slopes)
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
