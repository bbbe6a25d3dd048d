"""Regressions with their targets, and the metrics of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from allmasks.evaluation.digest import LEVELS, normal_distance
from allmasks.evaluation.measures import Floats, Measure, averaged

__all__ = ["Regressions", "at_point", "miscalibration_area", "regression_measures"]


@dataclass(frozen=True)
class Regressions:
    """A predictive distribution for each target, of some masks or of eval mode. Fields (N,), `width` (N, levels).

    What is not known is None: its metrics are left out.
    """

    y: Floats
    mean: Floats
    variance: Floats | None = None
    log_likelihood: Floats | None = None
    crps: Floats | None = None
    pit: Floats | None = None
    width: Floats | None = None


def at_point(y: Floats, mean: Floats, precision: float | None, *, mixture: bool) -> Regressions:
    """Eval mode: N(mean, 1/τ), whose CRPS without a noise of its own is the distance."""
    if precision is None:
        return Regressions(y, mean, np.zeros_like(mean), crps=np.abs(y - mean))
    sigma = precision**-0.5
    z = (y - mean) / sigma
    crps = normal_distance(y - mean, sigma) - normal_distance(0.0, sigma * math.sqrt(2)) / 2
    return Regressions(
        y,
        mean,
        np.full_like(mean, sigma**2),
        -z * z / 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi),
        crps if mixture else np.abs(y - mean),
        ndtr(z),
        np.tile([2 * sigma * ndtri(0.5 + level / 2) for level in LEVELS], (len(y), 1)),
    )


def regression_measures(known: Regressions) -> list[Measure]:
    """Every metric of what is known."""
    found = [
        averaged("rmse", lambda r: (r.y - r.mean) ** 2, root=True),
        averaged("mae", lambda r: np.abs(r.y - r.mean)),
    ]
    if known.log_likelihood is not None:
        found.append(averaged("log_likelihood", lambda r: r.log_likelihood, better="higher"))
    if known.crps is not None:
        found.append(averaged("crps", lambda r: r.crps))
    if known.pit is not None:
        for level in LEVELS:
            found.append(averaged(f"coverage_{100 * level:g}", _covers(level), smooth=False, better=""))
    if known.width is not None:
        for i, level in enumerate(LEVELS):
            found.append(averaged(f"width_{100 * level:g}", _of_width(i), better=""))
    if known.pit is not None:
        found.append(Measure("miscalibration_area", lambda r, w: miscalibration_area(r.pit, w), better="lower"))
    if known.variance is not None:
        found.append(averaged("sharpness", lambda r: r.variance, root=True, better=""))
    return found


def _covers(level: float) -> Callable[[Any], Floats]:
    return lambda r: (np.abs(2 * r.pit - 1) <= level).astype(float)


def _of_width(i: int) -> Callable[[Any], Floats]:
    return lambda r: r.width[:, i]


_PROPORTIONS = 100


def miscalibration_area(pit: Floats, weights: NDArray[np.float64] | None = None) -> Floats:
    """(B,) area between the coverage of central intervals and what they state (uncertainty-toolbox's, on its grid).

    >>> float(miscalibration_area(np.array([0.5, 0.5]))[0])
    0.5
    """
    stated = np.linspace(0, 1, _PROPORTIONS)
    central = np.abs(2 * pit - 1)
    order = np.argsort(central, kind="stable")
    weight = np.ones((1, len(pit))) if weights is None else weights[:, order]
    summed = np.concatenate([np.zeros((len(weight), 1)), weight.cumsum(axis=1)], axis=1)
    seen = summed[:, np.searchsorted(central[order], stated, "right")] / summed[:, -1:]
    gap = seen - stated
    a, b = gap[:, :-1], gap[:, 1:]
    crosses = a * b < 0
    size = np.abs(a) + np.abs(b)
    parted = np.divide(a**2 + b**2, size, out=np.zeros_like(size), where=size > 0)
    return (np.where(crosses, parted, size) / 2).sum(axis=1) / (_PROPORTIONS - 1)
