"""What to label next: the examples with the highest scores, and how sure that choice is, given the masks drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from allmasks.evaluation.measures import Floats
from allmasks.evaluation.scored import held_by, probabilities
from allmasks.prediction import Prediction
from allmasks.results import Result

__all__ = ["Acquisition", "acquire"]

_DRAWS = 1000
_TARGETS = 128


@dataclass(frozen=True, repr=False)
class Acquisition(Result):
    """Examples to label, the most wanted first.

    Attributes
    ----------
    indices : (n,) their numbers in the data. scores, errors : (n,) their scores, and standard errors over masks.
    confidence : (n,) the probability that each belongs among the n highest for all masks.
    order : (n,) the probability that each is ahead of the next one; of the last, of the best that was left out.
    by : the score.
    """

    indices: Any
    scores: Any
    errors: Any
    confidence: Any
    order: Any
    by: str

    @property
    def overlap(self) -> float:
        """Share of the chosen that is expected to be chosen by all masks too."""
        return float(np.mean(self.confidence))

    def _rows(self) -> list[tuple[str, str]]:
        shown = ", ".join(str(i) for i in self.indices[:10]) + (" …" if len(self.indices) > 10 else "")
        return [("by", self.by), ("examples", shown), ("expected overlap with all masks", f"{self.overlap:.2f}")]


def acquire(prediction: Prediction, n: int, by: str | None = None, *, seed: int = 0) -> Acquisition:
    """The n examples to label next: see `Prediction.acquire`."""
    held = held_by(prediction)
    total = len(held.front(prediction.mean))
    if not isinstance(n, int | np.integer) or not 1 <= n <= total:
        raise ValueError(f"n must be a number of examples from 1 to {total}, got {n}")
    regression = prediction.task == "regression"
    allowed = ("std",) if regression else ("mutual_information", "entropy", "variation_ratio", "std", "epig")
    chosen = by or allowed[0]
    if chosen not in allowed:
        raise ValueError(f"by must be one of {', '.join(map(repr, allowed))} for this task, got {by!r}")
    rng = np.random.default_rng([seed, 0xAC])
    score, error = _scored(prediction, chosen, rng)
    # Ties in an order of their own, which the seed says.
    order = np.lexsort((rng.uniform(size=total), -score))
    picked = order[:n]
    known = np.where(np.isfinite(error), error, np.ptp(score) + 1.0)
    inside = np.zeros(total)
    for _ in range(_DRAWS):
        again = score + known * rng.standard_normal(total)
        inside[np.argpartition(-again, n - 1)[:n]] += 1
    ahead = order[: n + 1]
    gap, both = score[ahead[:-1]] - score[ahead[1:]], np.hypot(known[ahead[:-1]], known[ahead[1:]])
    sure = np.where(both > 0, ndtr(gap / np.where(both > 0, both, 1.0)), np.where(gap > 0, 1.0, 0.5))
    if len(ahead) == n:
        sure = np.concatenate([sure, [1.0]])
    return Acquisition(picked, score[picked], error[picked], inside[picked] / _DRAWS, sure, chosen)


def _scored(prediction: Prediction, by: str, rng: Any) -> tuple[Floats, Floats]:
    """(n,) score of each example, averaged over its entries, and its standard error."""
    held = held_by(prediction)
    statistical = prediction.guarantee == "statistical"
    if by == "epig":
        return _epig(prediction, rng)
    if by == "variation_ratio":
        p = probabilities(prediction)
        n = len(held.front(prediction.mean))
        top = p.argmax(axis=1)
        errors = held.front(prediction.mean_error)
        if prediction.task == "multiclass":
            errors = errors.movedim(held.class_dim, -1)
        off = errors.reshape(len(p), -1).double().cpu().numpy()
        off = off[np.arange(len(p)), top if off.shape[1] > 1 else 0]
        return _over_entries(1 - p.max(axis=1), off, n, statistical)
    value = held.front(getattr(prediction, by)).double().cpu().numpy()
    error = held.front(getattr(prediction, f"{by}_error")).double().cpu().numpy()
    return _over_entries(value.reshape(-1), error.reshape(-1), len(value), statistical)


def _over_entries(value: Floats, error: Floats, n: int, statistical: bool) -> tuple[Floats, Floats]:
    entries = value.size // n
    own, off = value.reshape(n, entries).mean(axis=1), error.reshape(n, entries)
    # Entries of one example share its masks: their errors add up at worst.
    return own, off.mean(axis=1) if statistical else np.zeros(n)


def _epig(prediction: Prediction, rng: Any) -> tuple[Floats, Floats]:
    """Expected predictive information gain (Bickford Smith et al. 2023) about up to 128 of the same examples."""
    if prediction.samples is None or not held_by(prediction).shared:
        raise ValueError(
            'by="epig" needs the same masks for all examples, kept: predict(..., consistent=True, keep_samples=True)'
        )
    if prediction.mean.ndim != 2 or prediction.task != "multiclass":
        raise ValueError('by="epig" is for class probabilities (n, classes)')
    samples = prediction.samples.double().cpu().numpy()
    k, n, c = samples.shape
    groups = np.array_split(np.arange(k), min(k, 16))
    targets = rng.permutation(n)[: min(n, _TARGETS)]

    def gain(rows: Any) -> Floats:
        own = samples[rows]
        p = own.mean(axis=0)
        others = own[:, targets]
        found = np.zeros(n)
        step = max(1, 2**22 // (len(targets) * c * c))
        for lo in range(0, n, step):
            mine = own[:, lo : lo + step]
            joint = np.einsum("knc,kmd->nmcd", mine, others, optimize=True) / len(rows)
            apart = p[lo : lo + step, None, :, None] * p[targets][None, :, None, :]
            ratio = np.log(np.maximum(joint, 1e-300)) - np.log(np.maximum(apart, 1e-300))
            found[lo : lo + step] = (joint * ratio).sum(axis=(2, 3)).mean(axis=1)
        return found

    whole = gain(np.arange(k))
    if len(groups) < 2:
        return whole, np.full(n, math.nan)
    left = np.stack([gain(np.setdiff1d(np.arange(k), group)) for group in groups])
    g = len(groups)
    # The plug-in is too large by about a constant over k, which the jackknife takes away.
    value = g * whole - (g - 1) * left.mean(axis=0)
    return value, np.sqrt((g - 1) / g * ((left - left.mean(axis=0)) ** 2).sum(axis=0))
