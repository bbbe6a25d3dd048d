"""Every mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from allmasks.methods.base import NO_DERIVATIVE, Answer, LossAsked, Method, MomentsAsked, Refusal
from allmasks.scores.every_mask import enumerate_loss
from allmasks.scores.links import enumerated_moments
from allmasks.scores.score import Moments, RowResults, ScoreProblem

__all__ = ["Enumeration"]


@dataclass(frozen=True, repr=False)
class Enumeration(Method):
    """Every mask, weighted by its probability. Exact, where there are few enough.

    Parameters
    ----------
    max_masks : most masks an example may have.
    """

    max_masks: int = 2**20

    def __post_init__(self) -> None:
        if self.max_masks < 1:
            raise ValueError(f"max_masks must be at least 1, got {self.max_masks}")

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if asked.no_derivative:
            return NO_DERIVATIVE
        listed = partial(enumerate_loss, loss=asked.loss, max_masks=self.max_masks, want_grad=asked.want_grad)
        return Answer("exact", asked.by_output(listed), _at_most(asked.problems[0]))

    def on_moments(self, asked: MomentsAsked) -> Answer[Moments] | Refusal:
        listed = partial(enumerated_moments, asked.problem, asked.link, self.max_masks)
        return Answer("exact", listed, _at_most(asked.problem))


def _at_most(problem: ScoreProblem) -> float:
    """Masks a row can have; one with inputs of 0 has fewer."""
    return 2.0 ** min(int(np.count_nonzero(problem.p)), 1000)
