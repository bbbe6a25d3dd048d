"""What can be done about the masks of a look: every option with its guarantee and cost, or why it does not apply.

The protocol of a method: a function of (averaged, sites, request) that gives its options there, none, one or several.

- `averaged` is what is averaged over masks (`Averaged`: a loss, or a model's predictions); `averaged.look` is the model
  and its data. `sites` are those whose masks vary, `request` the call's keywords.
- An `Option` carries the method, how it goes about it in words, the guarantee, the number of masks an example, the
  sites whose masks are gone through, and what becomes of the last layer's. `refusal` says why it does not apply;
  `reluctance` why it does, but is taken only when asked for.

`BUILDERS` says which function answers for which type of method; the plan is chosen from what they give (`plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, Method, MonteCarlo
from allmasks.over_masks.look import Look
from allmasks.over_masks.request import Request
from allmasks.over_masks.sources import EveryMask, MaskSource, NoMask, SampledMasks
from allmasks.results import Guarantee
from allmasks.sampling import blocks_of, masks_drawn
from allmasks.sites import DropoutSite

__all__ = [
    "BUILDERS",
    "DEFAULT_BUDGET",
    "Averaged",
    "Option",
    "Treatment",
    "dependent",
    "options_of",
    "over_budget",
    "power_of_two",
]

DEFAULT_BUDGET = 2**20
"""Evaluations (masks times examples) that `method=None` will spend to list every mask instead of sampling."""

Sites = tuple[DropoutSite, ...]


@dataclass(frozen=True)
class Option:
    """One way to average over masks here: what it would give and cost, or why it does not apply.

    Attributes
    ----------
    n_masks : masks an example, 1 where there is none to go through, 0 while a pilot has yet to say.
    sites : whose masks are drawn or listed.
    integrates_last : whether the last layer's masks are integrated by a formula.
    inner : masks of the last layer for each mask of the sites, where it has masks of its own.
    refusal : why it does not apply.
    reluctance : why it is taken only when it is asked for.
    """

    method: Method
    how: str
    guarantee: Guarantee
    n_masks: int
    refusal: str | None = None
    integrates_last: bool = False
    sites: Sites = ()
    inner: int = 1
    reluctance: str | None = None

    @property
    def applies(self) -> bool:
        return self.refusal is None

    def source(self, n_masks: int, seed: int, first: int = 0) -> MaskSource:
        """Its masks; of a sample, `n_masks` from number `first` on."""
        if not self.sites:
            return NoMask()
        if isinstance(self.method, MonteCarlo):
            return SampledMasks(self.sites, self.method.sampler, n_masks, seed, first)
        return EveryMask(self.sites)


class Treatment(NamedTuple):
    """What becomes of the last layer's masks where others are sampled: see `Option`; `how` in words."""

    sites: Sites
    integrates_last: bool = False
    inner: int = 1
    how: str = ""


class Averaged(Protocol):
    """What is averaged over masks."""

    @property
    def look(self) -> Look:
        """The model and its data."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of what was looked at."""
        ...

    @property
    def title(self) -> Mapping[str, Any]:
        """What it is, as a field of `Plan`."""
        ...

    @property
    def keeps_samples(self) -> bool:
        """Whether what each mask gives is kept, so that there must be masks drawn."""
        ...

    @property
    def integrates_below(self) -> bool:
        """Whether the last layer's masks are also integrated where those of other sites are listed."""
        ...

    def unvaried(self, method: Method | None) -> Option:
        """The only option where no mask varies."""
        ...

    def formulas(self, sites: Sites) -> Mapping[type[Method], str | None]:
        """Methods that have a formula for the last layer's masks, or may be thought to; and why not here."""
        ...

    def unlisted(self, sites: Sites) -> str | None:
        """Why the masks of these sites cannot be listed, whatever they cost."""
        ...

    def integrates(self, sites: Sites) -> bool:
        """Whether a formula integrates the last layer's masks, for each mask of the others."""
        ...

    def too_many(self, n_masks: int, request: Request) -> str | None:
        """Why so many masks are not listed unless that is asked for."""
        ...

    def sampled(self, sites: Sites, method: MonteCarlo) -> Treatment | str:
        """How masks are sampled here, or why that does not apply."""
        ...

    def instead(self, method: Method, options: tuple[Option, ...]) -> str:
        """What to do where that method does not apply."""
        ...


Builder = Callable[[type[Method], Averaged, Sites, Request], tuple[Option, ...]]


