"""The truth for scores: every mask listed in extended precision, with nothing of the library."""

from __future__ import annotations

from dataclasses import dataclass

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
