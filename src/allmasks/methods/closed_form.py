"""Explicit formulas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from allmasks.methods.base import Answer, LossAsked, Method, Refusal
from allmasks.results import Guarantee
from allmasks.scores.exponentials import exponential_moments
from allmasks.scores.formulas import CLOSED_FORMS, closed_form
from allmasks.scores.links import Link
from allmasks.scores.score import Moments, RowResults, ScoreProblem

__all__ = ["ClosedForm"]


@dataclass(frozen=True, repr=False)
class ClosedForm(Method):
    """An explicit formula: squared, Poisson and exponential losses of a dropped-out linear score. Exact."""

    def integrates(self, loss: str) -> Guarantee | None:
        return "exact" if loss in ("squared_error", "poisson") else None

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if not isinstance(asked.loss, CLOSED_FORMS):
            return Refusal(f"the {asked.loss.name} loss has no formula")
        formula = partial(closed_form, loss=asked.loss, want_grad=asked.want_grad)
        return Answer("exact", asked.by_output(formula))

    def on_moments(self, problem: ScoreProblem, link: Link) -> Answer[Moments] | Refusal:
        if link == "identity":
            return Answer("exact", problem.moments)
        if link == "log":
            return Answer("exact", partial(exponential_moments, problem))
        return super().on_moments(problem, link)
