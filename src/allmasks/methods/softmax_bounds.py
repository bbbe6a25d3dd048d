"""Proven bounds of the softmax of several classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from allmasks.errors import MethodNotApplicable
from allmasks.methods.base import Answer, ClassesAsked, LossAsked, Method, Refusal
from allmasks.methods.options import Averaged, Option, Sites
from allmasks.sampling import masks_drawn
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.mixed import mixed_losses
from allmasks.scores.score import Moments, RowResults
from allmasks.scores.softmax import bounded_losses, share_moments

if TYPE_CHECKING:
    from allmasks.over_masks.request import Request

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
        mass = np.abs(asked.targets).sum(axis=1)
        wide = found.error > self.tol * np.maximum(1.0, mass)
        if not wide.any():
            return found.results(asked.problem, asked.targets)
        if asked.rest is None:
            self.refuse_wide(found.error, mass)
            raise AssertionError("rows that are too wide are refused")
        return mixed_losses(asked.problem, asked.targets, found, wide, self, asked.rest, asked.seed, asked.want_grad)

    def refuse_wide(self, error: np.ndarray, mass: np.ndarray, first: int = 0) -> None:
        """Refuse rows that no bound brings within tol, numbered from `first`, and say how far off they are.

        error : (n,) half of each width. mass : (n,) sum of each row's targets.
        """
        rows = np.flatnonzero(error > self.tol * np.maximum(1.0, mass))
        if not len(rows):
            return
        some = ", ".join(f"{first + row} (± {error[row]:.2g})" for row in rows[:_NAMED])
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        needs = f"the bounds of {len(rows)} of {len(error)} rows are wider than tol={self.tol:g}: rows {some}{more}"
        raise MethodNotApplicable("SoftmaxBounds", needs, _INSTEAD)

    def on_model(self, averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
        """Where dropout before the last Linear is alone, its bounds; else those inside each mask of the others."""
        refusal = averaged.unbounded(sites)
        others, last = averaged.look.split(sites)
        asked = isinstance(request.method, SoftmaxBounds)
        own = self if asked or request.atol is None else replace(self, tol=min(self.tol, request.atol))
        if not others or last is None:
            how = "the only random site feeds the last Linear: its softmax over all masks between proven bounds"
            beside = None
            if len(sites) < len(averaged.look.random_sites) and not asked:
                beside = "losses of other sites are compared with it mask by mask; used only when asked for"
            if not averaged.bounds_by_themselves and not asked:
                beside = "its width is known afterwards only; used only when asked for"
            return (Option(own, how, "bounded", 1, refusal, integrates_last=True, reluctance=beside),)
        sampling = request.sampling
        drawn = 0 if sampling.atol or sampling.rtol else masks_drawn(sampling)
        how = f"{type(sampling.sampler).__name__} masks; those of {last.name} between proven bounds for each"
        slower = None if asked else "bounds for each mask cost more than masks of that site; used only when asked for"
        return (
            Option(own, how, "statistical", drawn, refusal, True, others, reluctance=slower, sampler=sampling.sampler),
        )


_NAMED = 5

_INSTEAD = "a larger tol, method=None, which samples those rows, or MonteCarlo()"
