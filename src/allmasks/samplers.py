"""How K masks are drawn together: each mask has exactly the dropout law, the joint law is what differs.

Masks come in blocks; different blocks are independent, so asking for more masks of the same blocks never changes the
first ones, and block means give a standard error that is valid although masks within a block are not independent.
A number of masks that is no multiple of the block ends with a shorter one. Which block K masks get is told in
`allmasks.sampling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.kernels import reference

__all__ = ["Antithetic", "Independent", "LatinHypercube", "Sampler"]


@runtime_checkable
class Sampler(Protocol):
    """Draws masks by key. A sampler is a value: two equal samplers draw the same masks."""

    @property
    def block(self) -> int:
        """Masks in one independent block (replicate)."""
        ...

    def draw(
        self, seed: int, site: int, masks: ArrayLike, examples: ArrayLike, keep_prob: ArrayLike
    ) -> NDArray[np.bool_]:
        """Masks of one site: True = kept, shape (len(masks), len(examples), units).

        Parameters
        ----------
        seed : 0 … 2**64 - 1.
        site : the site's 64-bit id, `reference.site_id(name)`.
        masks : (k,) mask indices, in any order.
        examples : (n,) example indices, 0 … 2**32 - 1.
        keep_prob : (units,) keep probabilities.
        """
        ...


@dataclass(frozen=True)
class Independent:
    """Independent masks: what a loop over `model.train()` passes would draw.

    >>> kept = Independent().draw(0, 1, [0, 1], [0], np.full(1000, 0.75))
    >>> kept.shape, bool(abs(kept.mean() - 0.75) < 0.05)
    ((2, 1, 1000), True)
    """

    @property
    def block(self) -> int:
        return 1

    def draw(
        self, seed: int, site: int, masks: ArrayLike, examples: ArrayLike, keep_prob: ArrayLike
    ) -> NDArray[np.bool_]:
        """See `Sampler.draw`."""
        indices, q = _checked(seed, site, masks, keep_prob)
        rows = np.atleast_1d(np.asarray(examples))
        threshold = reference.keep_threshold(q)
        out = np.empty((len(indices), len(rows), len(q)), np.bool_)
        if out.size >= _COMPILED_FROM:
            return _compiled(seed, site, indices, np.zeros(len(indices), np.uint32), rows, threshold, out)
        for part in _parts(len(indices), out[:1].size):
            out[part] = reference.words(_columns(_keys(seed, site, indices[part])), rows, len(q)) < threshold
        return out


@dataclass(frozen=True)
class Antithetic:
    """Pairs of opposite masks: where one mask's uniform is u, its partner's is 1 - u.

    Odd-order effects of the mask cancel within a pair, even-order effects double (Hammersley & Morton 1956).
    """

    @property
    def block(self) -> int:
        return 2

    def draw(
        self, seed: int, site: int, masks: ArrayLike, examples: ArrayLike, keep_prob: ArrayLike
    ) -> NDArray[np.bool_]:
        """See `Sampler.draw`."""
        indices, q = _checked(seed, site, masks, keep_prob)
        rows = np.atleast_1d(np.asarray(examples))
        threshold = reference.keep_threshold(q)
        out = np.empty((len(indices), len(rows), len(q)), np.bool_)
        pairs, member = np.divmod(indices, 2)
        flips = np.where(member == 0, 0, 0xFFFFFFFF).astype(np.uint32)
        if out.size >= _COMPILED_FROM:
            return _compiled(seed, site, pairs, flips, rows, threshold, out)
        for part in _parts(len(indices), out[:1].size):
            words = reference.words(_columns(_keys(seed, site, pairs[part])), rows, len(q))
            out[part] = (words ^ flips[part, None, None]) < threshold
        return out


def _checked(
    seed: int, site: int, masks: ArrayLike, keep_prob: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Mask indices and keep probabilities as arrays; what is none is refused, since a key would be made of it anyway.

    Raises
    ------
    TypeError : a seed, site or mask index that is no integer. ValueError : one out of range, or a keep probability
        outside [0, 1].
    """
    for name, word in (("seed", seed), ("site", site)):
        if isinstance(word, bool) or not isinstance(word, int | np.integer):
            raise TypeError(f"{name} must be an integer from 0 to 2**64 - 1, got {word!r}")
        if not 0 <= word < 2**64:
            raise ValueError(f"{name} must be an integer from 0 to 2**64 - 1, got {word}")
    indices = np.asarray(masks)
    if indices.size and (indices.dtype == np.bool_ or not np.issubdtype(indices.dtype, np.integer)):
        raise TypeError(f"masks must be mask indices, integers of 0 or more, got {indices.dtype} {masks!r}")
    indices = indices.astype(np.int64, copy=False).reshape(-1)
    if indices.size and indices.min() < 0:
        raise ValueError(f"masks must be mask indices, integers of 0 or more, got {indices.min()}")
    q = np.asarray(keep_prob, np.float64).reshape(-1)
    if not ((q >= 0.0) & (q <= 1.0)).all():
        bad = q[~((q >= 0.0) & (q <= 1.0))][0]
        raise ValueError(f"keep_prob must lie in [0, 1], got {bad}")
    return indices, q


