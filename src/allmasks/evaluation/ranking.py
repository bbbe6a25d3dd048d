"""How well a score ranks positives above negatives: areas under curves, by weight, and what each entry does to them.

scikit-learn has each of these for one vector of weights; a bootstrap asks for hundreds of the same scores, which are
sorted here once for all of them. `tests/evaluation/test_references.py` holds one against the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranked", "auroc_influence"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """Scores from the highest down, ties put together.

    Parameters
    ----------
    score : (N,), high for positives. positive : (N,) booleans.
    weights : (B, N), one row an answer; None counts each entry once.
    """

    score: Floats
    positive: NDArray[np.bool_]
    weights: Floats | None = None

    def _counts(self) -> tuple[Floats, Floats]:
        """(B, ties) weight of positives and of negatives at each score."""
        order = np.argsort(-self.score, kind="stable")
        ordered = self.score[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        right = self.positive[order].astype(float)
        weight = np.ones((1, len(order))) if self.weights is None else self.weights[:, order]
        return np.add.reduceat(weight * right, starts, axis=1), np.add.reduceat(weight * (1 - right), starts, axis=1)

    def auroc(self) -> Floats:
        """(B,) chance that a positive scores above a negative, ties counting half; nan without either."""
        if not len(self.score):
            return np.full(1 if self.weights is None else len(self.weights), math.nan)
        high, low = self._counts()
        below = low.sum(axis=1, keepdims=True) - low.cumsum(axis=1) + low / 2
        return _ratio((high * below).sum(axis=1), high.sum(axis=1) * low.sum(axis=1))

    def average_precision(self) -> Floats:
        """(B,) mean precision over recall, as a step function (scikit-learn's `average_precision_score`)."""
        high, low = self._counts()
        hits = high.cumsum(axis=1)
        precision = _ratio(hits, hits + low.cumsum(axis=1))
        return _ratio((high * np.where(high > 0, precision, 0.0)).sum(axis=1), high.sum(axis=1))

    def false_positives(self, recall: float = 0.95) -> Floats:
        """(B,) share of negatives above the highest threshold that finds this share of positives."""
        high, low = self._counts()
        found = high.cumsum(axis=1) >= recall * high.sum(axis=1, keepdims=True) * (1 - 1e-12)
        at = found.argmax(axis=1)
        passed = low.cumsum(axis=1)[np.arange(len(low)), at]
        share = _ratio(passed, low.sum(axis=1))
        return np.where(high.sum(axis=1) > 0, share, math.nan)


def auroc_influence(score: Floats, positive: NDArray[np.bool_]) -> Floats:
    """(N,) what each entry moves the area by: placements about their mean (DeLong, DeLong & Clarke-Pearson 1988)."""
    high, low = np.sort(score[positive]), np.sort(score[~positive])
    found = np.empty(len(score))
    for mine, others, above in ((positive, low, False), (~positive, high, True)):
        values = score[mine]
        less = np.searchsorted(others, values, "left")
        ties = np.searchsorted(others, values, "right") - less
        place = (less + ties / 2) / max(len(others), 1)
        place = 1 - place if above else place
        found[mine] = (place - place.mean()) / max(len(values), 1) if len(values) else 0.0
    return found


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, math.nan), where=b > 0)
