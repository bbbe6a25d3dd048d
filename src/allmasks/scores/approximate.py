"""Approximations without an error: second order in the noise, and a Gaussian of the score's two moments.

They claim nothing, where their own moments are beyond all doubles too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import ScoreLoss
from allmasks.scores.links import INVERSE, Link
from allmasks.scores.score import Gradient, Moments, RowResults, ScoreProblem

__all__ = ["delta", "gauss_hermite", "gaussian_link", "gaussian_moments"]

Array = NDArray[np.float64]

_NODES = 64


@np.errstate(invalid="ignore")
def delta(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    """L(μ) + ½ L''(μ) σ² (Wager, Wang & Liang 2013)."""
    mu, var = problem.mean(), problem.variance()
    second = loss.derivative(mu, y, 2)
    penalty = 0.5 * second * var
    gradients: tuple[Gradient, ...] = ()
    if want_grad:
        base = loss.derivative(mu, y, 1) + 0.5 * loss.derivative(mu, y, 3) * var
        gradients = (_gradient(problem, base, second),)
    return _unknown(loss.value(mu, y) + penalty, penalty, gradients)


def gauss_hermite() -> tuple[Array, Array]:
    """Nodes and weights of E f(Z) for standard normal Z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return nodes, weights / weights.sum()


@np.errstate(invalid="ignore")
def gaussian_moments(problem: ScoreProblem, y: Array, loss: ScoreLoss, want_grad: bool) -> RowResults:
    """E L(μ + σ Z), Z standard normal: "fast dropout" (Wang & Manning 2013), by 64 Gauss–Hermite nodes."""
    mu, sd = problem.mean(), np.sqrt(problem.variance())
    nodes, weights = gauss_hermite()
    scores = mu[:, None] + sd[:, None] * nodes
    value = loss.value(scores, y[:, None]) @ weights
    at_mean = loss.value(mu, y)
    gradients: tuple[Gradient, ...] = ()
    if want_grad:
        slopes = loss.derivative(scores, y[:, None], 1)
        base = slopes @ weights
        # Of this very sum: where it is a poor quadrature, E L'' would be the slope of something else. For a narrow
        # Gaussian it is not poor, and dividing by the width would cancel.
        wide = sd > 1e-3
        by_width = slopes @ (weights * nodes) / np.where(wide, sd, 1.0)
        second = np.where(wide, by_width, loss.derivative(scores, y[:, None], 2) @ weights)
        gradients = (_gradient(problem, base, second),)
    return _unknown(value, value - at_mean, gradients)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def gaussian_link(problem: ScoreProblem, link: Link) -> Moments:
    """Mean and variance of link⁻¹(μ + σ Z), without an error."""
    nodes, weights = gauss_hermite()
    values = INVERSE[link](problem.mean()[:, None] + np.sqrt(problem.variance())[:, None] * nodes)
    mean = values @ weights
    unknown = np.full(problem.n, np.nan)
    return Moments(mean, unknown, (values - mean[:, None]) ** 2 @ weights, unknown)


def _gradient(problem: ScoreProblem, base: Array, second: Array) -> Gradient:
    """From E L' and E L'': a kept unit moves the mean by its share and the variance by 2 p a."""

    def slope(rows: slice) -> Array:
        a, columns = problem.entries(rows)
        if problem.is_sparse:
            row_of = np.repeat(np.arange(rows.stop - rows.start), np.diff(problem.X[rows].indptr))
            return second[rows][row_of] * problem.p[columns] * a
        return second[rows][:, None] * problem.p * a

    return problem.gradient(base, slope)


def _unknown(value: Array, penalty: Array, gradients: tuple[Gradient, ...]) -> RowResults:
    nan = np.full(len(value), np.nan)
    return RowResults(value, nan, penalty, nan, "uncontrolled", gradients=gradients)
