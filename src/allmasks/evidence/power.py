"""Power before a run: how likely an effect of the least size that matters is found, and the seeds that it takes.

A reading of n paired seeds is judged by Student's t (`allmasks.evidence.judge`). With a spread σ of one seed's effect,
the standard error that a run will see is s = σ/√n · √(χ²ₙ₋₁/(n−1)), and given s the mean is normal with σ/√n: so the
probability of each verdict is one integral over χ², done here on its quantiles. All tests of a run share the level
(Bonferroni, which Holm's correction is never behind).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

__all__ = ["ALPHA", "BELOW", "absence_power", "power", "seeds_for", "upper_spread"]

Array = NDArray[np.float64]

ALPHA = 0.05
"""The chance that noise alone speaks, over all tests of a run; and as much that a real effect is called absent."""
BELOW = 0.05
"""Level at which an effect is surely smaller than what matters, so that it does not count though it is there."""

_POINTS = (np.arange(256) + 0.5) / 256
_MOST = 100_000


def power(minimum: float, spread: float, seeds: int, tests: int = 1, kind: str = "difference") -> float:
    """Probability that a true effect of `minimum` is found; for agreements, that a true deviation of 0 is.

    Parameters
    ----------
    minimum : the least effect that matters, or the tolerance. spread : standard deviation of one seed's effect.
    seeds : at least 2. tests : of the whole run, which share the level.

    Examples
    --------
    >>> round(power(0.5, 1.0, 44), 2), round(power(0.5, 1.0, 44, tests=200), 2)
    (0.9, 0.27)
    """
    if spread == 0:
        return 1.0
    if kind == "agreement":
        return _within(minimum, spread, seeds, ALPHA / (2 * tests))
    scale, s = _errors(spread, seeds)
    least = np.maximum(
        s * t.isf(ALPHA / (2 * tests), seeds - 1),  # surely not 0
        minimum - s * t.isf(BELOW, seeds - 1),  # and not surely smaller than what matters
    )
    return float(norm.sf((least - minimum) / scale).mean())


def absence_power(minimum: float, spread: float, seeds: int, tests: int = 1) -> float:
    """Probability that two one-sided tests show |effect| < minimum where there is none.

    >>> round(absence_power(0.5, 1.0, 45), 2)
    0.9
    """
    return 1.0 if spread == 0 else _within(minimum, spread, seeds, ALPHA / tests)


def seeds_for(
    minimum: float, spread: float, tests: int = 1, kind: str = "difference", *, wanted: float = 0.9, most: int = _MOST
) -> int:
    """Paired seeds at which an effect of `minimum` is found, and one of 0 called absent, each as `wanted`.

    At most `most`, which then means: that many or more.

    >>> seeds_for(0.5, 1.0), seeds_for(0.5, 1.0, tests=200), seeds_for(0.5, 0.0)
    (45, 112, 3)
    """

    def enough(n: int) -> bool:
        if power(minimum, spread, n, tests, kind) < wanted:
            return False
        return kind == "agreement" or absence_power(minimum, spread, n, tests) >= wanted

    if not math.isfinite(spread):
        return most
    low, high = 2, 3
    while not enough(high):
        if high >= most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def upper_spread(spread: float, seeds: int, sure: float = 0.8) -> float:
    """The spread that a pilot's true one is below with probability `sure`: a pilot's own is too small half of the time.

    >>> round(upper_spread(1.0, 6), 2), round(upper_spread(1.0, 40), 2)
    (1.46, 1.11)
    """
    return spread * math.sqrt((seeds - 1) / chi2.ppf(1 - sure, seeds - 1)) if seeds > 1 else math.inf


def _errors(spread: float, seeds: int) -> tuple[float, Array]:
    """The mean's true standard error, and equally likely values of the one that the run will see."""
    scale = spread / math.sqrt(seeds)
    return scale, scale * _relative(seeds)


@lru_cache(maxsize=4096)
def _relative(seeds: int) -> Array:
    return np.asarray(np.sqrt(chi2.ppf(_POINTS, seeds - 1) / (seeds - 1)), np.float64)


def _within(minimum: float, spread: float, seeds: int, level: float) -> float:
    """Probability that |mean| + t s < minimum at a true 0."""
    scale, s = _errors(spread, seeds)
    room = np.maximum(minimum - s * t.isf(level, seeds - 1), 0.0)
    return float((1 - 2 * norm.sf(room / scale)).mean())
