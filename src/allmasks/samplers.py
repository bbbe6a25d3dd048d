"""How K masks are drawn together: each mask has exactly the dropout law, the joint law is what differs.

Masks come in blocks of fixed size; different blocks are independent, so asking for more masks never changes
the first ones, and block means give a standard error that is valid although masks within a block are not
independent.
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
        indices, q = np.asarray(masks, np.int64).reshape(-1), np.asarray(keep_prob, np.float64).reshape(-1)
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
        indices, q = np.asarray(masks, np.int64).reshape(-1), np.asarray(keep_prob, np.float64).reshape(-1)
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
def _packed_permutations() -> NDArray[np.uint64]:
    """Each of the 8! orders as the eight bytes of one word."""
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(8)
    return np.bitwise_or.reduce(_permutations_of_eight().astype(np.uint64) << shifts, axis=1)


def _whole_blocks(indices: NDArray[np.int64], block: int) -> bool:
    """Whether the masks are whole blocks, each in its order."""
    if len(indices) % block:
        return False
    return bool((indices.reshape(-1, block) == indices[::block, None] // block * block + np.arange(block)).all())


@cache
def _permutations_of_eight() -> NDArray[np.uint8]:
    return np.array(list(permutations(range(8))), dtype=np.uint8)


@dataclass(frozen=True)
class LatinHypercube:
    """Blocks of eight masks in which every unit is kept the right number of times.

    In each block a unit's eight uniforms fall one into each eighth of [0, 1), in an order that is a uniform
    random permutation, drawn anew for each (unit, example, block): main effects of single units nearly vanish
    from the variance, and each single mask still has exactly the dropout law (McKay, Beckman & Conover 1979).

    Eight, because all 8! orders fit a table that stays in a core's cache, so that a whole block costs one
    call of the generator an element; one more reason is that 32 blocks, the least for a standard error that
    can be trusted, are then only 256 masks.

    >>> kept = LatinHypercube().draw(0, 1, range(8), [0], np.full(4, 0.5))
    >>> kept.sum(axis=0).tolist()
    [[4, 4, 4, 4]]
    """

    @property
    def block(self) -> int:
        return 8

    def draw(
        self, seed: int, site: int, masks: ArrayLike, examples: ArrayLike, keep_prob: ArrayLike
    ) -> NDArray[np.bool_]:
        """See `Sampler.draw`."""
        indices, q = np.asarray(masks, np.int64).reshape(-1), np.asarray(keep_prob, np.float64).reshape(-1)
        rows = np.atleast_1d(np.asarray(examples))
        table = _permutations_of_eight()
        # The threshold splits [0, 2**32) into eighths that are kept, eighths that are dropped, and at most
        # one in between, where the unit's second word decides.
        kept_eighths, within = np.divmod(reference.keep_threshold(q).astype(np.int64), 2**29)
        out = np.empty((len(indices), len(rows), len(q)), np.bool_)
        blocks, member = np.divmod(indices, 8)
        if out.size >= _COMPILED_FROM and _whole_blocks(indices, 8):
            from allmasks.kernels import draw

            keys, numbers = _keys(seed, site, blocks[::8]), reference.check_examples(rows)
            draw.latin_hypercube(
                keys,
                numbers,
                _packed_permutations(),
                kept_eighths.astype(np.uint64),
                within.astype(np.uint32),
                out.view(np.uint8),
            )
            return out
        unique, where = np.unique(blocks, return_inverse=True)
        for part in _parts(len(unique), out[:1].size):
            first, second = reference.word_pairs(_columns(_keys(seed, site, unique[part])), rows, len(q))
            # Three bits rotate the order, which makes each position exactly uniform; the other 29 choose it.
            rotation = (first & np.uint32(7)).astype(np.uint8)
            order = ((first >> np.uint32(3)).astype(np.uint64) * np.uint64(len(table))) >> np.uint64(29)
            cut = kept_eighths.astype(np.uint8) + ((second >> np.uint32(3)) < within).astype(np.uint8)
            here = np.flatnonzero((where >= part.start) & (where < part.stop))
            for k in range(8):
                own = here[member[here] == k]
                of = where[own] - part.start
                eighth = (table[:, k][order[of]] + rotation[of]) & np.uint8(7)
                out[own] = eighth < cut[of]
        return out
