"""Where masks come from: none at all, every one, or a keyed sample. Each is a stream of weighted chunks.

A chunk is a handful of masks for one batch of examples: `kept[site]` has shape (masks, n, units), or
(masks, 1, units) where all examples see the same ones, and `weight` (masks,) says how much each counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from allmasks.methods.options import Option
from allmasks.samplers import Sampler
from allmasks.sampling import MIN_BLOCKS, Blocks, blocks_of
from allmasks.sites import DropoutSite

__all__ = [
    "EveryMask",
    "MaskChunk",
    "MaskSource",
    "NoMask",
    "SampledMasks",
    "drawn_bits",
    "no_masks",
    "source_of",
]


@dataclass(frozen=True)
class MaskChunk:
    """Some masks: kept bits by site name, and each mask's weight."""

    kept: dict[str, Tensor]
    weight: Tensor
    start: int

    def __len__(self) -> int:
        return len(self.weight)

    def split(self, at_most: int) -> Iterator[MaskChunk]:
        """The same masks, so many at a time."""
        for lo in range(0, len(self), at_most):
            kept = {name: bits[lo : lo + at_most] for name, bits in self.kept.items()}
            yield MaskChunk(kept, self.weight[lo : lo + at_most], self.start + lo)

    def describe(self, i: int) -> str:
        """How an error message calls mask number i of this chunk."""
        return f"mask {self.start + i}"


class MaskSource(Protocol):
    """A stream of masks for a batch; the same stream at every call."""

    @property
    def sites(self) -> tuple[DropoutSite, ...]:
        """Whose masks they are."""
        ...

    @property
    def n_masks(self) -> int:
        """Masks an example."""
        ...

    @property
    def block(self) -> int:
        """Masks that are drawn together."""
        ...

    def chunks(self, examples: np.ndarray, at_most: int, device: torch.device) -> Iterator[MaskChunk]:
        """Masks for the examples with these keys, `at_most` at a time."""
        ...


@dataclass(frozen=True)
class NoMask:
    """Nothing is drawn: one pass, every site at its mean mask or integrated by formula."""

    n_masks: int = 1
    block: int = 1
    sites: tuple[DropoutSite, ...] = ()

    def chunks(self, examples: np.ndarray, at_most: int, device: torch.device) -> Iterator[MaskChunk]:
        yield MaskChunk({}, torch.ones(1, dtype=torch.float64, device=device), 0)


def no_masks(examples: np.ndarray) -> MaskChunk:
    """The one chunk of `NoMask` for these examples."""
    return next(NoMask().chunks(examples, 1, torch.device("cpu")))


@dataclass(frozen=True)
class EveryMask:
    """Every joint mask of the sites, weighted by its probability.

    The joint masks are numbered with the first site's bits lowest.
    """

    sites: tuple[DropoutSite, ...]
    block: int = 1

    @property
    def n_masks(self) -> int:
        return 2 ** sum(site.law.random_units for site in self.sites)

    def chunks(self, examples: np.ndarray, at_most: int, device: torch.device) -> Iterator[MaskChunk]:
        total = self.n_masks
        for lo in range(0, total, at_most):
            numbers = np.arange(lo, min(lo + at_most, total), dtype=np.int64)
            log_weight = np.zeros(len(numbers))
            kept: dict[str, Tensor] = {}
            rest = numbers
            for site in self.sites:
                law = site.law
                own, rest = rest & (law.n_masks - 1), rest >> law.random_units
                bits = law.numbered(own)
                log_weight += law.log_prob(bits)
                kept[site.name] = torch.from_numpy(bits[:, None, :]).to(device)
            yield MaskChunk(kept, torch.from_numpy(np.exp(log_weight)).to(device), lo)


@dataclass(frozen=True)
class SampledMasks:
    """Exactly `n_masks` masks drawn by key, in the blocks that so many come in (`blocks`).

    Mask numbers begin at `first`, so that a pilot can use masks of its own. `min_blocks` blocks are left at least,
    where the sampler's can be made smaller.
    """

    sites: tuple[DropoutSite, ...]
    sampler: Sampler
    n_masks: int
    seed: int
    first: int = 0
    min_blocks: int = MIN_BLOCKS

    @property
    def blocks(self) -> Blocks:
        """How they fall into blocks, and the sampler that draws those."""
        return blocks_of(self.sampler, self.n_masks, self.min_blocks)

    @property
    def block(self) -> int:
        return self.blocks.block

    def chunks(self, examples: np.ndarray, at_most: int, device: torch.device) -> Iterator[MaskChunk]:
        blocks = self.blocks
        # Whole blocks only, so that block means never straddle chunks.
        for part in blocks.parts(at_most):
            numbers = np.arange(part.start, part.stop, dtype=np.int64) + self.first
            kept = self.bits(numbers, examples, device)
            weight = torch.full((len(numbers),), 1.0 / self.n_masks, dtype=torch.float64, device=device)
            yield MaskChunk(kept, weight, int(numbers[0]))

    def bits(self, numbers: np.ndarray, examples: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """Of the masks with these numbers, `first` included, for the examples with these keys: see `MaskChunk`."""
        sampler = self.blocks.sampler
        return {site.name: drawn_bits(sampler, self.seed, site, numbers, examples, device) for site in self.sites}


def source_of(option: Option, n_masks: int, seed: int, first: int = 0) -> MaskSource:
    """The masks of an option; of a sample, `n_masks` from number `first` on."""
    if not option.sites:
        return NoMask()
    if option.sampler is None:
        return EveryMask(option.sites)
    return SampledMasks(option.sites, option.sampler, n_masks, seed, first)


def drawn_bits(
    sampler: Sampler, seed: int, site: DropoutSite, numbers: np.ndarray, examples: np.ndarray, device: torch.device
) -> Tensor:
    """(masks, examples, units) which units the masks with these numbers keep, for the examples with these keys."""
    # A site without an example axis shares one mask among all; it is keyed as example 0, or by the input's number.
    keys = examples[:1] if site.joint else np.zeros(1, np.int64) if site.batch_dim is None else examples
    # Examples that share one key share its bits: drawn once.
    shared = len(keys) > 1 and bool((keys == keys[0]).all())
    bits = sampler.draw(seed, site.id, numbers, keys[:1] if shared else keys, site.law.keep_prob)
    held = torch.from_numpy(bits).to(device)
    return held.expand(-1, len(keys), -1) if shared else held
