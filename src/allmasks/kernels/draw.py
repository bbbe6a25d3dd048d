"""Evaluation masks at speed: the bits of the samplers' NumPy formulas, compiled by numba on first use.

Every function fills `out` (masks, examples, units) with 1 = kept, bit for bit what `reference.words` and
`reference.word_pairs` give. Words go to a small array that stays in the cache, 128 counters at a time; decisions are
loops of their own over contiguous slices, which is what the compiler turns into whole vectors.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from allmasks.kernels.cpu import fill_lanes

__all__ = ["independent", "latin_hypercube"]

U = np.uint32
_STRIDE = 128  # reference.LANE_STRIDE, as a literal
_ONES = np.uint64(0x0101010101010101)
_TOPS = np.uint64(0x8080808080808080)


@njit(inline="always")
def _below(w, threshold, flip, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = np.uint64(U(w[i] ^ flip)) < threshold[i]


@njit(cache=True)
def independent(keys, flips, rows, threshold, out):  # type: ignore[no-untyped-def]
    """One word an element: kept where it (flipped where `flips` is all ones) is below the unit's threshold.

    Parameters
    ----------
    keys : (masks, 2) uint32, `reference.derive_key` of each mask.
    flips : (masks,) uint32, 0 or 2**32 - 1: the opposite mask of an antithetic pair.
    rows : (examples,) uint32.
    threshold : (units,) uint64, `reference.keep_threshold`.
    out : (masks, examples, units) uint8.
    """
    units = len(threshold)
    w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
    for m in range(len(keys)):
        k0, k1, flip = keys[m, 0], keys[m, 1], flips[m]
        for r in range(len(rows)):
            high = np.uint64(np.uint64(rows[r]) << np.uint64(32))
            target = out[m, r]
            for start in range(0, units, 2 * _STRIDE):
                fill_lanes(k0, k1, np.uint64(high | np.uint64(start // 2)), w0, w1)
                middle, stop = min(start + _STRIDE, units), min(start + 2 * _STRIDE, units)
                _below(w0, threshold[start:middle], flip, target[start:middle])
                _below(w1, threshold[middle:stop], flip, target[middle:stop])


@njit(inline="always")
def _orders(w0, w1, table, kept_parts, within, bits, packed):  # type: ignore[no-untyped-def]
    """The decisions of each unit on a block as the bytes of one word, 1 = kept; byte k is the block's mask k."""
    n_orders, last = np.uint64(len(table)), U(U(1) << bits) - U(1)
    lasts, rest = np.uint64(np.uint64(last) * _ONES), np.uint64(np.uint64(32) - np.uint64(bits))
    for i in range(len(kept_parts)):
        first, second = w0[i], w1[i]
        order = np.uint64(np.uint64(np.uint64(first >> bits) * n_orders) >> rest)
        rotation = np.uint64(np.uint64(first & last) * _ONES)
        places = np.uint64((table[order] + rotation) & lasts)
        cut = kept_parts[i] + np.uint64(U(second >> bits) < within[i])
        # Each byte is 128 + place - cut, which is 128 or more exactly where the place is not kept: no borrows.
        over = np.uint64((places | _TOPS) - np.uint64(cut * _ONES))
        packed[i] = np.uint64(np.uint64(~over & _TOPS) >> np.uint64(7))


@njit(inline="always")
def _member(packed, shift, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = np.uint8(np.uint64(packed[i] >> shift) & np.uint64(1))


@njit(cache=True)
def latin_hypercube(keys, rows, table, kept_parts, within, size, out):  # type: ignore[no-untyped-def]
    """Two words an element decide on a whole block of masks.

    Parameters
    ----------
    keys : (blocks, 2) uint32, `reference.derive_key` of each block.
    rows : (examples,) uint32.
    table : (orders,) uint64, each a permutation of 0 … size − 1 as bytes, lowest first.
    kept_parts, within : (units,) uint64 and uint32: the keep threshold's whole eighths (quarters, halves) and the rest.
    size : masks in a block: 8, 4 or 2.
    out : (size * blocks, examples, units) uint8.
    """
    units = len(within)
    bits = U(3) if size == 8 else U(2) if size == 4 else U(1)
    w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
    packed = np.empty(_STRIDE, np.uint64)
    for b in range(len(keys)):
        k0, k1 = keys[b, 0], keys[b, 1]
        for r in range(len(rows)):
            high = np.uint64(np.uint64(rows[r]) << np.uint64(32))
            for start in range(0, units, _STRIDE):
                stop = min(start + _STRIDE, units)
                fill_lanes(k0, k1, np.uint64(high | np.uint64(start)), w0, w1)
                _orders(w0, w1, table, kept_parts[start:stop], within[start:stop], bits, packed)
                for member in range(size):
                    _member(packed, np.uint64(8 * member), out[size * b + member, r, start:stop])
