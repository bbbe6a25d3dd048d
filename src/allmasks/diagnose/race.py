"""A race's best is picked after looking: what tells a rate from it, and intervals that hold for a selected minimum.

Student's t asks about two rates named beforehand. The leader of nine equal rates is the luckiest of nine: tested one by
one, half of all such races tell some rate apart, and the leader's own interval covers 83 %. Here both are taken from
the law of the whole race, looks on the way included, by simulation with a fixed seed:

- `threshold`: the p-value that one race of equal rates undercuts, anywhere and at any look, with probability 1 − level.
  Each rate's noise is normal; equal spreads are the least favorable (unequal or correlated ones come out below it).
- `chosen_quantiles`: how far the mean of the rate that was picked, and the distances to it, lie from the truth, in
  standard errors. The simulated race has means between those seen and all equal (shrunk by James & Stein 1961, each by
  at most its standard error: Efron & Morris 1972), since the luck in being picked depends on how close the others are.
  Of this law's quantiles and Student's the wider holds on each side; benchmarks/races.py shows what they cover.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from allmasks.replicates import student

__all__ = ["Race", "chosen_quantiles", "measured", "threshold", "told_apart", "unit_of"]

Array = NDArray[np.float64]

_RACES_OF_EQUALS = 40_000
_WORK = 6e8
"""Differences that simulating races of equals may take: of long ones there are fewer."""
_RACES_LIKE_THIS = 2_000
_FEWEST = 200
"""Simulated races in which a rate was behind, from which its own quantiles are taken; else those of all rates."""
_AT_ONCE = 2**22
"""Normal draws held at once."""


class Race:
    """Many races side by side, each rate going on until it is told from the leader. Arrays are (races, rates).

    Parameters
    ----------
    values : (races, rates, seeds) losses.
    alpha : the one-sided p-value below which a rate is told from the leader.
    first_look : seeds after which rates may be stopped; None: never before the end.

    Attributes
    ----------
    n_seeds : seeds that each rate ran. tied : rates not told from the best at any look. best : (races,) its index.
    """

    def __init__(self, values: Array, alpha: float, first_look: int | None) -> None:
        races, rates, seeds = values.shape
        self.n_seeds = np.full((races, rates), seeds)
        running = np.ones((races, rates), np.bool_)
        for k in range(seeds if first_look is None else first_look, seeds):
            stopped = told_apart(values[:, :, :k], running, alpha)
            self.n_seeds[stopped] = k
            running &= ~stopped
        self.tied = running & ~told_apart(values, running, alpha)
        self.best = np.where(running, values.mean(axis=2), np.inf).argmin(axis=1)


def told_apart(values: Array, running: NDArray[np.bool_], alpha: float) -> NDArray[np.bool_]:
    """Running rates whose paired distance to the leader has a one-sided p-value below alpha, (races, rates)."""
    return running & (_above_leader(values, running) > t.isf(alpha, values.shape[2] - 1))


def unit_of(values: Array) -> float:
    """The power of 2 just below the largest of them, nan left out; dividing by it changes no digit of what counts.

    >>> unit_of(np.array([np.nan, -5.0])), unit_of(np.zeros(2))
    (4.0, 1.0)
    """
    largest = float(np.nanmax(np.abs(values)))
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0


def _above_leader(values: Array, running: NDArray[np.bool_]) -> Array:
    """Student's t of each rate's paired distance to its race's leader, (races, rates); −∞ for the leader itself."""
    seeds = values.shape[2]
    leader = np.where(running, values.mean(axis=2), np.inf).argmin(axis=1)
    behind = values - np.take_along_axis(values, leader[:, None, None], axis=1)
    mean, error = _mean_and_error(behind, np.full(values.shape[:2], seeds))
    # Differences that agree to round-off carry no noise to test against: above 0 they are told, at 0 they are not.
    exact = error <= 1e-14 * np.abs(behind).max(axis=2, initial=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(exact, np.where(mean > 0, np.inf, -np.inf), mean / error)
    np.put_along_axis(found, leader[:, None], -np.inf, axis=1)
    return found


@lru_cache(maxsize=64)
def threshold(rates: int, seeds: int, first_look: int | None, level: float) -> float:
    """The p-value below which a rate is told from the leader: a race of equals undercuts it with probability 1 − level.

    >>> threshold(9, 10, None, 0.95) < 0.05 / 9
    True
    """
    rng = np.random.default_rng(0)
    smallest = []
    looks = [*range(seeds if first_look is None else first_look, seeds), seeds]
    races = min(_RACES_OF_EQUALS, max(2_000, int(_WORK / (rates * sum(looks)))))
    step = max(1, min(races, _AT_ONCE // (rates * seeds)))
    for lo in range(0, races, step):
        values = rng.normal(size=(min(step, races - lo), rates, seeds))
        all_run = np.ones(values.shape[:2], np.bool_)
        furthest = ((k, _above_leader(values[:, :, :k], all_run).max(axis=1)) for k in looks)
        smallest.append(np.min([t.sf(far, k - 1) for k, far in furthest], axis=0))
    found = np.sort(np.concatenate(smallest))
    # The simulation knows the quantile to its own noise: its lower confidence limit keeps the promise.
    share = 1 - level
    rank = len(found) * share - 3 * np.sqrt(len(found) * share * level)
    return float(found[max(int(rank) - 1, 0)])


def measured(values: Array, n_seeds: NDArray[np.int64], best: int) -> tuple[Array, Array, Array, Array]:
    """Mean and standard error of each rate, then of its paired distance to the best, over the seeds that it ran."""
    found = _moments(values[None], n_seeds[None], np.array([best]))
    return found[0][0], found[1][0], found[2][0], found[3][0]


def chosen_quantiles(
    values: Array, n_seeds: NDArray[np.int64], best: int, alpha: float, first_look: int | None, level: float
) -> tuple[Array, Array]:
    """Quantiles of (estimate − truth) / error: (2,) for the best rate's mean, (rates, 2) for distances to it.

    Parameters
    ----------
    values : (rates, seeds), nan where a rate was stopped. n_seeds : (rates,) seeds that each ran.
    best : index of the rate that was picked. alpha, first_look : as the race was run.
    """
    rates, seeds = values.shape
    by_seeds = np.array([_wider(np.zeros(2), level, int(k)) for k in n_seeds])
    if rates == 1:
        return by_seeds[best], np.zeros((1, 2))
    mean, own, shared = _noise(values, n_seeds)
    if own <= (1e-14 * np.nanmax(np.abs(values))) ** 2:
        return by_seeds[best], by_seeds  # no noise of its own, no luck in being picked
    center = _between(mean, own / n_seeds)
    rng = np.random.default_rng(0)
    of_picked: list[Array] = []
    of_others: list[Array] = []
    step = max(1, min(_RACES_LIKE_THIS, _AT_ONCE // (rates * seeds)))
    for lo in range(0, _RACES_LIKE_THIS, step):
        count = min(step, _RACES_LIKE_THIS - lo)
        drawn = np.sqrt(shared) * rng.normal(size=(count, 1, seeds)) + np.sqrt(own) * rng.normal(
            size=(count, rates, seeds)
        )
        drawn += center[:, None]
        race = Race(drawn, alpha, first_look)
        m, e, behind, behind_error = _moments(drawn, race.n_seeds, race.best)
        row = np.arange(count)
        truth = center - center[race.best][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            distances = np.where(behind_error > 0, (behind - truth) / behind_error, np.nan)
            picked = (m[row, race.best] - center[race.best]) / e[row, race.best]
        distances[row, race.best] = np.nan
        of_picked.append(picked)
        of_others.append(distances)
    ends = [(1 - level) / 2, (1 + level) / 2]
    distances = np.concatenate(of_others)
    of_best = np.nanquantile(np.concatenate(of_picked), ends)
    of_distances = np.zeros((rates, 2))
    for i in range(rates):
        if i != best:
            here = distances[:, i] if np.isfinite(distances[:, i]).sum() >= _FEWEST else distances
            of_distances[i] = _wider(np.nanquantile(here, ends), level, int(n_seeds[i]))
    return _wider(of_best, level, int(n_seeds[best])), of_distances


def _wider(ends: Array, level: float, seeds: int) -> Array:
    reach = student(level, seeds)
    return np.array([min(ends[0], -reach), max(ends[1], reach)])


def _mean_and_error(values: Array, n_seeds: NDArray[np.int64]) -> tuple[Array, Array]:
    """Over the first `n_seeds` (races, rates) of the last axis."""
    ran = np.arange(values.shape[2]) < n_seeds[..., None]
    mean = np.where(ran, values, 0.0).sum(axis=2) / n_seeds
    squares = np.where(ran, (values - mean[..., None]) ** 2, 0.0).sum(axis=2)
    return mean, np.sqrt(squares / ((n_seeds - 1) * n_seeds))


def _moments(values: Array, n_seeds: NDArray[np.int64], best: NDArray[np.int64]) -> tuple[Array, Array, Array, Array]:
    behind = values - np.take_along_axis(values, best[:, None, None], axis=1)
    return (*_mean_and_error(values, n_seeds), *_mean_and_error(behind, n_seeds))


def _noise(values: Array, n_seeds: NDArray[np.int64]) -> tuple[Array, float, float]:
    """Means, and the variances of a seed's noise: a rate's own, and what all rates share (two-way analysis)."""
    seeds = values.shape[1]
    mean = np.array([row[:k].mean() for row, k in zip(values, n_seeds, strict=True)])
    whole = values[n_seeds == seeds]
    if len(whole) < 2:
        whole = values[:, : int(n_seeds.min())]
    centered = whole - whole.mean(axis=1, keepdims=True)
    of_seed = centered.mean(axis=0)
    rows, columns = whole.shape
    own = float(((centered - of_seed) ** 2).sum() / ((rows - 1) * (columns - 1)))
    return mean, own, max(0.0, float(of_seed.var(ddof=1)) - own / rows)


def _between(mean: Array, variance: Array) -> Array:
    """Means drawn towards their own mean by James & Stein's factor, each by at most its standard error."""
    squares = float(((mean - mean.mean()) ** 2).sum())
    freedom = max(len(mean) - 3, 1)
    factor = max(0.0, 1.0 - freedom * float(variance.mean()) / squares) if squares > 0 else 0.0
    pull = (factor - 1.0) * (mean - mean.mean())
    return mean + np.clip(pull, -np.sqrt(variance), np.sqrt(variance))
