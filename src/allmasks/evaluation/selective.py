"""What is gained by leaving the least confident answers out: risk by coverage, and its areas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Selective"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Selective:
    """Entries from the most confident down.

    Parameters
    ----------
    confidence : (N,). wrong : (N,) loss of each, 1 where the answer is wrong.
    weights : (B, N), or None.

    Ties are put in one step: what is answered cannot part them.
    """

    confidence: Floats
    wrong: NDArray[Any]
    weights: Floats | None = None

    def curve(self) -> tuple[Floats, Floats, Floats]:
        """(B, steps) share answered, its risk, and the step's own share."""
        order = np.argsort(-self.confidence, kind="stable")
        ordered = self.confidence[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        weight = np.ones((1, len(order))) if self.weights is None else self.weights[:, order]
        step = np.add.reduceat(weight, starts, axis=1)
        answered = step.cumsum(axis=1)
        lost = np.add.reduceat(weight * self.wrong[order].astype(float), starts, axis=1).cumsum(axis=1)
        total = answered[:, -1:]
        risk = np.divide(lost, answered, out=np.zeros_like(lost), where=answered > 0)
        return answered / total, risk, step / total

    def aurc(self) -> Floats:
        """(B,) mean risk over coverage (Geifman, Uziel & El-Yaniv 2019)."""
        _, risk, step = self.curve()
        return (risk * step).sum(axis=1)

    def excess(self) -> Floats:
        """(B,) AURC less that of the best order, in which every error comes last."""
        weight = np.ones((1, len(self.wrong))) if self.weights is None else self.weights
        ideal = Selective(-self.wrong.astype(float), self.wrong, weight)
        # Ties of the best order are parted: errors come one by one.
        best = _parted(ideal.wrong, weight)
        return self.aurc() - best

    def accuracy_at(self, coverage: float) -> Floats:
        """(B,) share right among the most confident `coverage` of all."""
        answered, risk, _ = self.curve()
        at = (answered >= coverage * (1 - 1e-12)).argmax(axis=1)
        return 1 - risk[np.arange(len(risk)), at]

    def coverage_at(self, risk: float) -> Floats:
        """(B,) largest share that can be answered with at most this risk."""
        answered, found, _ = self.curve()
        return np.where(found <= risk * (1 + 1e-12), answered, 0.0).max(axis=1)


def _parted(wrong: NDArray[Any], weights: Floats) -> Floats:
    order = np.argsort(wrong, kind="stable")
    weight = weights[:, order]
    answered = weight.cumsum(axis=1)
    lost = (weight * wrong[order]).cumsum(axis=1)
    risk = np.divide(lost, answered, out=np.full_like(lost, 0.0), where=answered > 0)
    total = answered[:, -1]
    return np.where(total > 0, (risk * weight).sum(axis=1) / np.where(total > 0, total, 1), math.nan)
