"""What answers are held against: every mask listed, a sampled answer's z, the coverage of intervals, planted bias."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy import stats

from allmasks.samplers import LatinHypercube


def every_mask(p: ArrayLike, dtype: DTypeLike = np.float64) -> tuple[NDArray[Any], NDArray[Any]]:
    """Masks (2^d, d), 1 for kept, and their probabilities (2^d,) where unit j is dropped at rate p[j]."""
    rates = np.asarray(p, dtype)
    masks = np.array(list(itertools.product((0, 1), repeat=len(rates))), dtype)
    return masks, np.prod(np.where(masks > 0, 1 - rates, rates), axis=1)


def z_score(value: Any, truth: Any, error: Any, replicates: int) -> Any:
    """Student's t of each value, with `replicates` − 1 degrees of freedom, mapped to the normal scale."""
    value, truth, error = (np.asarray(v, np.float64) for v in (value, truth, error))
    t = (value - truth) / error
    return -np.sign(t) * stats.norm.ppf(stats.t.sf(np.abs(t), replicates - 1))


def z_of_mean(runs: Any, truth: Any) -> Any:
    """How many standard errors the mean over independent runs (the first axis) is off."""
    runs, truth = np.asarray(runs, np.float64), np.asarray(truth, np.float64)
    return (runs.mean(axis=0) - truth) / (runs.std(axis=0, ddof=1) / np.sqrt(len(runs)))


def covered(intervals: Iterable[tuple[Any, Any]], truth: Any) -> float:
    """Share of intervals, pairs (low, high), in which the truth lies."""
    return float(np.mean([(low <= truth) & (truth <= high) for low, high in intervals]))


@dataclass(frozen=True)
class Biased(LatinHypercube):
    """The planted fault: a sampler that keeps units more often than it says, by this share."""

    by: float = 0.01

    def draw(self, seed, site, masks, examples, keep_prob):
        return super().draw(seed, site, masks, examples, np.minimum(np.asarray(keep_prob) * (1 + self.by), 1.0))
