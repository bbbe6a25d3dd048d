"""The policy of sampling, once for the whole library: how K masks fall into blocks, and how many a tolerance takes.

What others stand on:

- `blocks_of(sampler, n_masks)` -> `Blocks`: exactly K masks, for any K ≥ 1. The sampler may have been given smaller
  blocks (a Latin hypercube of eight needs 256 masks for 32 blocks): draw with `blocks.sampler`. `blocks.sizes` are the
  masks of each block, the last may be a shorter one; `blocks.parts(at_most)` cuts the masks without cutting a block.
- `Sampling`: what a method must say for it. `masks_drawn(method)`: the K of a run without a tolerance.
- `masks_for_tolerance(method, cap, pilot)`: the K with which a standard error falls below a tolerance, from pilots.
- `Cap.of(method, budget, n_examples)`: the most masks it may draw, and the note on what stopped the run.
- `chunk_masks(n_examples, units)`: how many masks go through a model at once.
- `PILOT_FIRST`: where a pilot's mask numbers begin.

Means over these blocks and their errors are in `replicates`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from allmasks.replicates import block_means, mean_and_error
from allmasks.results import Note
from allmasks.samplers import Sampler

__all__ = [
    "DEFAULT_MASKS",
    "MAX_MASKS",
    "MIN_BLOCKS",
    "PILOT_FIRST",
    "Blocks",
    "Cap",
    "Pilot",
    "Sampling",
    "about",
    "blocks_of",
    "chunk_masks",
    "masks_drawn",
    "masks_for",
    "masks_for_tolerance",
    "pilot_masks",
    "wanted_error",
]

DEFAULT_MASKS = 256
"""Masks an example where nothing is said."""

_CHUNK_BYTES = 64 * 2**20
"""Activations of one chunk of masks are kept near this, about what a core's share of the cache can feed."""

MIN_BLOCKS = 32
"""Blocks that a sampler's block leaves at least, where it can be made smaller; and those of a pilot."""

MAX_MASKS = 2**22
"""Most masks an example that a tolerance may ask for; one that needs more is refused, not run for days."""

PILOT_FIRST = 2**40
"""Number of a pilot's first mask: far beyond those of any run, so that the pilot is independent of it."""

CONFIDENCE = 0.9
"""Probability with which a tolerance run's standard error is no larger than what was asked for."""


class Sampling(Protocol):
    """What is asked of sampling: a number of masks or a tolerance, and how masks are drawn. `MonteCarlo` is one."""

    @property
    def n_masks(self) -> int | None: ...
    @property
    def atol(self) -> float | None: ...
    @property
    def rtol(self) -> float | None: ...
    @property
    def sampler(self) -> Sampler: ...


