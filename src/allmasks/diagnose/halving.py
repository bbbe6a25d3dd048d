"""Successive halving with paired seeds: which arms go on, and which an interval excludes.

All arms run a few seeds, the better half twice as many, and so on (Jamieson & Talwalkar 2016). To be overtaken is not
to be excluded: an arm is excluded only where its paired distance to a leader is surely above 0. With two or three seeds
an arm's own variance says little, so it is drawn towards that of the other arms' distances (moderated t: Smyth 2004).
Each test has the level (1 − level) / ((arms − 1) · rungs): the truly best arm is excluded, by whichever leader at
whichever rung, with probability at most 1 − level (for normal noise).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import t

__all__ = ["excluded", "moderated", "rungs"]

Array = NDArray[np.float64]


def rungs(first: int, seeds: int) -> list[int]:
    """Seeds of each rung: doubled until they end.

    >>> rungs(3, 30)
    [3, 6, 12, 24, 30]
    """
    found = [min(first, seeds)]
    while found[-1] < seeds:
        found.append(min(2 * found[-1], seeds))
    return found


def excluded(values: Array, among: NDArray[np.bool_], alpha: float) -> NDArray[np.bool_]:
    """Arms whose distance to the leader has a one-sided p-value below alpha, (arms,).

    Parameters
    ----------
    values : (arms, seeds), whole for the arms in `among`, of which there is one leader.
    """
    found = np.zeros(len(values), np.bool_)
    where = np.flatnonzero(among)
    if len(where) < 2 or values.shape[1] < 2:
        return found
    rows = values[where]
    leader = int(rows.mean(axis=1).argmin())
    behind = np.delete(rows - rows[leader], leader, axis=0)
    n = values.shape[1]
    # Differences that agree to round-off carry no noise: above 0 they are told, at 0 they are not.
    spread, size = behind.var(axis=1, ddof=1), np.abs(behind).max(axis=1)
    exact = np.sqrt(spread) <= 1e-14 * size
    variance, freedom = moderated(spread[~exact], n - 1) if (~exact).any() else (np.zeros(0), 1.0)
    told = behind.mean(axis=1) > 0
    told[~exact] &= t.sf(behind[~exact].mean(axis=1) / np.sqrt(variance / n), freedom) < alpha
    found[np.delete(where, leader)] = told
    return found


def moderated(variance: Array, freedom: int) -> tuple[Array, float]:
    """Variances drawn towards what they have in common, and their degrees of freedom then (Smyth 2004).

    >>> drawn, freedom = moderated(np.array([0.5, 1.0, 2.0, 1.5, 0.8]), 2)
    >>> bool(drawn.max() / drawn.min() < 1.01), freedom
    (True, inf)
    """
    if len(variance) < 3:
        return variance, float(freedom)
    half = freedom / 2
    logs = np.log(variance) - digamma(half) + np.log(half)
    left = float(logs.var(ddof=1) - polygamma(1, half))
    if left <= 1e-8:
        return np.full(len(variance), np.exp(logs.mean())), np.inf
    prior = 2 * brentq(lambda h: polygamma(1, h) - left, 1e-8, 1e9)
    common = np.exp(logs.mean() + digamma(prior / 2) - np.log(prior / 2))
    return (prior * common + freedom * variance) / (prior + freedom), prior + freedom
