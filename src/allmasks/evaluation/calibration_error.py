"""How far stated probabilities are from observed shares, by bins of equal mass or of equal width.

The mean over bins of |confidence − accuracy| is too large where bins are noisy: a perfectly calibrated model with 1 000
examples in 15 bins shows about .03. The debiased estimator takes the noise of each bin's accuracy away from the mean
square (Kumar, Liang & Ma 2019, "Verified uncertainty calibration").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bins", "binned", "calibration_error"]

Floats = NDArray[np.float64]


class Bins:
    """Entries in bins of their confidence.

    Parameters
    ----------
    confidence : (N,). outcome : (N,) 0 or 1, or in between.
    n_bins : at most. equal : "mass", as many entries in each and ties together, or "width".
    """

    def __init__(self, confidence: Floats, outcome: NDArray[Any], n_bins: int = 15, equal: str = "mass") -> None:
        if equal not in ("mass", "width"):
            raise ValueError(f'equal must be "mass" or "width", got {equal!r}')
        if n_bins < 1:
            raise ValueError(f"bins must be at least 1, got {n_bins}")
        self._order = np.argsort(confidence, kind="stable")
        self._confidence, self._outcome = confidence[self._order], outcome[self._order].astype(float)
        n = len(confidence)
        if equal == "width":
            # Left-closed bins, as torchmetrics has them; its bin for exactly 1 is the last one here.
            edges = np.linspace(0, 1, n_bins + 1)
            starts = np.searchsorted(self._confidence, edges[:-1], "left")
            starts[0] = 0
        else:
            wanted = np.linspace(0, n, min(n_bins, n) + 1)[:-1].round().astype(int)
            starts = np.searchsorted(self._confidence, self._confidence[wanted], "left")
        self._starts = np.unique(starts[starts < n])

    def sums(self, weights: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """(B, bins) weight, mean confidence and mean outcome; nan where a bin has no weight."""
        weight = np.ones((1, len(self._order))) if weights is None else weights[:, self._order]
        total = np.add.reduceat(weight, self._starts, axis=1)
        with np.errstate(invalid="ignore"):
            confidence = np.add.reduceat(weight * self._confidence, self._starts, axis=1) / total
            outcome = np.add.reduceat(weight * self._outcome, self._starts, axis=1) / total
        return total, confidence, outcome

    def error(self, norm: str = "l2", *, debias: bool = True, weights: Floats | None = None) -> Floats:
        """(B,) the calibration error: see `calibration_error`."""
        total, confidence, outcome = self.sums(weights)
        gap = np.where(total > 0, np.abs(confidence - outcome), 0.0)
        share = total / total.sum(axis=1, keepdims=True)
        if norm == "max":
            return gap.max(axis=1)
        if norm == "l1":
            return (share * gap).sum(axis=1)
        if norm != "l2":
            raise ValueError(f'norm must be "l1", "l2" or "max", got {norm!r}')
        square = gap**2
        if debias:
            noise = np.where(total > 1, outcome * (1 - outcome) / np.maximum(total - 1, 1e-12), 0.0)
            square = square - np.where(total > 1, noise, square)
        return np.sqrt(np.maximum((share * square).sum(axis=1), 0.0))


def binned(confidence: Floats, outcome: NDArray[Any], n_bins: int = 15) -> tuple[Floats, Floats, Floats, Floats]:
    """(bins,) number, mean confidence, share right and its standard error, for a reliability diagram."""
    total, stated, seen = (v[0] for v in Bins(confidence, outcome, n_bins).sums())
    return total, stated, seen, np.sqrt(np.maximum(seen * (1 - seen), 0.25 / total) / total)


def calibration_error(
    confidence: Floats,
    outcome: Floats,
    *,
    n_bins: int = 15,
    equal: str = "mass",
    norm: str = "l2",
    debias: bool = True,
) -> float:
    """Root mean square (or mean, or largest) distance of stated confidence from observed accuracy, over bins.

    Parameters
    ----------
    confidence : (N,) stated probabilities. outcome : (N,) whether it came true.
    n_bins, equal : bins with as many entries each ("mass"), or of one width ("width", as torchmetrics has them).
    norm : "l2", "l1" (the usual "ECE") or "max".
    debias : take away what the noise of the bins adds, which is known for "l2" only; the others are as they are
        published, too large by it.

    >>> calibration_error(np.array([0.8, 0.8, 0.8, 0.8]), np.array([1, 1, 1, 0]), norm="l1", debias=False)
    0.050000000000000044
    """
    return float(
        Bins(np.asarray(confidence, float), np.asarray(outcome, float), n_bins, equal).error(norm, debias=debias)[0]
    )
