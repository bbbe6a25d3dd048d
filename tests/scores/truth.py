"""The truth for scores, with nothing of the library: every mask listed, in extended precision or in mpmath's.

`logistic` and `mean_over_masks` are quick and hold 64 bits; `exact_loss` and `exact_moments` are slow and hold any
magnitude there is, e^(10^300) too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest

LONG = np.longdouble

needs_extended = pytest.mark.skipif(
    np.finfo(LONG).eps > 1e-18, reason="this platform's long double is a double: no extended precision to compare with"
)

_FAR = 64.0
"""Beyond this |S|, e^-|S| is below extended precision beside anything it is added to."""


@dataclass
class LogisticTruth:
    """For each row: E log(1 + e^S), E σ(S), Var σ(S), max |S|, and E[σ(S) mⱼ] / qⱼ, all in extended precision."""

    softplus: np.ndarray
    sigma: np.ndarray
    variance: np.ndarray
    largest: np.ndarray
    kept: np.ndarray


def contributions(w, x, p) -> np.ndarray:
    """wⱼ xⱼ / (1 − pⱼ) in extended precision."""
    return np.asarray(w, LONG) * np.asarray(x, LONG) / (1 - np.asarray(p, LONG))


def probabilities(p) -> np.ndarray:
    """P(mask number) of every mask, unit j being bit j."""
    weight = np.ones(1, LONG)
    for rate in np.asarray(p, LONG):
        weight = np.concatenate([weight * rate, weight * (1 - rate)])
    return weight


def scores(a, b=0.0) -> np.ndarray:
    """S under every mask of one row of contributions."""
    s = np.full(1, b, LONG)
    for step in a:
        s = np.concatenate([s, s + step])
    return s


def mean_over_masks(function, w, x, p, b=0.0):
    """E function(S) of one row, in extended precision."""
    return (probabilities(p) * function(scores(contributions(w, x, p), b))).sum()


def logistic(w, X, p, b=0.0) -> LogisticTruth:
    """Every moment of the logistic loss, row by row."""
    X = np.atleast_2d(np.asarray(X, np.float64))
    p = np.broadcast_to(np.asarray(p, np.float64), X.shape[1:])
    weight = probabilities(p)
    rows = [_row(contributions(w, x, p), p, b, weight) for x in X]
    return LogisticTruth(*(np.array(column) for column in zip(*rows, strict=True)))


def _row(a, p, b, weight):
    s = scores(a, b)
    far = np.abs(s) > _FAR
    e = np.zeros(len(s), LONG)
    e[~far] = np.exp(-np.abs(s[~far]))
    softplus = np.maximum(s, 0) + np.where(far, 0, np.log1p(e))
    sigma = np.where(s >= 0, 1, e) / (1 + e)
    weighted = weight * sigma
    mean = weighted.sum()
    variance = (weight * (sigma - mean) ** 2).sum()
    kept = [weighted.reshape(-1, 2, 2**j)[:, 1].sum() / (1 - LONG(rate)) for j, rate in enumerate(p)]
    return (weight * softplus).sum(), mean, variance, np.abs(s).max(), np.array(kept, LONG)


DIGITS = 60

Function = Callable[[Any], Any]


def softplus(s):
    """log(1 + e^s) of any s."""
    return s + mpmath.log1p(mpmath.exp(-s)) if s > 0 else mpmath.log1p(mpmath.exp(s))


def sigmoid(s):
    """1 / (1 + e^−s) of any s."""
    return 1 / (1 + mpmath.exp(-s))


EXACT_LOSSES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "squared_error": (lambda s, y: (s - y) ** 2, lambda s, y: 2 * (s - y)),
    "logistic": (lambda s, y: softplus(s) - y * s, lambda s, y: sigmoid(s) - y),
    "poisson": (lambda s, y: mpmath.exp(s) - y * s, lambda s, y: mpmath.exp(s) - y),
    "exponential": (lambda s, y: mpmath.exp(-y * s), lambda s, y: -y * mpmath.exp(-y * s)),
}
"""Value and derivative in the score, in mpmath."""

EXACT_LINKS: dict[str, Function] = {"identity": lambda s: s, "logistic": sigmoid, "log": mpmath.exp}


@dataclass
class ExactLoss:
    """Of one row: E L, L at the mean mask, E L', and E[L' mⱼ] / qⱼ for each unit, in mpmath's numbers.

    The row's gradient is xⱼ keptⱼ in the weights, wⱼ keptⱼ in x and `slope` in the intercept.
    """

    value: Any
    at_mean: Any
    slope: Any
    kept: list[Any]


def every_mask(w, x, p, b=0.0) -> Iterator[tuple[Any, Any, int]]:
    """Probability, score and number of every mask of one row, unit j being bit j; call it under `mpmath.workdps`."""
    mp = mpmath.mpf
    p = np.broadcast_to(p, np.shape(w))
    a = [mp(float(u)) * mp(float(v)) / (1 - mp(float(q))) for u, v, q in zip(w, x, p, strict=True)]
    states = [(mp(1), mp(float(b)), 0)]
    for j, (step, rate) in enumerate(zip(a, p, strict=True)):
        rate = mp(float(rate))
        kept = [(weight * (1 - rate), s + step, mask | 1 << j) for weight, s, mask in states]
        states = kept if rate == 0 else [(weight * rate, s, mask) for weight, s, mask in states] + kept
    yield from states


def exact_loss(w, x, p, b, y, loss, derivative=None, digits=DIGITS) -> ExactLoss:
    """Value and gradient of one row's mean loss; `loss` is a name, or a function of (s, y) with its derivative."""
    value, slope = EXACT_LOSSES[loss] if isinstance(loss, str) else (loss, derivative or (lambda s, y: mpmath.nan))
    with mpmath.workdps(digits):
        y = mpmath.mpf(float(y))
        mean = total = mpmath.mpf(0)
        kept = [mpmath.mpf(0)] * len(w)
        for weight, s, mask in every_mask(w, x, p, b):
            mean += weight * value(s, y)
            here = weight * slope(s, y)
            total += here
            kept = [k + here if mask >> j & 1 else k for j, k in enumerate(kept)]
        kept = [
            k / (1 - mpmath.mpf(float(rate))) for k, rate in zip(kept, np.broadcast_to(p, np.shape(w)), strict=True)
        ]
        mu = mpmath.mpf(float(b)) + sum(mpmath.mpf(float(u)) * mpmath.mpf(float(v)) for u, v in zip(w, x, strict=True))
        return ExactLoss(mean, value(mu, y), total, kept)


def exact_moments(w, x, p, b, function, digits=DIGITS) -> tuple[Any, Any]:
    """Mean and variance of function(S) of one row; `function` is a link's name or a function in mpmath."""
    f = EXACT_LINKS[function] if isinstance(function, str) else function
    with mpmath.workdps(digits):
        values = [(weight, f(s)) for weight, s, _ in every_mask(w, x, p, b)]
        mean = sum(weight * v for weight, v in values)
        return mean, sum(weight * (v - mean) ** 2 for weight, v in values)


def apart(got, exact) -> Any:
    """|got − exact| of a double and an mpmath number; 0 where both are beyond the largest double, NaN for NaN."""
    got = float(got)
    if np.isnan(got):
        return mpmath.nan
    if np.isinf(got):
        return mpmath.mpf(0) if float(exact) == got else mpmath.inf
    with mpmath.workdps(DIGITS):
        return abs(mpmath.mpf(got) - exact)
