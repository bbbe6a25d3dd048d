"""Means over masks kept apart by replicate, and what follows from them: jackknifed values, errors, and doubts.

Masks come in independent blocks; blocks are collected into a fixed number of groups, the replicates, so memory does not
grow with the number of masks. Everything reported is a smooth function of means over masks; `allmasks.replicates` takes
away its bias and gives its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allmasks import replicates

__all__ = ["Estimate", "Tally", "jackknife"]


class Tally:
    """Sums of features of (masks, n, …) values by replicate.

    Parameters
    ----------
    sizes : masks in each replicate, consecutive ones.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        self.sizes = sizes
        self._ends = np.cumsum(sizes)
        self._sums: dict[str, Tensor] = {}
        self._done = 0

    def add(self, features: dict[str, Tensor], *, tally_masks: bool = True) -> None:
        """Take the features (k, n, …) of the next k masks, or (not `tally_masks`) sums that all go to one replicate."""
        count = len(next(iter(features.values())))
        owner = np.zeros(count, np.int64)
        if tally_masks:
            owner = np.searchsorted(self._ends, self._done + np.arange(count), side="right")
        for name, values in features.items():
            if name not in self._sums:
                self._sums[name] = values.new_zeros((len(self.sizes), *values.shape[1:]))
            for r in np.unique(owner):
                rows = np.flatnonzero(owner == r)
                self._sums[name][r] += values[int(rows[0]) : int(rows[-1]) + 1].sum(dim=0)
        self._done += count

    def rescale(self, name: str, factor: Tensor) -> None:
        """Multiply what a feature has summed so far."""
        if name in self._sums:
            self._sums[name] *= factor

    def means(self) -> dict[str, Tensor]:
        """(replicates, n, …) mean of each feature in each replicate."""
        return {name: sums / self._column(sums, self.sizes) for name, sums in self._sums.items()}

    @staticmethod
    def _column(like: Tensor, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Estimate:
    """A function of means over masks: bias-corrected, its standard error, and whether that can be trusted."""

    value: Tensor
    error: Tensor
    reliable: Tensor


_SKEW = 3.0
_EXCESS = 12.0
_BIAS = 0.25
"""Limits beyond which an error is not trusted: skewness and excess kurtosis of the replicates' shares, and the bias
that was taken away, in standard errors. Shares of 32–64 replicates are noisy, so these catch only what is plainly not
linear in the masks (the spread under one deciding unit); heavy tails are counted mask by mask in `weight`."""


def jackknife(
    means: dict[str, Tensor],
    sizes: np.ndarray,
    function: Callable[[dict[str, Tensor]], Tensor],
    *,
    skew: float = _SKEW,
    excess: float = _EXCESS,
) -> Estimate:
    """`function` of the means over all masks.

    Parameters
    ----------
    means : (replicates, n, …) of each feature.
    sizes : masks in each replicate.
    function : features, with any leading axes, to the quantity.
    skew, excess : skewness and excess kurtosis of the replicates' shares beyond which the error is not trusted.
    """
    some = next(iter(means.values()))
    value, error, plug_in, deviation = replicates.jackknife(means, sizes, function)
    square = error**2
    spread = torch.where(square > 0, square, torch.ones_like(square))
    skewness = (deviation**3).mean(dim=0) / spread**1.5
    kurtosis = (deviation**4).mean(dim=0) / spread**2
    # A bias below round-off of the sums is no bias.
    bias = (plug_in - value).abs() - 64 * torch.finfo(some.dtype).eps * plug_in.abs()
    reliable = (skewness.abs() <= skew) & (kurtosis <= 3.0 + excess) & (bias <= _BIAS * error)
    reliable |= (square == 0) & (bias <= 0)
    return Estimate(value, error, reliable)
