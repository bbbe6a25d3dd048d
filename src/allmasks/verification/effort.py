"""How much a run does: passes, gradients and draws of the law, by what is to be caught and by what a pass costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from allmasks.results import Note
from allmasks.sites import DropoutSite
from allmasks.verification.detectable import Slope, enough_passes, slopes_of, spread_factor, wanted_change
from allmasks.verification.lawful import Law

__all__ = ["GUESSED_TESTS", "Effort", "planned", "work_of"]

GUESSED_TESTS = 80
"""Tests in a run, as long as their number is not known."""

_LIGHT, _MIDDLING, _HEAVY = 1 << 23, 1 << 25, 1 << 28
"""Multiplications in a pass: a step beyond the last is compared with fewer passes, gradients and slopes."""


@dataclass(frozen=True)
class Effort:
    """Passes; the first of them with gradients, in blocks of `each`; and draws of the law.

    directions_from : masks that the directions of gradients are taken from.
    notes : what was not reached.
    """

    passes: int
    gradients: int
    each: int
    draws: int
    slopes: dict[str, Slope]
    directions_from: int = 16
    notes: list[Note] = field(default_factory=list)


def work_of(call: Callable[[], Tensor]) -> int:
    """Multiplications of one pass, as torch counts them; 0 where it cannot.

    With gradients on: without, an encoder of torch takes a fused path whose work is not counted.
    """
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            call()
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0
    return int(counter.get_total_flops()) // 2


def planned(
    law: Law | None, sites: tuple[DropoutSite, ...], passes: int | None, level: float, work: int, seen: Collection[str]
) -> Effort:
    """What is to be done.

    Parameters
    ----------
    passes : as asked for; None for what is needed.
    work : multiplications in a pass.
    seen : sites whose bits are met, and whose rates are told by them far better than by the loss.
    """
    if law is None or not sites:
        passes = passes or 128
        return Effort(passes, 0, 1, passes, {})
    look = law.problem.look
    work = max(work, look.n_examples * sum(site.units for site in look.sites))
    heavy = work > _HEAVY
    ratio = 4.0 if work <= _LIGHT else 1.0
    slopes: dict[str, Slope] = {}
    notes: list[Note] = []
    if passes is None or (passes >= 32 and not heavy):
        base = law.at_rates({}, 32 if heavy else 64)
        slopes = slopes_of(law, _asked_of(sites, seen, 8) if heavy else sites, base, few=heavy)
        if passes is None:
            rates = {site.name: site.p for site in sites}
            factor = spread_factor(level, GUESSED_TESTS)
            enough = enough_passes(slopes, rates, float(base.std(ddof=1)), factor, ratio, 256 if heavy else 400)
            passes = enough.passes
            if enough.needed > passes and enough.site not in seen:
                notes.append(
                    Note(
                        "{passes} passes were made; it takes {needed} until their losses show, with probability .9, "
                        "that the rate of {site} is off by {change:.2g}: pass passes={needed} if that matters.",
                        passes=passes,
                        needed=enough.needed,
                        site=enough.site,
                        change=wanted_change(rates[enough.site]),
                    )
                )
    most = 48 if heavy else 96 if work > _MIDDLING else passes
    gradients = min(passes, most)
    each = max(1, gradients // 24)
    draws = math.ceil(ratio * passes)
    return Effort(passes, gradients // each * each, each, draws, slopes, 8 if heavy else 16, notes)


def _asked_of(sites: tuple[DropoutSite, ...], seen: Collection[str], most: int) -> tuple[DropoutSite, ...]:
    """At most so many of the sites: first those whose masks are not met, evenly over the model."""
    unseen = [site for site in sites if site.name not in seen]
    others = [site for site in sites if site.name in seen]
    chosen: list[DropoutSite] = []
    for part in (unseen, others):
        room = most - len(chosen)
        if part and room > 0:
            step = max(1, math.ceil(len(part) / room))
            chosen += part[::step]
    return tuple(chosen[:most])
