"""What will be computed and why: an object that can be printed before anything runs, and the one chooser behind it."""

from __future__ import annotations

from dataclasses import dataclass

from allmasks.errors import MethodNotApplicable
from allmasks.methods import METHODS, Method
from allmasks.methods.options import Averaged, Option, Sites, power_of_two
from allmasks.over_masks.request import Request
from allmasks.results import GUARANTEES, Guarantee
from allmasks.sites import DropoutSite

__all__ = ["Plan", "plan"]


@dataclass(frozen=True, repr=False)
class Plan:
    """How an expected loss, or a prediction, would be computed. Print it.

    Attributes
    ----------
    sites : the model's dropout sites.
    n_examples : of the data.
    mask_bits : random bits of one example's joint mask; there are 2**mask_bits masks.
    chosen : the option that will run.
    options : every option. reasons : why each was not chosen.
    evaluations : forward evaluations (masks times examples) of the chosen option; None while a tolerance and its
        pilot have yet to fix the number of masks.
    loss, task : which loss, or which prediction; the other is empty.
    """

    sites: tuple[DropoutSite, ...]
    n_examples: int
    mask_bits: int
    chosen: Option
    options: tuple[Option, ...]
    reasons: tuple[str, ...]
    evaluations: int | None
    notes: tuple[str, ...] = ()
    loss: str = ""
    task: str = ""

    @property
    def method(self) -> Method:
        """The method that will run."""
        return self.chosen.method

    @property
    def guarantee(self) -> Guarantee:
        """What the error will mean."""
        return self.chosen.guarantee

    @property
    def n_masks(self) -> int:
        """Masks an example that will be drawn or listed; 0 where there is none to, or while a pilot has yet to say."""
        return self.chosen.n_masks if self.chosen.sites else 0

    def without(self, option: Option) -> Option:
        """What would be chosen were this option not there."""
        return _choose(tuple(other for other in self.options if other is not option))[0]

    def __repr__(self) -> str:
        what = f"E_m[L]: {self.n_examples} examples, loss {self.loss}"
        if self.task:
            what = f"predictions: {self.n_examples} examples, task {self.task}"
        lines = [
            f"Plan for {what}",
            f"  {len(self.sites)} dropout sites, {self.mask_bits} random bits an example: "
            f"{power_of_two(self.mask_bits)} masks",
        ]
        width = max((len(site.name) for site in self.sites), default=0)
        for site in self.sites:
            lines.append(f"    {site.name:<{width}}  {site.kind}  p={site.p:g}  mask {site.shape}  {site.units} bits")
        cost = "masks fixed by a pilot run" if self.evaluations is None else f"{self.evaluations:,} evaluations"
        lines += [
            f"  chosen: {self.chosen.method!r}",
            f"    {self.chosen.how}",
            f"    guarantee: {self.guarantee} ({GUARANTEES[self.guarantee]}); cost: {cost}",
        ]
        others = [(o, r) for o, r in zip(self.options, self.reasons, strict=True) if o is not self.chosen]
        if others:
            lines.append("  not chosen:")
            lines += [f"    {option.method.name}: {reason}" for option, reason in others]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def plan(averaged: Averaged, sites: Sites, request: Request) -> Plan:
    """What to do about the masks of these sites, all others at their mean mask.

    Raises
    ------
    MethodNotApplicable : the method asked for does not apply.
    UncontrolledRandomness : one of the sites cannot be given masks.
    """
    look = averaged.look
    look.refuse_stuck(sites)
    options = _options(averaged, sites, request)
    if request.method is None or not sites:
        chosen, reasons = _choose(options)
    else:
        chosen = _asked_for(averaged, request.method, options)
        reasons = tuple(option.refusal or "another method was asked for" for option in options)
    return Plan(
        sites=look.sites,
        n_examples=look.n_examples,
        mask_bits=sum(site.law.random_units for site in sites),
        chosen=chosen,
        options=options,
        reasons=reasons,
        evaluations=chosen.n_masks * look.n_examples or None,
        notes=averaged.notes,
        **averaged.title,
    )


def _choose(options: tuple[Option, ...]) -> tuple[Option, tuple[str, ...]]:
    """The strongest guarantee of those within reach, then the cheapest; and each option's reason."""
    order = list(GUARANTEES)
    within = [option for option in options if option.refusal is None and option.reluctance is None]
    chosen = min(within, key=lambda option: (order.index(option.guarantee), option.n_masks))
    other = f"{chosen.method.name} gives a stronger guarantee or costs less"
    return chosen, tuple(option.refusal or option.reluctance or other for option in options)


def _options(averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
    """What every method can do, and the one asked for with its own settings."""
    if not sites:
        return (averaged.unvaried(request.method),)
    own = {type(method): method for method in METHODS}
    if request.method is not None:
        own[type(request.method)] = request.method
    return tuple(option for method in own.values() for option in method.on_model(averaged, sites, request))


def _asked_for(averaged: Averaged, method: Method, options: tuple[Option, ...]) -> Option:
    """The first option of the method's type that applies."""
    candidates = [option for option in options if type(option.method) is type(method)]
    found = next((option for option in candidates if option.applies), None)
    if found is None:
        needs = str(candidates[0].refusal) if candidates else "a loss it has a formula for"
        raise MethodNotApplicable(method.name, needs, averaged.instead(method, options))
    return found