_COMPILED_FROM = 2**14
"""Bits from which the compiled kernel draws; below, the NumPy formulas do, and nothing needs compiling."""


def _keys(seed: int, site: int, indices: NDArray[np.int64]) -> NDArray[np.uint32]:
    """`reference.derive_key(seed, site, index)` of each index, the last step for all at once: (len(indices), 2)."""
    numbers = indices.astype(np.uint64)
    low, high = (numbers & np.uint64(0xFFFFFFFF)).astype(np.uint32), (numbers >> np.uint64(32)).astype(np.uint32)
    return np.stack(reference.threefry2x32(reference.derive_key(seed, site), low, high), axis=1)


def _columns(keys: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Keys (k, 2) as `reference.words` takes them: one k-fold axis before examples and elements."""
    return keys[:, 0, None, None], keys[:, 1, None, None]


def _parts(n: int, bits: int) -> Iterator[slice]:
    """Ranges of n masks (or blocks) of so many bits each whose words stay in a core's cache together."""
    step = max(1, _COMPILED_FROM // max(bits, 1))
    for lo in range(0, n, step):
        yield slice(lo, min(lo + step, n))


def _compiled(
    seed: int,
    site: int,
    indices: NDArray[np.int64],
    flips: NDArray[np.uint32],
    rows: NDArray[Any],
    threshold: NDArray[np.uint64],
    out: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    from allmasks.kernels import draw

    keys = _keys(seed, site, indices)
    draw.independent(keys, flips, reference.check_examples(rows), threshold, out.view(np.uint8))
    return out


@cache
def _packed_permutations(size: int) -> NDArray[np.uint64]:
    """Each order of a block as the bytes of one word."""
    shifts = np.arange(size, dtype=np.uint64) * np.uint64(8)
    return np.bitwise_or.reduce(_permutations(size).astype(np.uint64) << shifts, axis=1)


def _whole_blocks(indices: NDArray[np.int64], block: int) -> int:
    """How many masks at the beginning are whole blocks, each in its order: all that are, or none."""
    whole = len(indices) // block * block
    led = indices[:whole].reshape(-1, block)
    return whole if bool((led == led[:, :1] // block * block + np.arange(block)).all()) else 0


@cache
def _permutations(size: int) -> NDArray[np.uint8]:
    return np.array(list(permutations(range(size))), dtype=np.uint8)


@dataclass(frozen=True, repr=False)
class LatinHypercube:
    """Blocks of eight masks in which every unit is kept the right number of times.

    In each block a unit's eight uniforms fall one into each eighth of [0, 1), in an order that is a uniform
    random permutation, drawn anew for each (unit, example, block): main effects of single units nearly vanish
    from the variance, and each single mask still has exactly the dropout law (McKay, Beckman & Conover 1979).

    Eight, because all 8! orders fit a table that stays in a core's cache, so that a whole block costs one
    call of the generator an element; one more reason is that 32 blocks are then only 256 masks. Fewer masks
    come in smaller blocks (`halved`), so that there are 32 of them down to 64 masks, and independent below.

    Parameters
    ----------
    size : masks in a block: 8, 4 or 2.

    >>> kept = LatinHypercube().draw(0, 1, range(8), [0], np.full(4, 0.5))
    >>> kept.sum(axis=0).tolist()
    [[4, 4, 4, 4]]
    """

    size: int = 8

    def __post_init__(self) -> None:
        if self.size not in (2, 4, 8):
            raise ValueError(f"size must be 8, 4 or 2 masks in a block, got {self.size!r}")

    def __repr__(self) -> str:
        return f"LatinHypercube({'' if self.size == 8 else f'size={self.size}'})"

    @property
    def block(self) -> int:
        return self.size

    def halved(self) -> Sampler:
        """The same with half as many masks in a block; below two, independent masks."""
        return LatinHypercube(self.size // 2) if self.size > 2 else Independent()

    def draw(
        self, seed: int, site: int, masks: ArrayLike, examples: ArrayLike, keep_prob: ArrayLike
    ) -> NDArray[np.bool_]:
        """See `Sampler.draw`."""
        indices, q = _checked(seed, site, masks, keep_prob)
        rows = np.atleast_1d(np.asarray(examples))
        out = np.empty((len(indices), len(rows), len(q)), np.bool_)
        # A shorter block at the end is drawn by the formulas, whole blocks by the kernel.
        whole = _whole_blocks(indices, self.size) if out.size >= _COMPILED_FROM else 0
        if whole:
            self._compiled(seed, site, indices[: whole : self.size] // self.size, rows, q, out[:whole])
        if whole < len(indices):
            self._formulas(seed, site, indices[whole:], rows, q, out[whole:])
        return out

    def _parts_of_range(self, q: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each unit: parts of [0, 2**32) that are kept, and how far its threshold reaches into the next.

        All further parts are dropped; in that one the unit's second word decides.
        """
        kept, within = np.divmod(reference.keep_threshold(q).astype(np.int64), 2**32 // self.size)
        return kept, within

    def _compiled(
        self,
        seed: int,
        site: int,
        blocks: NDArray[np.int64],
        rows: NDArray[Any],
        q: NDArray[np.float64],
        out: NDArray[np.bool_],
    ) -> None:
        from allmasks.kernels import draw

        kept, within = self._parts_of_range(q)
        draw.latin_hypercube(
            _keys(seed, site, blocks),
            reference.check_examples(rows),
            _packed_permutations(self.size),
            kept.astype(np.uint64),
            within.astype(np.uint32),
            self.size,
            out.view(np.uint8),
        )

    def _formulas(
        self,
        seed: int,
        site: int,
        indices: NDArray[np.int64],
        rows: NDArray[Any],
        q: NDArray[np.float64],
        out: NDArray[np.bool_],
    ) -> None:
        table, bits = _permutations(self.size), np.uint32(self.size.bit_length() - 1)
        kept, within = self._parts_of_range(q)
        blocks, member = np.divmod(indices, self.size)
        unique, where = np.unique(blocks, return_inverse=True)
        for part in _parts(len(unique), out[:1].size):
            first, second = reference.word_pairs(_columns(_keys(seed, site, unique[part])), rows, len(q))
            # The lowest bits rotate the order, which makes each position exactly uniform; the others choose it.
            rotation = (first & np.uint32(self.size - 1)).astype(np.uint8)
            order = ((first >> bits).astype(np.uint64) * np.uint64(len(table))) >> np.uint64(32 - int(bits))
            cut = kept.astype(np.uint8) + ((second >> bits) < within).astype(np.uint8)
            here = np.flatnonzero((where >= part.start) & (where < part.stop))
            for k in range(self.size):
                own = here[member[here] == k]
                of = where[own] - part.start
                place = (table[:, k][order[of]] + rotation[of]) & np.uint8(self.size - 1)
                out[own] = place < cut[of]
