"""What a method is asked about the masks of a model, and what it says: options with guarantee and cost, or why not.

`Method.on_model(averaged, sites, request)` gives options, none, one or several. `averaged` is what is averaged (a loss,
or a model's predictions); `averaged.look` is the model and its data. `sites` are those whose masks vary, `request` the
call's keywords. The plan is chosen from what all methods give (`over_masks.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from allmasks.results import Guarantee
from allmasks.samplers import Sampler

if TYPE_CHECKING:
    from allmasks.methods.base import Method
    from allmasks.methods.monte_carlo import MonteCarlo
    from allmasks.over_masks.look import Look
    from allmasks.over_masks.request import Request
    from allmasks.sites import DropoutSite

__all__ = ["DEFAULT_BUDGET", "Averaged", "Option", "Sites", "Treatment", "dependent", "over_budget", "power_of_two"]

DEFAULT_BUDGET = 2**20
"""Evaluations (masks times examples) that `method=None` will spend to list every mask instead of sampling."""

Sites = tuple["DropoutSite", ...]


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
    sampler : draws the masks, where they are not listed.
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
    sampler: Sampler | None = None

    @property
    def applies(self) -> bool:
        return self.refusal is None


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

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of what was looked at."""

    @property
    def title(self) -> Mapping[str, Any]:
        """What it is, as a field of `Plan`."""

    @property
    def keeps_samples(self) -> bool:
        """Whether what each mask gives is kept, so that there must be masks drawn."""

    @property
    def integrates_below(self) -> bool:
        """Whether the last layer's masks are also integrated where those of other sites are listed."""

    @property
    def bounds_by_themselves(self) -> bool:
        """Whether bounds of the last layer's masks are chosen without being asked for."""

    def unvaried(self, method: Method | None) -> Option:
        """The only option where no mask varies."""

    def formula(self, method: Method, sites: Sites) -> tuple[Guarantee, str | None] | None:
        """What the method's formula for the last layer's masks would give, and why not here; None if it has none."""

    def unlisted(self, sites: Sites) -> str | None:
        """Why the masks of these sites cannot be listed, whatever they cost."""

    def integrates(self, sites: Sites) -> bool:
        """Whether a formula integrates the last layer's masks, for each mask of the others."""

    def unbounded(self, sites: Sites) -> str | None:
        """Why the softmax of the last Linear's outputs has no bounds here over the masks before it; None if it has."""

    def too_many(self, n_masks: int, request: Request) -> str | None:
        """Why so many masks are not listed unless that is asked for."""

    def sampled(self, sites: Sites, method: MonteCarlo) -> Treatment | str:
        """How masks are sampled here, or why that does not apply."""

    def instead(self, method: Method, options: tuple[Option, ...]) -> str:
        """What to do where that method does not apply."""


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
