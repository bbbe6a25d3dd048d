"""Treated against untreated nets on the same seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.evidence.examine import correlation
from allmasks.evidence.shared_nets import Lab

__all__ = ["CONTRAST", "across_rates", "more", "swept"]

CONTRAST = ("none", "drop0.5")
"""Untreated and treated in claims about what dropout does to the units: p = 1/2, as in the notes' examples."""


def more(lab: Lab, dataset: str, name: str, arm: str = "drop0.5", than: str = "none") -> NDArray[np.float64]:
    """(seeds,) how much larger a probed number is in one arm than in another, seed by seed."""
    return lab.probed(dataset, arm, name) - lab.probed(dataset, than, name)


def swept(lab: Lab) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The rates from 0 upwards, and their arms."""
    rates = lab.settings.rates
    return (0.0, *rates), ("none", *(f"drop{p:g}" for p in rates))


def across_rates(lab: Lab, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds,) rank correlation of p with (rates, seeds) values, seed by seed."""
    rates, _ = swept(lab)
    return np.array([correlation(rates, column) for column in values.T])