@dataclass(frozen=True)
class Blocks:
    """K masks in independent blocks of `block`, the last one shorter where K is no multiple.

    Parameters
    ----------
    sampler : draws them; its block is `block`.
    n_masks : K, at least 1.
    """

    sampler: Sampler
    n_masks: int

    @property
    def block(self) -> int:
        """Masks of every block but a shorter last one."""
        return self.sampler.block

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return -(-self.n_masks // self.block)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Masks in each block, (count,): how much each counts in a mean."""
        sizes = np.full(self.count, self.block, np.int64)
        sizes[-1] = self.n_masks - self.block * (self.count - 1)
        return sizes

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of an error from these blocks."""
        if self.count > 1:
            return ()
        if self.n_masks == 1:
            return (Note("One mask cannot show an error, so it is nan; draw 2 or more."),)
        told = {"k": self.n_masks, "more": self.n_masks + 1}
        return (Note("{k} masks drawn together cannot show an error, so it is nan; draw {more} or more.", **told),)

    def mean_and_error(self, totals: Any) -> tuple[Any, Any, Any]:
        """(g, …) means over the blocks of values (K, …) under each mask, their mean, and its standard error."""
        means = block_means(totals, self.block)
        return (means, *mean_and_error(means, self.sizes))

    def parts(self, at_most: int) -> Iterator[slice]:
        """Consecutive ranges of mask numbers 0 … K − 1, of whole blocks, about `at_most` masks each."""
        step = max(self.block, at_most // self.block * self.block)
        for lo in range(0, self.n_masks, step):
            yield slice(lo, min(lo + step, self.n_masks))


def blocks_of(sampler: Sampler, n_masks: int, least: int = MIN_BLOCKS) -> Blocks:
    """K masks as this sampler draws them: its block halved as long as fewer than `least` (32) would be left.

    A sampler whose blocks cannot be halved (it has no `halved`) keeps them: pairs stay pairs, and an odd K has one
    mask alone.

    >>> from allmasks.samplers import Antithetic, LatinHypercube
    >>> [blocks_of(LatinHypercube(), k).block for k in (1000, 256, 255, 128, 64, 63, 1)]
    [8, 8, 4, 4, 2, 1, 1]
    >>> blocks_of(LatinHypercube(), 300).sizes[-2:].tolist(), blocks_of(Antithetic(), 3).sizes.tolist()
    ([8, 4], [2, 1])

    Raises
    ------
    ValueError : fewer than 1 mask.
    """
    if n_masks < 1:
        raise ValueError(f"n_masks must be at least 1, got {n_masks}")
    while n_masks < least * sampler.block:
        halved = getattr(sampler, "halved", None)
        if halved is None:
            break
        sampler = halved()
    return Blocks(sampler, int(n_masks))


def chunk_masks(n_examples: int, units: int) -> int:
    """Masks that so many examples of a model with so many units at its sites go through at once."""
    return max(1, min(1024, _CHUNK_BYTES // (4 * n_examples * (units + 64))))


def masks_drawn(method: Sampling) -> int:
    """K of a run without a tolerance: exactly `n_masks`, or by default 256, or 32 blocks where those are more.

    >>> from allmasks.methods import MonteCarlo
    >>> masks_drawn(MonteCarlo(n_masks=3)), masks_drawn(MonteCarlo())
    (3, 256)
    """
    return int(method.n_masks) if method.n_masks is not None else max(DEFAULT_MASKS, pilot_masks(method.sampler))


def pilot_masks(sampler: Sampler) -> int:
    """Masks of a pilot: 32 blocks."""
    return MIN_BLOCKS * sampler.block


def wanted_error(method: Sampling, value: float) -> float:
    """The standard error that a tolerance asks for: max(atol, rtol · |value|).

    Raises
    ------
    ValueError : where that is 0.
    """
    wanted = max(method.atol or 0.0, (method.rtol or 0.0) * abs(value))
    if wanted == 0:
        raise ValueError(f"rtol={method.rtol} asks for an error of 0 because the value is 0; pass atol as well")
    return wanted


def masks_for(pilot_error: float, blocks: int, block: int, wanted: float) -> int:
    """Masks with which the standard error is at most `wanted` with probability 0.9, from that of a pilot.

    A pilot of 32 blocks knows their variance only to about 25 %: its upper confidence limit (χ²) keeps the promise.

    Parameters
    ----------
    pilot_error : the pilot's standard error, of so many `blocks` of `block` masks.

    >>> masks_for(0.5, 32, 8, 1.0), masks_for(2.0, 32, 8, 1.0)
    (256, 1488)
    """
    degrees = blocks - 1
    ratio = float(pilot_error) / wanted
    needed = blocks * ratio * ratio * degrees / float(chdtri(degrees, CONFIDENCE))
    return max(MIN_BLOCKS, math.ceil(min(needed, 2.0**62))) * block


@dataclass(frozen=True)
class Cap:
    """The most masks that a tolerance run may draw, and what says so.

    Parameters
    ----------
    masks : an example's.
    name : "n_masks=500" or "budget=10000"; empty where nothing but `MAX_MASKS` limits it.
    refuse : a tolerance out of reach, in words -> what is raised.
    """

    masks: int
    name: str = ""
    refuse: Callable[[str], Exception] = ValueError

    @classmethod
    def of(cls, method: Sampling, budget: int | None = None, n_examples: int = 1) -> Cap:
        """The lower of the method's `n_masks` and what a budget of evaluations allows."""
        caps = []
        if method.n_masks is not None:
            caps.append(cls(int(method.n_masks), f"n_masks={method.n_masks}"))
        if budget is not None:
            caps.append(cls(max(1, budget // n_examples), f"budget={budget}"))
        return min(caps, key=lambda cap: cap.masks) if caps else cls(MAX_MASKS)

    def before_pilot(self, least: int) -> tuple[int, tuple[str, ...]]:
        """Masks to draw, and the note, where no more are allowed than any tolerance run draws."""
        told = {"cap": self.name, "k": self.masks, "more": least}
        return self.masks, (Note("{cap} stopped the run at {k} masks; a tolerance takes {more} or more.", **told),)

    def stop(
        self, method: Sampling, needed: int, pilot: int, wanted: float | None = None
    ) -> tuple[int, tuple[str, ...]]:
        """Masks to draw where a pilot of so many says that `needed` reach the error wanted; and what stops the run.

        Raises
        ------
        ValueError : where that is more than `MAX_MASKS` and nobody said where to stop.
        """
        needed, asked = max(needed, pilot), _asked(method)
        if needed <= self.masks:
            told = {"tolerance": asked, "k": needed, "cap": self.name}
            return needed, (Note("{tolerance} stopped the run at {k} masks, before {cap}.", **told),) * bool(self.name)
        if self.name:
            told = {"cap": self.name, "k": self.masks, "tolerance": asked, "more": about(needed)}
            note = Note(
                "{cap} stopped the run at {k} masks: {tolerance} takes about {more}, so the error may be larger than "
                "asked for.",
                **told,
            )
            return self.masks, (note,)
        if wanted is None:
            raise self.refuse(
                f"{asked} would take about {about(needed)} masks for each example, over the limit of {self.masks:,}; "
                "pass a larger atol or rtol, or a larger budget="
            )
        reachable = wanted * math.sqrt(needed / self.masks)
        raise self.refuse(
            f"a standard error of {wanted:.2g} would take about {about(needed)} masks for each example, over the limit "
            f"of {self.masks:,}; {reachable:.2g} is within reach, or pass a larger budget="
        )

    def undecided(self, method: Sampling, pilot: int, why: str) -> tuple[int, tuple[str, ...]]:
        """The same where no pilot that is allowed can be trusted; `why` says what the last one could not show.

        Raises
        ------
        ValueError : where nobody said where to stop.
        """
        asked = _asked(method)
        if self.name:
            told = {"cap": self.name, "k": self.masks, "tolerance": asked}
            return self.masks, (Note("{cap} stopped the run at {k} masks; {tolerance} may take more.", **told),)
        raise self.refuse(
            f"{asked} cannot be promised. After a pilot of {pilot:,} masks: {why} Pass n_masks= to sample without it"
        )


class Trust(Protocol):
    """Whether an error can be trusted, why not, and how many masks would help: `reliability.Verdict` is one."""

    @property
    def reliable(self) -> bool: ...
    @property
    def note(self) -> str: ...
    @property
    def masks(self) -> int: ...


@dataclass(frozen=True)
class Pilot:
    """What a pilot says: its standard error, the one wanted, and whether it can be trusted.

    Parameters
    ----------
    wanted : None where `error` is in units of what is wanted.
    trust : None where the error already holds what the pilot's own masks cannot have shown.
    """

    error: float
    wanted: float | None = None
    trust: Trust | None = None


def masks_for_tolerance(method: Sampling, cap: Cap, pilot: Callable[[Blocks], Pilot]) -> tuple[int, tuple[str, ...]]:
    """Masks with which the standard error is as small as asked, and what stopped the run where it is capped.

    A pilot of fixed size decides once, and the run then uses masks of its own: stopping when the error "looks small"
    biases both the value and the error. Where a pilot cannot have shown what matters, a larger one decides.

    Parameters
    ----------
    pilot : makes one with these blocks, whose masks begin at `PILOT_FIRST`.
    """
    least = masks = pilot_masks(method.sampler)
    if cap.masks <= least:
        return cap.before_pilot(least)
    while True:
        blocks = blocks_of(method.sampler, masks)
        found = pilot(blocks)
        if found.trust is None or found.trust.reliable:
            needed = masks_for(found.error, blocks.count, blocks.block, found.wanted or 1.0)
            return cap.stop(method, needed, masks, found.wanted)
        # One step is at most 16-fold: what would help is itself an estimate.
        larger = -(-min(max(2 * masks, found.trust.masks), 16 * masks) // least) * least
        if larger > _MAX_PILOT or larger >= cap.masks:
            return cap.undecided(method, masks, found.trust.note)
        masks = larger


_MAX_PILOT = 2**16


def about(masks: float) -> str:
    """A number of masks to two digits.

    >>> about(7812), about(17)
    ('7,800', '17')
    """
    digits = max(0, math.floor(math.log10(max(masks, 1.0))) - 1)
    return f"{round(masks / 10**digits) * 10**digits:,}" if masks < 1e9 else f"{masks:.1e}"


def _asked(method: Sampling) -> str:
    return " and ".join(f"{t}={getattr(method, t):g}" for t in ("atol", "rtol") if getattr(method, t) is not None)
