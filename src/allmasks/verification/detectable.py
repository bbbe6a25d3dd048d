"""How small a fault a run would catch, and how many passes it takes to catch one of a given size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from allmasks.sites import DropoutSite
from allmasks.verification.lawful import Law

__all__ = [
    "Enough",
    "Slope",
    "bits_needed",
    "enough_passes",
    "rate_detectable",
    "slopes_of",
    "spread_factor",
    "wanted_change",
]

POWER = 0.9
FEWEST = 96


@dataclass(frozen=True)
class Slope:
    """By how much E_m[L] changes with a site's rate, with its standard error."""

    value: float
    error: float

    @property
    def visible(self) -> bool:
        """Whether E_m[L] shows the site at all."""
        return abs(self.value) > 3 * self.error


def wanted_change(p: float) -> float:
    """The change of a rate that is to be caught: .05, or a quarter of p if that is less."""
    return min(0.05, p / 4)


@dataclass(frozen=True)
class Enough:
    """Passes to make, those that were needed, and the site that needs most."""

    passes: int
    needed: int
    site: str


def slopes_of(law: Law, sites: Sequence[DropoutSite], base: np.ndarray, few: bool) -> dict[str, Slope]:
    """The slope of E_m[L] by each site's rate, from differences on masks that are alike where the rates are.

    Parameters
    ----------
    base : losses at the rates as they are, of at least 32 masks.
    few : whether to make do with fewer masks.
    """
    able = [site for site in sites if site.controllable and 0 < site.p < 1 and not math.isnan(site.p)]
    masks = 8 if len(able) > 6 else 16 if few else 32
    found = {}
    for site in able:
        change = wanted_change(site.p)
        change = change if site.p + change < 1 else -change  # a slope is as good from the other side
        moved = (law.at_rates({site.name: site.p + change}, masks) - base[:masks]) / change
        found[site.name] = Slope(float(moved.mean()), float(moved.std(ddof=1)) / math.sqrt(masks))
    return found


def spread_factor(level: float, tests: int) -> float:
    """How many standard errors a discrepancy must be for power .9 at this level over so many tests."""
    return float(stats.norm.isf(level / (2 * max(tests, 1))) + stats.norm.isf(1 - POWER))


def enough_passes(
    slopes: Mapping[str, Slope], rates: Mapping[str, float], spread: float, factor: float, ratio: float, most: int
) -> Enough:
    """Passes that catch the wanted change of the rate at the site that matters least among those E_m[L] shows.

    Parameters
    ----------
    ratio : draws of the reference for each pass. most : passes, however many are needed.
    """
    effects = {name: abs(slope.value) * wanted_change(rates[name]) for name, slope in slopes.items() if slope.visible}
    if not effects or spread == 0:
        return Enough(FEWEST, 0, "")
    site = min(effects, key=lambda name: effects[name])
    needed = math.ceil((factor * spread / effects[site]) ** 2 * (1 + 1 / ratio))
    return Enough(min(max(needed, FEWEST), most), needed, site)


def rate_detectable(p: float, bits: int, threshold: float) -> float:
    """The smallest change of a rate that the exact binomial test of so many bits catches with power .9, upward.

    >>> 0.003 < rate_detectable(0.5, 1_000_000, 1e-6) < 0.0035
    True
    """
    if not bits or not 0 < p < 1:
        return math.nan
    least = float(stats.binom.isf(threshold / 2, bits, p))  # beyond this the test fails

    def missing(change: float) -> float:
        return float(stats.binom.sf(least, bits, min(p + change, 1.0))) - POWER

    if missing(1 - p - 1e-12) < 0:
        return math.nan
    return float(optimize.brentq(missing, 0.0, 1 - p - 1e-12, xtol=1e-9))


def bits_needed(p: float, factor: float) -> int:
    """Bits for the wanted change of a rate, by the normal law."""
    return math.ceil((factor / wanted_change(p)) ** 2 * p * (1 - p)) if 0 < p < 1 else 0