def options_of(averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
    """Every way to average over the masks of these sites."""
    if not sites:
        return (averaged.unvaried(request.method),)
    return tuple(option for method, build in BUILDERS.items() for option in build(method, averaged, sites, request))


def by_formula(method: type[Method], averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
    """The only random site feeds the last Linear: a formula for all its masks."""
    known = averaged.formulas(sites)
    if method not in known:
        return ()
    refusal = known[method]
    others, _ = averaged.look.split(sites)
    if refusal is None and others:
        refusal = f"other sites are random too: {', '.join(site.name for site in others)}"
    if refusal is None and averaged.keeps_samples:
        refusal = "keep_samples=False: nothing is sampled"
    approximate = method in (GaussianMoments, Delta)
    exact = next(formula for formula in known if formula not in (GaussianMoments, Delta))
    return (
        Option(
            method(),
            f"the only random site feeds the last Linear: {exact.__name__} over all its masks",
            "uncontrolled" if approximate else "exact",
            1,
            refusal,
            integrates_last=True,
            reluctance="an approximation without an error; used only when asked for" if approximate else None,
        ),
    )


def by_enumeration(method: type[Method], averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
    """Every mask of the sites; and every mask of those below the last layer, whose own are integrated for each."""
    look = averaged.look
    own = request.method if isinstance(request.method, Enumeration) else Enumeration()
    others, last = look.split(sites)
    refusal = unlisted = averaged.unlisted(sites)
    if refusal is None and any(map(look.varies_in_form, sites)):
        refusal = "batches are of several shapes, and each has masks of its own"

    def row(how: str, listed: Sites, refusal: str | None, integrates_last: bool) -> Option:
        bits = sum(site.law.random_units for site in listed)
        if refusal is None and 2**bits > own.max_masks:
            refusal = f"{bits} random bits are 2^{bits} masks, more than max_masks={own.max_masks}"
        n_masks = 2 ** min(bits, 1000)
        willing = refusal is not None or request.method is not None
        reluctance = None if willing else averaged.too_many(n_masks, request)
        return Option(own, how, "exact", n_masks, refusal, integrates_last, listed, reluctance=reluctance)

    rows = [row("every mask, weighted by its probability", sites, refusal, False)]
    if averaged.integrates_below and last is not None and others and averaged.integrates(sites):
        how = f"every mask of the sites before {last.name}, whose own masks are integrated exactly for each"
        rows.append(row(how, others, rows[0].refusal if look.forms else unlisted, True))
    return tuple(rows)


def by_sampling(method: type[Method], averaged: Averaged, sites: Sites, request: Request) -> tuple[Option, ...]:
    """Sampled masks, as many as are asked for or as a tolerance takes; the last layer's treated as is best there."""
    sampling = request.sampling
    drawn = 0 if sampling.atol or sampling.rtol else masks_drawn(sampling)
    block = blocks_of(sampling.sampler, drawn).block if drawn else sampling.sampler.block
    found = averaged.sampled(sites, sampling)
    treatment, refusal = (Treatment(sites), found) if isinstance(found, str) else (found, None)
    how = f"{type(sampling.sampler).__name__} masks in blocks of {block}{treatment.how}"
    option = Option(sampling, how, "statistical", drawn, refusal, treatment.integrates_last, treatment.sites)
    return (replace(option, inner=treatment.inner),)


BUILDERS: dict[type[Method], Builder] = {
    ClosedForm: by_formula,
    Fourier: by_formula,
    GaussianMoments: by_formula,
    Delta: by_formula,
    Enumeration: by_enumeration,
    MonteCarlo: by_sampling,
}
"""Which function answers for which method, in the order of plans."""


def dependent(sites: Sites) -> str | None:
    """Why exact methods do not apply: a site whose units are not independent."""
    return next((f"{site.name}: {site.dependent}" for site in sites if site.dependent), None)


def over_budget(n_masks: int, at_most: int, n_examples: int, request: Request) -> str | None:
    """Why so many masks are more than are listed by themselves, where that is so."""
    if n_masks <= at_most:
        return None
    over = f"over the budget of {request.budget or DEFAULT_BUDGET:,} evaluations"
    if at_most == request.sampling.n_masks:
        over = f"more than n_masks={at_most}"
    return (
        f"{power_of_two(int(math.log2(n_masks)))} masks for each of {n_examples} examples are {over}; pass budget= or "
        "method=am.methods.Enumeration() to do it anyway"
    )


def power_of_two(bits: int) -> str:
    """2^bits as people read it."""
    return f"2^{bits}" if bits > 16 else f"{2**bits:,}"
