"""Which p? The leave-one-out curve of a linear model in closed form, and a race of rates for any training function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.diagnose.audit import Audit
from allmasks.diagnose.paired import check_level, seed_numbers
from allmasks.diagnose.race import chosen_quantiles, measured, threshold, told_apart, unit_of
from allmasks.diagnose.site_rates import RateRace, race_sites
from allmasks.linear_model.centered import Centered, second_moments
from allmasks.linear_model.checks import check_number
from allmasks.linear_model.rate_path import rate_path
from allmasks.masks import check_p
from allmasks.replicates import half_width, standard_error
from allmasks.results import Result, with_error
from allmasks.trials import Trials, identity, run_trials, where_raised

__all__ = ["LinearRateCurve", "RateCurve", "linear_rate_curve", "rate_curve"]

Array = NDArray[np.float64]

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

_LARGEST = 1e150

_REFITS = 1e9
"""Multiplications that refitting may take."""


@dataclass(frozen=True)
class LinearRateCurve(Result):
    """Leave-one-out error of dropout ridge over p; arrays are (rates,).

    Attributes
    ----------
    p : the rates.
    error, error_se : mean squared leave-one-out error, and its standard error over examples. At p = 0 without alpha an
        example may alone fix a coefficient, where the closed form is 0/0: the fit is then repeated without it, or,
        where that is too much work, the error is infinite: not known, and never the best.
    best_p : where it is smallest.
    one_se_p : the largest rate no further from the best than one standard error of the paired difference.
    degrees_of_freedom : trace of the hat matrix, the intercept included.
    """

    p: Array
    error: Array
    error_se: Array
    best_p: float
    one_se_p: float
    degrees_of_freedom: Array


def linear_rate_curve(X: ArrayLike, y: ArrayLike, *, p: ArrayLike = RATES, alpha: float = 0.0) -> LinearRateCurve:
    """The exact leave-one-out curve over p of squared loss with input dropout, from one factorisation for all rates.

    Minimizing E_m Σᵢ (Sᵢ − yᵢ)² + α‖w‖² is ridge with penalty λ D + α I, λ = p/(1−p), D = diag(Σᵢ xᵢⱼ²) of the raw
    X; with D held fixed the residual of example i left out is (yᵢ − ŷᵢ) / (1 − Hᵢᵢ), H the hat matrix (Allen's PRESS).

    Parameters
    ----------
    X : (n, d). y : (n,). p : rates in [0, 1). alpha : an L2 penalty beside dropout.

    Raises
    ------
    ValueError : shapes that do not fit, fewer than 2 rows, values that are not finite or whose squares are not, a rate
        outside [0, 1).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> curve = linear_rate_curve(*load_diabetes(return_X_y=True), p=[0.0, 0.01, 0.5])
    >>> curve.best_p
    0.01
    """
    rows, target = np.asarray(X, np.float64), np.asarray(y, np.float64)
    rates = np.atleast_1d(check_p(p))
    if rows.ndim != 2 or target.shape != (len(rows),):
        raise ValueError(f"X must be (n, d) and y (n,), got {rows.shape} and {target.shape}")
    if not (np.isfinite(rows).all() and np.isfinite(target).all()):
        raise ValueError("X and y must be finite; remove or impute those examples")
    n, strengths = len(rows), rates / (1.0 - rates)
    if n < 2:
        raise ValueError(f"leaving one out needs another: give at least 2 rows, got {n}")
    if np.abs(target).max() > _LARGEST:
        raise ValueError(f"y reaches {np.abs(target).max():.3g}: its squared errors overflow; give it in other units")
    alpha = check_number("alpha", alpha, lowest=0.0)
    # Units that are powers of 2 change no digit, and keep the squares of very large or small inputs finite.
    unit = 2.0 ** round(math.log2(largest)) if (largest := float(np.abs(rows).max(initial=0.0))) > 0 else 1.0
    rows, alpha = rows / unit, alpha / unit / unit
    data = Centered.of(rows, target[:, None], np.ones(n), center=True)
    moments = second_moments(rows)
    path = rate_path(data, moments, alpha)
    squared = path.left_out(strengths, center=True).T
    unknown = np.argwhere(np.isinf(squared))
    if len(unknown) * rows.size * min(rows.shape) <= _REFITS:
        for rate, example in unknown:
            squared[rate, example] = _really_left_out(rows, target, moments, int(example))
    freedom = path.degrees_of_freedom(strengths, center=True)
    error = squared.mean(axis=1)
    best = int(error.argmin())
    known = np.isfinite(error)
    error_se, close = np.full(len(rates), np.nan), np.arange(len(rates)) == best
    error_se[known] = standard_error(squared[known].T)
    if known[best]:
        difference = squared[known] - squared[best]
        close[known] = difference.mean(axis=1) <= standard_error(difference.T)
    return LinearRateCurve(
        p=rates,
        error=error,
        error_se=error_se,
        best_p=float(rates[best]),
        one_se_p=float(rates[close].max()),
        degrees_of_freedom=freedom,
    )


def _really_left_out(X: Array, y: Array, moments: Array, example: int) -> float:
    """Squared error of an example under the fit without it, as p → 0.

    An example that alone fixes a coefficient has leverage 1 there, where the closed form is 0/0. Of the solutions
    without it, the limit is the one of least Σⱼ wⱼ² Σᵢ xᵢⱼ².
    """
    others = np.arange(len(X)) != example
    scale = np.where(moments > 0, 1.0 / np.sqrt(np.where(moments > 0, moments, 1.0)), 0.0)
    center, level = X[others].mean(axis=0), y[others].mean()
    w = np.linalg.lstsq((X[others] - center) * scale, y[others] - level, rcond=None)[0]
    return float((y[example] - level - ((X[example] - center) * scale) @ w) ** 2)


@dataclass(frozen=True, repr=False)
class RateCurve(Result):
    """Validation loss over p, on paired seeds; arrays are (rates,).

    The best rate is picked after looking, and its intervals, the distances to it and `tied` allow for that (see
    `allmasks.diagnose.race`). Each interval holds by itself with probability `level`.

    Attributes
    ----------
    p : the rates, rising.
    values : (rates, seeds) what `fit` returned; nan where a weak rate was stopped.
    mean, error, low, high : over the seeds that ran: mean, standard error and interval at `level`.
    behind, behind_low, behind_high : mean of the paired differences to the best rate, and its interval.
    n_seeds : seeds run at each rate.
    best_p : the rate of smallest mean among those that ran all seeds.
    tied : rates that the whole race, its early looks included, cannot tell from the best: where all rates are equal,
        all of them are in it with probability `level`.
    threshold : the one-sided p-value of a paired difference below which a rate was told from the leader.
    """

    p: Array
    values: Array
    mean: Array
    error: Array
    low: Array
    high: Array
    behind: Array
    behind_low: Array
    behind_high: Array
    n_seeds: NDArray[np.int64]
    best_p: float
    tied: tuple[float, ...]
    level: float
    guarantee: str = "statistical"
    threshold: float = math.nan

    def _title(self) -> str:
        return f"RateCurve: best p = {self.best_p:g}; not told from it: {', '.join(f'{p:g}' for p in self.tied)}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        for p, mean, error, n in zip(self.p, self.mean, self.error, self.n_seeds, strict=True):
            stopped = "" if n == self.values.shape[1] else "  stopped early"
            rows.append((f"p {p:<4g}", f"{with_error(mean, error)}  ({n} seeds){stopped}"))
        return rows


@overload
def rate_curve(
    fit: Callable[[Any, int], float],
    p: Mapping[str, ArrayLike],
    *,
    seeds: int | Sequence[int] = ...,
    level: float = ...,
    stop_early: bool = ...,
    first_look: int | None = ...,
    cache: str | Path | None = ...,
    name: str | None = ...,
    n_jobs: int = ...,
    baseline: float | Mapping[str, float] = ...,
    start: Audit | Mapping[str, float] | None = ...,
    budget: float | None = ...,
    progress: bool = ...,
) -> RateRace: ...


@overload
def rate_curve(
    fit: Callable[[float, int], float],
    p: ArrayLike = ...,
    *,
    seeds: int | Sequence[int] = ...,
    level: float = ...,
    stop_early: bool = ...,
    first_look: int | None = ...,
    cache: str | Path | None = ...,
    name: str | None = ...,
    n_jobs: int = ...,
) -> RateCurve: ...


def rate_curve(
    fit: Callable[[Any, int], float],
    p: ArrayLike | Mapping[str, ArrayLike] = RATES,
    *,
    seeds: int | Sequence[int] = 10,
    level: float = 0.95,
    stop_early: bool = True,
    first_look: int | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
    n_jobs: int = 1,
    baseline: float | Mapping[str, float] = 0.5,
    start: Audit | Mapping[str, float] | None = None,
    budget: float | None = None,
    progress: bool = False,
) -> RateCurve | RateRace:
    """Validation loss against p for your own training function, every rate on the same seeds.

    Over several sites all combinations of their rates race: each runs `first_look` seeds, the better half twice as
    many, and so on until three are left; a combination is excluded only where an interval excludes it. A quarter of
    the seeds chooses nothing and measures the gain.

    Parameters
    ----------
    fit : fit(p, seed) -> validation loss, a float; it should use `seed` for everything random. Smaller is better. For
        several sites fit(rates, seed), rates being {site: p}; rates at which it raises or is not finite are left out,
        and the result says so.
    p : rates in [0, 1), or {site: rates}. Sites are your own names: `fit` makes of them what it likes.
    seeds : how many, or which.
    level : coverage of the intervals.
    stop_early : after `first_look` seeds, and after each seed that follows, a rate is dropped that is told from the
        leader. The whole race, looks included, tells any of equal rates from another with probability at most
        1 − level (for normal noise; see `allmasks.diagnose.race`).
    cache : a folder in which every finished trial is kept at once; a call that was killed goes on from there. It is
        keyed by p, seed and `name`.
    name : what the cache calls `fit`. None: its code, defaults, closure, bound state and the globals that it uses, so
        that another function never takes this one's trials; where that cannot be read, a name is asked for.
    n_jobs : joblib processes; -1 for all cores. `fit` must then be picklable.
    baseline : several sites: the rates that the gain is measured from; a number for all sites.
    start : several sites: an `Audit`, or rates, near which the race begins; it matters where a budget ends it early.
        Of an audit: the rates at which each site would pay alike, p/(1−p) over what it pays.
    budget : several sites: seconds. The race ends in time to measure the gain; with time left, combinations that were
        overtaken but not excluded go on.
    progress : several sites: show a bar.

    Raises
    ------
    ValueError : rates outside [0, 1), fewer than 2 seeds, a loss that is not a finite number (the message says where),
        a damaged file in `cache`. What `fit` itself raises comes through, with a note that names the rate and the seed.

    Examples
    --------
    >>> curve = rate_curve(lambda p, seed: (p - 0.3) ** 2 + 0.001 * (seed % 3), p=[0.1, 0.3, 0.5])
    >>> curve.best_p, curve.tied
    (0.3, (0.3,))
    >>> def loss(rates, seed):
    ...     return (rates["a"] - 0.1) ** 2 + (rates["b"] - 0.5) ** 2 + 0.001 * np.sin(9 * seed + 40 * rates["a"])
    >>> race = rate_curve(loss, {"a": [0.0, 0.1, 0.3], "b": [0.0, 0.3, 0.5]}, seeds=12)
    >>> race.best, race.ranges
    ({'a': 0.1, 'b': 0.5}, {'a': (0.1, 0.1), 'b': (0.5, 0.5)})
    """
    several = isinstance(p, Mapping)
    first_look = (3 if several else 4) if first_look is None else first_look
    numbers = seed_numbers(seeds)
    check_level(level)
    if isinstance(first_look, bool) or not isinstance(first_look, int | np.integer) or first_look < 3:
        raise ValueError(f"first_look must be a whole number of at least 3 seeds, got {first_look!r}")
    trials = Trials(None if cache is None else Path(cache))
    key = identity(fit, name, needed=cache is not None)
    if isinstance(p, Mapping):
        return race_sites(
            fit,
            p,
            kept=(key, trials),
            seeds=numbers,
            level=level,
            first_look=int(first_look),
            stop_early=stop_early,
            baseline=baseline,
            start=start,
            budget=budget,
            n_jobs=n_jobs,
            progress=progress,
        )
    if start is not None or budget is not None:
        raise ValueError("start and budget are for several sites: give p as {site: rates}")
    rates = np.unique(check_p(p))
    if not rates.size:
        raise ValueError("p must be one or more rates in [0, 1), got none")
    values = np.full((len(rates), len(numbers)), np.nan)
    running = np.ones(len(rates), np.bool_)
    look = first_look if stop_early else None
    alpha = threshold(len(rates), len(numbers), look, level)
    done = 0
    while done < len(numbers):
        upto = len(numbers) if not stop_early else max(min(first_look, len(numbers)), done + 1)
        asked = [(int(i), s) for s in range(done, upto) for i in np.flatnonzero(running)]
        jobs = [
            ({"fit": key, "p": float(rates[i]), "seed": numbers[s]}, (fit, float(rates[i]), numbers[s]))
            for i, s in asked
        ]
        found = run_trials(_trial, jobs, trials, n_jobs=n_jobs)
        for (i, s), value in zip(asked, found, strict=True):
            values[i, s] = value
        done = upto
        running &= ~told_apart(values[None, :, :done] / unit_of(values), running[None], alpha)[0]
    return _curve(rates, values, running, alpha, look, level)


def _trial(fit: Callable[[float, int], float], p: float, seed: int) -> float:
    with where_raised(f"fit(p={p:g}, seed={seed})"):
        value = fit(p, seed)
    try:
        loss = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"fit(p={p:g}, seed={seed}) returned {type(value).__name__}: it must return one number, the validation loss"
        ) from None
    if not math.isfinite(loss):
        raise ValueError(f"fit(p={p:g}, seed={seed}) returned {loss}: it must return a finite validation loss")
    return loss


def _curve(
    rates: Array, values: Array, running: NDArray[np.bool_], alpha: float, look: int | None, level: float
) -> RateCurve:
    """`running`: the rates that no look, the last included, told from the best."""
    n_seeds = np.isfinite(values).sum(axis=1)
    # In a unit of their own size, losses of any size have squares.
    unit = unit_of(values)
    scaled = values / unit
    candidates = np.where(running, scaled.mean(axis=1), np.inf)
    best = int(candidates.argmin())
    mean, error, behind, behind_error = (part * unit for part in measured(scaled, n_seeds, best))
    of_best, of_others = chosen_quantiles(scaled, n_seeds, best, alpha, look, level)
    ends = np.array([[-1.0, 1.0]]) * np.array([[half_width(1.0, level, int(k))] for k in n_seeds])
    ends[best] = of_best
    return RateCurve(
        p=rates,
        values=values,
        mean=mean,
        error=error,
        low=mean - ends[:, 1] * error,
        high=mean - ends[:, 0] * error,
        behind=behind,
        behind_low=behind - of_others[:, 1] * behind_error,
        behind_high=behind - of_others[:, 0] * behind_error,
        n_seeds=n_seeds,
        best_p=float(rates[best]),
        tied=tuple(float(rates[i]) for i in np.flatnonzero(running)),
        level=level,
        threshold=alpha,
    )
