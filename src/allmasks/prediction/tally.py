"""Means over masks kept apart by replicate, and what follows from them: jackknifed values, errors, and doubts.

Masks come in independent blocks; blocks are collected into at most `MAX_REPLICATES` groups, the replicates, so memory
does not grow with the number of masks. Everything reported is a smooth function of means over masks. The delete-one-
group jackknife (Quenouille 1956; Tukey 1958; unequal groups: Busing, Meijer & van der Leeden 1999) takes away its bias
of order 1/n and gives its standard error, both valid for masks that are correlated within a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["MAX_REPLICATES", "Estimate", "Tally", "jackknife", "replicate_sizes"]

MAX_REPLICATES = 64


def replicate_sizes(n_masks: int, block: int) -> np.ndarray:
    """Masks in each replicate: whole blocks, shared out as evenly as they go.

    >>> replicate_sizes(520, 8).tolist()[:2], len(replicate_sizes(520, 8)), len(replicate_sizes(256, 8))
    ([16, 8], 64, 32)
    """
    blocks = n_masks // block
    groups = min(blocks, MAX_REPLICATES)
    sizes = np.full(groups, blocks // groups)
    sizes[: blocks % groups] += 1
    return sizes * block


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
    total = float(sizes.sum())
    some = next(iter(means.values()))
    share = {name: Tally._column(m, sizes / total) for name, m in means.items()}
    whole = {name: (m * share[name]).sum(dim=0) for name, m in means.items()}
    without = {name: (whole[name] - m * share[name]) / (1.0 - share[name]) for name, m in means.items()}
    plug_in, left_out = function(whole), function(without)
    h = torch.as_tensor(total / sizes, dtype=some.dtype, device=some.device)
    h = h.reshape(-1, *[1] * (left_out.ndim - 1))
    pseudo = h * plug_in - (h - 1.0) * left_out
    value = (pseudo / h).sum(dim=0)
    deviation = (pseudo - value) / (h - 1.0).sqrt()
    square = (deviation**2).mean(dim=0)
    error = square.sqrt()
    spread = torch.where(square > 0, square, torch.ones_like(square))
    skewness = (deviation**3).mean(dim=0) / spread**1.5
    kurtosis = (deviation**4).mean(dim=0) / spread**2
    # A bias below round-off of the sums is no bias.
    bias = (plug_in - value).abs() - 64 * torch.finfo(some.dtype).eps * plug_in.abs()
    reliable = (skewness.abs() <= skew) & (kurtosis <= 3.0 + excess) & (bias <= _BIAS * error)
    reliable |= (square == 0) & (bias <= 0)
    return Estimate(value, error, reliable)
