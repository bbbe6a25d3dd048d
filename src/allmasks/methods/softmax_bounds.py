"""Proven bounds of the softmax of several classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from allmasks.errors import MethodNotApplicable
from allmasks.methods.base import Answer, ClassesAsked, LossAsked, Method, Refusal
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.mixed import mixed_losses
from allmasks.scores.score import Moments, RowResults
from allmasks.scores.softmax import bounded_losses, share_moments

__all__ = ["SoftmaxBounds"]


@dataclass(frozen=True, repr=False)
class SoftmaxBounds(Method):
    """Cross-entropy of several classes between two proven bounds, without sampling: from exact moments of Σ e^S.

    Parameters
    ----------
    tol : half of the width that a row may have, in nats; rows that no bound brings there are refused by name.
    moments : 2 or 4: no more than so many. None: as many as a row takes.
    """

    tol: float = 1e-3
    moments: int | None = None

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise ValueError(f"tol must be positive, got {self.tol}")
        if self.moments not in (None, 2, 4):
            raise ValueError(f"moments must be 2, 4 or None, got {self.moments!r}")

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        return Refusal('it is for loss="cross_entropy", of several classes')

    def on_classes(self, asked: ClassesAsked) -> Answer[RowResults] | Refusal:
        return Answer("bounded", partial(self._losses, asked))

    def on_shares(self, problem: ClassProblem) -> Answer[Moments] | Refusal:
        return Answer("bounded", partial(share_moments, problem, self))

    def _losses(self, asked: ClassesAsked) -> RowResults:
        found = bounded_losses(asked.problem, asked.targets, self, asked.want_grad)
        wide = found.error > self.tol * np.maximum(1.0, np.abs(asked.targets).sum(axis=1))
        if not wide.any():
            return found.results(asked.problem, asked.targets)
        if asked.rest is None:
            raise MethodNotApplicable("SoftmaxBounds", self.too_wide(found.error, wide), _INSTEAD)
        return mixed_losses(asked.problem, asked.targets, found, wide, self, asked.rest, asked.seed, asked.want_grad)

    def too_wide(self, error: np.ndarray, wide: np.ndarray) -> str:
        """Which rows no bound brings within tol, and how far off they are."""
        rows = np.flatnonzero(wide)
        some = ", ".join(f"{row} (± {error[row]:.2g})" for row in rows[:_NAMED])
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        return f"the bounds of {len(rows)} of {len(error)} rows are wider than tol={self.tol:g}: rows {some}{more}"


_NAMED = 5

_INSTEAD = "a larger tol, method=None, which samples those rows, or MonteCarlo()"
