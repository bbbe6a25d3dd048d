"""One integral over the characteristic function."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from allmasks.losses import Logistic
from allmasks.methods.base import Answer, LossAsked, Method, Refusal
from allmasks.results import Guarantee
from allmasks.scores.characteristic import fourier_logistic, guaranteed, sigmoid_moments
from allmasks.scores.cosine import cosine_loss
from allmasks.scores.links import Link
from allmasks.scores.score import Moments, RowResults, ScoreProblem

__all__ = ["Fourier"]


@dataclass(frozen=True, repr=False)
class Fourier(Method):
    """One integral over the score's characteristic function: the logistic loss over all masks, to round-off.

    Parameters
    ----------
    tol : truncation error allowed a row, proven by a tail bound, relative to 1 + |score|.
    max_nodes : most nodes a row; past it the method refuses.
    """

    tol: float = 1e-12
    max_nodes: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}")
        if self.max_nodes < 2:
            raise ValueError(f"max_nodes must be at least 2, got {self.max_nodes}")

    def integrates(self, loss: str) -> Guarantee | None:
        return guaranteed(self) if loss == "logistic" else None

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if isinstance(asked.loss, Logistic):
            logistic = partial(fourier_logistic, rule=self, want_grad=asked.want_grad)
            return Answer(guaranteed(self), asked.by_output(logistic))
        series = partial(cosine_loss, loss=asked.loss, rule=self, want_grad=asked.want_grad)
        return Answer("estimated", asked.by_output(series))

    def on_moments(self, problem: ScoreProblem, link: Link) -> Answer[Moments] | Refusal:
        if link == "logistic":
            return Answer(guaranteed(self), partial(sigmoid_moments, problem, self))
        return super().on_moments(problem, link)
