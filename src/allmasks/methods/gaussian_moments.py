"""A Gaussian of the score's two moments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from allmasks.methods.base import NO_DERIVATIVE, Answer, LossAsked, Method, Refusal
from allmasks.results import Guarantee
from allmasks.scores.approximate import gaussian_link, gaussian_moments
from allmasks.scores.links import Link
from allmasks.scores.score import Moments, RowResults, ScoreProblem

__all__ = ["GaussianMoments"]


@dataclass(frozen=True, repr=False)
class GaussianMoments(Method):
    """The score replaced by a Gaussian of its mean and variance: "fast dropout" (Wang & Manning 2013).

    An approximation with no error bound (`guarantee="uncontrolled"`): used only when asked for.
    """

    def integrates(self, loss: str) -> Guarantee | None:
        return "uncontrolled"

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if asked.no_derivative:
            return NO_DERIVATIVE
        formula = partial(gaussian_moments, loss=asked.loss, want_grad=asked.want_grad)
        return Answer("uncontrolled", asked.by_output(formula))

    def on_moments(self, problem: ScoreProblem, link: Link) -> Answer[Moments] | Refusal:
        return Answer("uncontrolled", partial(gaussian_link, problem, link))
