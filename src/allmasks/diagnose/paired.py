"""Comparing treatments on the same seeds: means, Student's t, and corrections for how often one looked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from allmasks.replicates import check_level, half_width, standard_error

__all__ = ["check_level", "holm", "interval", "p_value", "seed_numbers"]

Array = NDArray[np.float64]


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float, float]:
    """Mean of independent values, its standard error, and Student's t interval.

    >>> [round(v, 4) for v in interval([1.0, 2.0, 3.0])[:2]]
    [2.0, 0.5774]
    """
    x = np.asarray(values, np.float64)
    mean, error = float(x.mean()), float(standard_error(x))
    half = half_width(error, level, len(x))
    return mean, error, mean - half, mean + half


def p_value(values: ArrayLike, at: float = 0.0) -> float:
    """One-sided p-value of "the mean is at most `at`" (Student's t); small where it is surely larger.

    >>> round(p_value([1.0, 2.0, 3.0]), 4)
    0.0371
    """
    x = np.asarray(values, np.float64) - at
    if len(x) < 2 or not np.isfinite(x).all():
        return math.nan
    error = float(standard_error(x))
    # Values that agree to round-off carry no noise to test against.
    if error <= 1e-14 * np.abs(x).max(initial=0.0):
        return 0.0 if x.mean() > 0 else 1.0
    return float(t.sf(x.mean() / error, len(x) - 1))


def holm(p_values: ArrayLike) -> Array:
    """p-values corrected for their number (Holm 1979); nan stays nan and is not counted.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def seed_numbers(seeds: int | ArrayLike) -> list[int]:
    """The seeds meant: 0 … n−1 for a number n, or those listed.

    >>> seed_numbers(3), seed_numbers([7, 5])
    ([0, 1, 2], [7, 5])
    """
    given = np.asarray(seeds)
    if given.dtype.kind not in "iu":
        raise ValueError(f"seeds must be whole numbers, or how many: got {seeds!r}")
    numbers = list(range(int(given))) if given.ndim == 0 else [int(s) for s in given.reshape(-1)]
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise ValueError(f"seeds must be at least 2 different seeds, or their number: got {seeds!r}")
    return numbers
