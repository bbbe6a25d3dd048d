"""What a method is: a value with its own settings that says what it can do for a question, why not, and how.

A method is a frozen dataclass that is asked about

- `on_scores(asked)`: the mean loss of a dropped-out linear score (`expected_score_loss`),
- `on_classes(asked)`, `on_shares(problem)`: the cross-entropy and the softmax of several classes' scores,
- `on_moments(problem, link)`: mean and variance of a link of it (`expected_score`): with an `Answer`, which is what the
  error would mean, how many masks it takes and the run itself, or with a `Refusal`;
- `on_model(averaged, sites, request)`: a model's loss or predictions, with `Option`s, each of which may be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from allmasks.losses import CallableScoreLoss, ScoreLoss
from allmasks.methods.options import Averaged, Option, Sites
from allmasks.results import Guarantee
from allmasks.sampling import Sampling
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.links import Link
from allmasks.scores.score import Moments, RowResults, ScoreProblem

if TYPE_CHECKING:
    from allmasks.over_masks.request import Request

__all__ = ["NO_DERIVATIVE", "Answer", "ClassesAsked", "LossAsked", "Method", "Refusal"]

Array = NDArray[np.float64]
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Answer(Generic[T_co]):
    """How a method would answer.

    Parameters
    ----------
    guarantee : what the error will mean.
    run : answers.
    masks : listed or drawn for a row; a formula takes none.
    """

    guarantee: Guarantee
    run: Callable[[], T_co]
    masks: float = 0


@dataclass(frozen=True)
class Refusal:
    """Why a method does not apply, and what to do instead.

    Parameters
    ----------
    needs : what is missing, without a full stop.
    instead : where `{best}` stands for the methods that no other beats both in guarantee and in masks, `{formula}` for
        those of them that take no masks, and `{all}` for every other method that applies.
    """

    needs: str
    instead: str = "{best}"


NO_DERIVATIVE = Refusal(
    "return_grad needs the loss's derivative, which a callable does not have", "{formula}, or a named loss"
)


@dataclass(frozen=True)
class LossAsked:
    """The mean loss of dropped-out scores, summed over outputs, and where wanted its gradient.

    Parameters
    ----------
    problems : one an output; they differ in weights and intercept.
    y : targets (n, outputs).
    """

    problems: list[ScoreProblem]
    y: Array
    loss: ScoreLoss
    seed: int
    want_grad: bool

    @property
    def no_derivative(self) -> bool:
        """Whether a gradient is wanted of a loss that is only known as a function."""
        return self.want_grad and isinstance(self.loss, CallableScoreLoss)

    def by_output(self, formula: Callable[[ScoreProblem, Array], RowResults]) -> Callable[[], RowResults]:
        """A run that answers for each output by itself and adds up."""

        def run() -> RowResults:
            # What no double can hold is inf, and a note says so.
            with np.errstate(over="ignore", under="ignore"):
                results = [formula(problem, self.y[:, c].copy()) for c, problem in enumerate(self.problems)]
            return RowResults.added(results)

        return run


@dataclass(frozen=True)
class ClassesAsked:
    """The mean cross-entropy of the dropped-out scores of several classes, and where wanted its gradient.

    Parameters
    ----------
    targets : share of each class (n, K).
    rest : how rows that the method cannot answer are sampled; None where it must refuse.
    """

    problem: ClassProblem
    targets: Array
    seed: int
    want_grad: bool
    rest: Sampling | None = None


@dataclass(frozen=True, repr=False)
class Method:
    """Base of all methods."""

    @property
    def name(self) -> str:
        """How reports and plans call it."""
        return type(self).__name__

    def __repr__(self) -> str:
        # Fields at their defaults say nothing; the sampler is always told, since it decides what the error is worth.
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(shown)})"

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        """How it would compute the mean loss of dropped-out scores."""
        return Refusal("it is not for scores")

    def on_classes(self, asked: ClassesAsked) -> Answer[RowResults] | Refusal:
        """How it would compute the mean cross-entropy of several classes' dropped-out scores."""
        return Refusal("it has no formula for the cross-entropy of several classes")

    def on_shares(self, problem: ClassProblem) -> Answer[Moments] | Refusal:
        """How it would compute mean and variance of each class's softmax of dropped-out scores."""
        return Refusal("it has no moments for the softmax link", "method=None, {all}")

    def on_moments(self, problem: ScoreProblem, link: Link) -> Answer[Moments] | Refusal:
        """How it would compute mean and variance of link⁻¹ of a dropped-out score."""
        return Refusal(f"it has no moments for the {link} link", "method=None, {all}")

    def integrates(self, loss: str) -> Guarantee | None:
        """What its formula gives for this loss of the last Linear's outputs over the masks before it; None for none."""
        return None

    def on_model(self, averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
        """Its options for the masks of these sites; by default a formula, where the only one feeds the last Linear."""
        found = averaged.formula(self, sites)
        if found is None:
            return ()
        guarantee, refusal = found
        others, _ = averaged.look.split(sites)
        if refusal is None and others:
            refusal = f"other sites are random too: {', '.join(site.name for site in others)}"
        if refusal is None and averaged.keeps_samples:
            refusal = "keep_samples=False: nothing is sampled"
        how = f"the only random site feeds the last Linear: {self.name} over all its masks"
        reluctance = "an approximation without an error; used only when asked for"
        willing = None if guarantee != "uncontrolled" else reluctance
        return (Option(self, how, guarantee, 1, refusal, integrates_last=True, reluctance=willing),)
