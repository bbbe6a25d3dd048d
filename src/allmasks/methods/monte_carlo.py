"""Sampled masks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from allmasks.losses import ClassCrossEntropy
from allmasks.methods.base import NO_DERIVATIVE, Answer, ClassesAsked, LossAsked, Method, Refusal
from allmasks.methods.options import Averaged, Option, Sites, Treatment
from allmasks.samplers import LatinHypercube, Sampler
from allmasks.sampling import blocks_of, masks_drawn
from allmasks.scores.class_scores import over_classes
from allmasks.scores.sampled import sampled_losses
from allmasks.scores.score import RowResults

if TYPE_CHECKING:
    from allmasks.over_masks.request import Request

__all__ = ["MonteCarlo", "asked_for"]


@dataclass(frozen=True, repr=False)
class MonteCarlo(Method):
    """The mean over sampled masks, with its standard error from independent blocks of masks.

    Parameters
    ----------
    n_masks : masks an example, exactly so many, 1 or more; beside atol or rtol the most that may be drawn.
    atol, rtol : the standard error wanted, absolute or relative to the value. A pilot
        of fixed size then fixes n once; there is no peeking.
    sampler : how masks are drawn together.
    control : None, or "quadratic": subtract the last layer's second-order form and add its exact mean.
    """

    n_masks: int | None = None
    atol: float | None = None
    rtol: float | None = None
    sampler: Sampler = field(default_factory=LatinHypercube)
    control: str | None = None

    def __post_init__(self) -> None:
        if self.n_masks is not None and (isinstance(self.n_masks, bool) or self.n_masks != int(self.n_masks)):
            raise ValueError(f"n_masks must be a whole number, got {self.n_masks}")
        if self.n_masks is not None and self.n_masks < 1:
            raise ValueError(f"n_masks must be at least 1, got {self.n_masks}")
        for name in ("atol", "rtol"):
            tolerance = getattr(self, name)
            if tolerance is not None and not tolerance > 0:
                raise ValueError(f"{name} must be positive, got {tolerance}")
        if self.control not in (None, "quadratic"):
            raise ValueError(f'control must be None or "quadratic", got {self.control!r}')
        if not isinstance(self.sampler, Sampler):
            raise TypeError(f"sampler must be one of am.samplers, got {self.sampler!r}")

    def on_scores(self, asked: LossAsked) -> Answer[RowResults] | Refusal:
        if self.control is not None:
            return Refusal("control variates are for models", "MonteCarlo(control=None)")
        if asked.no_derivative:
            return NO_DERIVATIVE
        run = partial(sampled_losses, asked.problems, asked.y, asked.loss, self, asked.seed, asked.want_grad)
        return Answer("statistical", run, masks_drawn(self))

    def on_classes(self, asked: ClassesAsked) -> Answer[RowResults] | Refusal:
        if self.control is not None:
            return Refusal("control variates are for models", "MonteCarlo(control=None)")

        def run() -> RowResults:
            each, loss = asked.problem.each, ClassCrossEntropy()
            found = sampled_losses(each, asked.targets, loss, self, asked.seed, asked.want_grad)
            return replace(found, gradients=(over_classes(found.gradients),) if asked.want_grad else ())

        return Answer("statistical", run, masks_drawn(self))

    def on_model(self, averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
        """As many masks as are asked for or as a tolerance takes; the last layer's treated as is best there."""
        own = request.sampling
        drawn = 0 if own.atol or own.rtol else masks_drawn(own)
        block = blocks_of(own.sampler, drawn).block if drawn else own.sampler.block
        found = averaged.sampled(sites, own)
        treatment, refusal = (Treatment(sites), found) if isinstance(found, str) else (found, None)
        how = f"{type(own.sampler).__name__} masks in blocks of {block}{treatment.how}"
        rest = treatment.integrates_last, treatment.sites, treatment.inner
        return (Option(own, how, "statistical", drawn, refusal, *rest, sampler=own.sampler),)


def asked_for(
    method: Method | None, n_masks: int | None = None, atol: float | None = None, rtol: float | None = None
) -> MonteCarlo:
    """The sampling that a method (None, or one that may not sample) and a call's keywords mean together.

    >>> asked_for(MonteCarlo(atol=0.1), n_masks=500)
    MonteCarlo(n_masks=500, atol=0.1, sampler=LatinHypercube())

    Raises
    ------
    ValueError : a method's field and the same keyword with different values.
    """
    own = method if isinstance(method, MonteCarlo) else MonteCarlo()
    given: dict[str, Any] = {"n_masks": n_masks, "atol": atol, "rtol": rtol}
    for name, value in given.items():
        held = getattr(own, name)
        if value is not None and held is not None and held != value:
            raise ValueError(f"{name}={value} beside a method with {name}={held}: pass one of the two")
    return replace(own, **{name: value for name, value in given.items() if value is not None})
