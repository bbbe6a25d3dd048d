"""Second order in the noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from allmasks.losses import CallableScoreLoss
from allmasks.methods.base import Answer, LossAsked, Method, Refusal
from allmasks.results import Guarantee
from allmasks.scores.approximate import delta
from allmasks.scores.score import RowResults

__all__ = ["Delta"]


@dataclass(frozen=True, repr=False)
class Delta(Method):
    """Second order in the noise: L(μ) + ½ L''(μ) σ² (quadratic noising, Wager, Wang & Liang 2013).

    An approximation with no error bound (`guarantee="uncontrolled"`): used only when asked for.
    """

    def integrates(self, loss: str) -> Guarantee | None:
        return "uncontrolled"

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if isinstance(asked.loss, CallableScoreLoss):
            needs = "it needs the loss's second derivative, which a callable does not have"
            return Refusal(needs, "{formula}, or a named loss")
        return Answer("uncontrolled", asked.by_output(partial(delta, loss=asked.loss, want_grad=asked.want_grad)))
