"""What will be computed and why: an object that can be printed before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from allmasks.methods import Delta, Enumeration, GaussianMoments, Method
from allmasks.results import GUARANTEES, Guarantee
from allmasks.sites import DropoutSite

__all__ = ["DEFAULT_BUDGET", "Option", "Plan"]

DEFAULT_BUDGET = 2**20
"""Evaluations (masks times examples) that `method=None` will spend to list every mask instead of sampling."""


@dataclass(frozen=True)
class Option:
    """One way to compute E_m[L] here: what it would give and cost, or why it does not apply."""

    method: Method
    how: str
    guarantee: Guarantee
    n_masks: int
    refusal: str | None = None
    integrates_last: bool = False

    @property
    def applies(self) -> bool:
        return self.refusal is None


@dataclass(frozen=True, repr=False)
class Plan:
    """How an expected loss would be computed. Print it.

    Attributes
    ----------
    sites : the model's dropout sites.
    n_examples, loss : of the data.
    mask_bits : random bits of one example's joint mask; there are 2**mask_bits masks.
    chosen : the option that will run.
    options : every option, with the reason where it was not chosen.
    evaluations : forward evaluations (masks times examples) of the chosen option; None while a tolerance and its
        pilot have yet to fix the number of masks.
    """

    sites: tuple[DropoutSite, ...]
    n_examples: int
    loss: str
    mask_bits: int
    chosen: Option
    options: tuple[Option, ...]
    reasons: tuple[str, ...]
    evaluations: int | None
    notes: tuple[str, ...] = ()

    @property
    def method(self) -> Method:
        """The method that will run."""
        return self.chosen.method

    @property
    def guarantee(self) -> Guarantee:
        """What the error will mean."""
        return self.chosen.guarantee

    def __repr__(self) -> str:
        lines = [
            f"Plan for E_m[L]: {self.n_examples} examples, loss {self.loss}",
            f"  {len(self.sites)} dropout sites, {self.mask_bits} random bits an example: "
            f"{_power_of_two(self.mask_bits)} masks",
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


def choose(
    options: tuple[Option, ...], n_examples: int, budget: int | None, n_masks: int | None
) -> tuple[Option, tuple[str, ...]]:
    """The strongest guarantee that fits the budget, then the cheapest; and each option's reason.

    A number of masks that is asked for caps how many are listed, unless a budget allows for more.
    """
    limit = max((budget or DEFAULT_BUDGET) // n_examples, n_masks or 0)
    if n_masks is not None and budget is None:
        limit = n_masks
    order = list(GUARANTEES)
    affordable: list[Option] = []
    reasons: dict[int, str] = {}
    for i, option in enumerate(options):
        if option.refusal is not None:
            reasons[i] = option.refusal
        elif isinstance(option.method, GaussianMoments | Delta):
            reasons[i] = "an approximation without an error; used only when asked for"
        elif isinstance(option.method, Enumeration) and option.n_masks > limit:
            listed = f"{_power_of_two(int(math.log2(option.n_masks)))} masks for each of {n_examples} examples are"
            over = f"over the budget of {budget or DEFAULT_BUDGET:,} evaluations"
            if limit == n_masks:
                over = f"more than n_masks={n_masks}"
            reasons[i] = f"{listed} {over}; pass budget= or method=am.methods.Enumeration() to do it anyway"
        else:
            affordable.append(option)
    chosen = min(affordable, key=lambda o: (order.index(o.guarantee), o.n_masks))
    return chosen, tuple(
        reasons.get(i, f"{chosen.method.name} gives a stronger guarantee or costs less") for i in range(len(options))
    )


def find_option(options: tuple[Option, ...], method: Method) -> Option | None:
    """The option that runs a method of this type."""
    return next((o for o in options if type(o.method) is type(method)), None)


def _power_of_two(bits: int) -> str:
    return f"2^{bits}" if bits > 16 else f"{2**bits:,}"
