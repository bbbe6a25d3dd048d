"""The truth of dropped-out scores: every mask listed, in extended precision, and in as many digits as wanted.

The first is quick, and knows how far off it may be; the second (mpmath) is asked before anything is called a fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np

LONG = np.longdouble
ULP = LONG(np.finfo(LONG).eps)


@dataclass(frozen=True)
class Function:
    """A loss L(s, y), in NumPy of any precision and in mpmath; its derivative, and the sizes of the parts of both."""

    value: Callable[[Any, Any], Any]
    slope: Callable[[Any, Any], Any] | None
    size: Callable[[Any, Any], Any]
    slope_size: Callable[[Any, Any], Any] | None
    exactly: Callable[[Any, Any], Any]


def sigmoid(s: Any) -> Any:
    e = np.exp(-np.abs(s))
    return np.where(s >= 0, 1 / (1 + e), e / (1 + e))


def softplus(s: Any) -> Any:
    return np.maximum(s, 0) + np.log1p(np.exp(-np.abs(s)))


def m_softplus(s: Any) -> Any:
    return max(s, 0) + mpmath.log1p(mpmath.exp(-abs(s)))


NAMED = {
    "squared_error": Function(
        lambda s, y: (s - y) ** 2,
        lambda s, y: 2 * (s - y),
        lambda s, y: (np.abs(s) + np.abs(y)) ** 2,
        lambda s, y: 2 * (np.abs(s) + np.abs(y)),
        lambda s, y: (s - y) ** 2,
    ),
    "logistic": Function(
        # softplus(s) − y s without the difference of large numbers
        lambda s, y: np.where(s > 0, (1 - y) * s, -y * s) + np.log1p(np.exp(-np.abs(s))),
        lambda s, y: sigmoid(s) - y,
        lambda s, y: softplus(s) + np.abs(y * s),
        lambda s, y: sigmoid(s) + np.abs(y),
        lambda s, y: m_softplus(s) - y * s,
    ),
    "poisson": Function(
        lambda s, y: np.exp(s) - y * s,
        lambda s, y: np.exp(s) - y,
        lambda s, y: np.exp(s) + np.abs(y * s),
        lambda s, y: np.exp(s) + np.abs(y),
        lambda s, y: mpmath.exp(s) - y * s,
    ),
    "exponential": Function(
        lambda s, y: np.exp(-y * s),
        lambda s, y: -y * np.exp(-y * s),
        lambda s, y: np.exp(-y * s),
        lambda s, y: np.exp(-y * s),
        lambda s, y: mpmath.exp(-y * s),
    ),
}


def _one(s: Any, y: Any) -> Any:
    return np.ones_like(s)


CALLABLES: dict[str, tuple[Any, Function]] = {
    "np.cos": (np.cos, Function(lambda s, y: np.cos(s), None, _one, None, lambda s, y: mpmath.cos(s))),
    "lambda s: np.exp(-s * s / 2)": (
        lambda s: np.exp(-s * s / 2),
        Function(lambda s, y: np.exp(-s * s / 2), None, _one, None, lambda s, y: mpmath.exp(-s * s / 2)),
    ),
    "lambda s, y: np.tanh(s - y) ** 2": (
        lambda s, y: np.tanh(s - y) ** 2,
        Function(lambda s, y: np.tanh(s - y) ** 2, None, _one, None, lambda s, y: mpmath.tanh(s - y) ** 2),
    ),
    "lambda s, y: np.logaddexp(0, 3 * (s - y))": (
        lambda s, y: np.logaddexp(0, 3 * (s - y)),
        Function(
            lambda s, y: softplus(3 * (s - y)),
            None,
            lambda s, y: 1 + 3 * np.abs(s - y),
            None,
            lambda s, y: m_softplus(3 * (s - y)),
        ),
    ),
    "lambda s: 1 / (1 + 25 * s * s)": (
        lambda s: 1 / (1 + 25 * s * s),
        Function(lambda s, y: 1 / (1 + 25 * s * s), None, _one, None, lambda s, y: 1 / (1 + 25 * s * s)),
    ),
}

LINKS = {
    "identity": (lambda s: s, lambda s: s),
    "logistic": (sigmoid, lambda s: 1 / (1 + mpmath.exp(-s))),
    "log": (np.exp, mpmath.exp),
}


def listed(w: Any, X: Any, p: Any, b: float) -> tuple[Any, Any, Any]:
    """Scores (n, 2^d) in extended precision, probabilities (2^d,) of the masks and |b| + Σ|aⱼ|, (n,)."""
    w, X, p = (np.asarray(v, LONG) for v in (w, X, p))
    a = w * X / (1 - p)
    scores, weight = np.full((len(X), 1), LONG(b)), np.ones(1, LONG)
    for j in range(X.shape[1]):
        scores = np.concatenate([scores, scores + a[:, j : j + 1]], axis=1)
        weight = np.concatenate([weight * p[j], weight * (1 - p[j])])
    return scores, weight, np.abs(a).sum(axis=1) + abs(LONG(b))


def kept_mean(values: Any, weight: Any, p: Any) -> Any:
    """E[v m_j] / (1 − pⱼ), (n, d), of values v (n, 2^d)."""
    weighted = values * weight
    columns = [
        weighted.reshape(len(values), -1, 2, 2**j)[:, :, 1].sum(axis=(1, 2)) / (1 - LONG(rate))
        for j, rate in enumerate(p)
    ]
    return np.stack(columns, axis=1) if columns else np.zeros((len(values), 0), LONG)


def exactly(
    function: Callable[[Any, Any], Any], w: Any, x: Any, p: Any, b: float, y: float, digits: int
) -> tuple[Any, Any]:
    """Mean and variance over masks of function(S, y) of one row, in so many digits."""
    with mpmath.workdps(digits):
        masks = [(mpmath.mpf(b), mpmath.mpf(1))]
        for wj, xj, pj in zip(w, x, p, strict=True):
            a = mpmath.mpf(float(wj)) * mpmath.mpf(float(xj)) / (1 - mpmath.mpf(float(pj)))
            if a == 0:
                continue
            q = 1 - mpmath.mpf(float(pj))
            kept = [(s + a, weight * q) for s, weight in masks]
            masks = kept if pj == 0 else [(s, weight * (1 - q)) for s, weight in masks] + kept
        target = mpmath.mpf(float(y))
        values = [(function(s, target), weight) for s, weight in masks]
        mean = mpmath.fsum(v * weight for v, weight in values)
        return mean, mpmath.fsum((v - mean) ** 2 * weight for v, weight in values)


def penalty_exactly(
    function: Callable[[Any, Any], Any], w: Any, x: Any, p: Any, b: float, y: float, digits: int
) -> Any:
    """E L(S, y) − L(E S, y) of one row, in so many digits."""
    mean, _ = exactly(function, w, x, p, b, y, digits)
    with mpmath.workdps(digits):
        mu = mpmath.mpf(b) + mpmath.fsum(mpmath.mpf(float(u)) * mpmath.mpf(float(v)) for u, v in zip(w, x, strict=True))
        return mean - function(mu, mpmath.mpf(float(y)))


def as_long(number: Any) -> Any:
    """An mpmath number to extended precision: infinity where it is larger than that has, 0 where it is smaller."""
    number = mpmath.mpf(number)
    if not number or not mpmath.isfinite(number):
        return LONG(float(number))
    magnitude = mpmath.mag(number)  # asked first: the decimal digits of e^(10^300) would never end
    if magnitude > 16000:
        return LONG(np.inf) * (1 if number > 0 else -1)
    if magnitude < -16000:
        return LONG(0)
    with mpmath.workdps(30):
        return LONG(mpmath.nstr(number, 25))
