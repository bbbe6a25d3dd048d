"""Every mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from allmasks.methods.base import NO_DERIVATIVE, Answer, ClassesAsked, LossAsked, Method, Refusal
from allmasks.methods.options import Averaged, Option, Sites
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.every_class_mask import enumerated_classes, enumerated_shares
from allmasks.scores.every_mask import enumerate_loss
from allmasks.scores.links import Link, enumerated_moments
from allmasks.scores.score import Moments, RowResults, ScoreProblem
from allmasks.scores.softmax import middle_moments

if TYPE_CHECKING:
    from allmasks.over_masks.request import Request

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

    def on_classes(self, asked: ClassesAsked) -> Answer[RowResults] | Refusal:
        listed = partial(enumerated_classes, asked.problem, asked.targets, self.max_masks, asked.want_grad)
        return Answer("exact", listed, _at_most(asked.problem))

    def on_shares(self, problem: ClassProblem) -> Answer[Moments] | Refusal:
        def listed() -> Moments:
            return middle_moments(*enumerated_shares(problem, self.max_masks))

        return Answer("exact", listed, _at_most(problem))

    def on_moments(self, problem: ScoreProblem, link: Link) -> Answer[Moments] | Refusal:
        listed = partial(enumerated_moments, problem, link, self.max_masks)
        return Answer("exact", listed, _at_most(problem))

    def on_model(self, averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
        """Every mask of the sites; and every mask of those below the last layer, whose own are integrated for each."""
        look = averaged.look
        others, last = look.split(sites)
        refusal = averaged.unlisted(sites)
        if refusal is None and any(map(look.varies_in_form, sites)):
            refusal = "batches are of several shapes, and each has masks of its own"

        def row(how: str, listed: Sites, refusal: str | None, integrates_last: bool) -> Option:
            bits = sum(site.law.random_units for site in listed)
            if refusal is None and 2**bits > self.max_masks:
                refusal = f"{bits} random bits are 2^{bits} masks, more than max_masks={self.max_masks}"
            n_masks = 2 ** min(bits, 1000)
            willing = refusal is not None or request.method is not None
            reluctance = None if willing else averaged.too_many(n_masks, request)
            return Option(self, how, "exact", n_masks, refusal, integrates_last, listed, reluctance=reluctance)

        rows = [row("every mask, weighted by its probability", sites, refusal, False)]
        if averaged.integrates_below and last is not None and others and averaged.integrates(sites):
            how = f"every mask of the sites before {last.name}, whose own masks are integrated exactly for each"
            rows.append(row(how, others, rows[0].refusal if look.forms else averaged.unlisted(sites), True))
        return tuple(rows)


def _at_most(problem: ScoreProblem | ClassProblem) -> float:
    """Masks a row can have; one with inputs of 0 has fewer."""
    return 2.0 ** min(int(np.count_nonzero(problem.p)), 1000)
