"""Keyed random bits, in plain vectorised NumPy: the ground truth that every other kernel must equal.

A mask bit is a pure function of (seed, site, mask index, example index, element). It never depends on a
global generator, the chunk size, the thread count, the order of calls or the device.

Generator
    Threefry-2x32 with 13 rounds (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
    1, 2, 3"): a keyed bijection from a 64-bit counter to two 32-bit words. Thirteen rounds is the
    published smallest number that passes BigCrush.

Key
    `derive_key(seed, site, index)` encrypts the site id and then the mask index (or the index of the block
    of masks) under the seed. For one seed and site, different indices can never share a key.

Layout (fixed: CPU and GPU kernels reproduce it)
    one word an element:   counter = (example, BLOCK-wise counter of the element), see `counter_and_lane`
    two words an element:  counter = (example, element), both words belong to the element
    one stream, no example (training layers): the 64-bit counter's high word takes the example's place, and an
        element has 32 bits (two lanes a counter), 16 (four: low and high half of each word), 8, 4, 2 or 1 (64: a
        word's bits from the lowest on), see `stream`

    Within a run of `lanes * LANE_STRIDE` elements, the first LANE_STRIDE elements take lane 0 of counters
    0 … LANE_STRIDE-1, the next LANE_STRIDE elements lane 1 of the same counters, and so on, so that a kernel
    fills a small array with words and then applies each lane to a *contiguous* slice.

Decision
    keep iff word < round(keep_prob * 2**32). The keep probability that is really drawn therefore differs
    from keep_prob by at most 2**-33; by at most 2**-17 where 16 bits decide; not at all where fewer do.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LANE_STRIDE",
    "check_examples",
    "counter_and_lane",
    "derive_key",
    "keep_threshold",
    "site_id",
    "stream",
    "threefry2x32",
    "word_pairs",
    "words",
]

LANE_STRIDE = 128
"""Counters in one run of the element layout; a power of two, so that every kernel can divide by shifting."""

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
_U32 = np.uint32
_MASK32 = 0xFFFFFFFF


Key = tuple[ArrayLike, ArrayLike]
"""Two 32-bit words; or two arrays of them that broadcast with the counters, for many keys at once."""


def threefry2x32(
    key: Key, counter0: ArrayLike, counter1: ArrayLike, *, rounds: int = 13
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Encrypt counters under a key: two uint32 arrays of the broadcast shape of counters and key.

    >>> [hex(int(w)) for w in threefry2x32((0, 0), 0, 0, rounds=20)]
    ['0x6b200159', '0x99ba4efe']
    """
    # Arrays of one axis or more throughout: NumPy warns where scalars wrap around.
    k0, k1 = (np.atleast_1d(np.asarray(word, np.uint64).astype(_U32)) for word in key)
    schedule = (k0, k1, _U32(_PARITY) ^ k0 ^ k1)
    c0, c1 = np.asarray(counter0, _U32), np.asarray(counter1, _U32)
    shape = np.broadcast_shapes(np.shape(key[0]), np.shape(key[1]), c0.shape, c1.shape)
    x0 = np.broadcast_to(c0 + k0, shape or (1,)).copy()
    x1 = np.broadcast_to(c1 + k1, shape or (1,)).copy()
    scratch = np.empty_like(x1)
    for r in range(rounds):
        x0 += x1
        rotation = _ROTATIONS[r % 8]
        np.right_shift(x1, _U32(32 - rotation), out=scratch)
        np.left_shift(x1, _U32(rotation), out=x1)
        x1 |= scratch
        x1 ^= x0
        if r % 4 == 3:
            s = r // 4 + 1
            x0 += schedule[s % 3]
            x1 += schedule[(s + 1) % 3] + _U32(s)
    return x0.reshape(shape), x1.reshape(shape)


def site_id(name: str) -> int:
    """A site's 64-bit id: the first 8 bytes of BLAKE2b of its name.

    >>> site_id("encoder.drop#0") == site_id("encoder.drop#1")
    False
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def derive_key(seed: int, *words64: int) -> tuple[int, int]:
    """The key under which a site's mask (or block of masks) is drawn: each 64-bit word is encrypted in turn."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {seed}")
    key = (seed & _MASK32, seed >> 32)
    for word in words64:
        out0, out1 = threefry2x32(key, word & _MASK32, (word >> 32) & _MASK32)
        key = (int(out0), int(out1))
    return key


def counter_and_lane(elements: ArrayLike, *, lanes: int = 2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where an element's word lies: counter = run * LANE_STRIDE + offset within a lane, and the lane.

    >>> counter_and_lane([0, 127, 128, 255, 256])
    (array([  0, 127,   0, 127, 128]), array([0, 0, 1, 1, 0]))
    """
    e = np.asarray(elements, np.int64)
    run, offset = np.divmod(e, lanes * LANE_STRIDE)
    lane, within = np.divmod(offset, LANE_STRIDE)
    return run * LANE_STRIDE + within, lane


def words(key: Key, examples: ArrayLike, n_elements: int) -> NDArray[np.uint32]:
    """One 32-bit word for each example and element: shape (len(examples), n_elements).

    With keys of shape (k, 1, 1), the same for each: (k, len(examples), n_elements).
    """
    rows = _example_column(examples)
    n_runs = -(-n_elements // (2 * LANE_STRIDE))
    # Only the last run may be partly used; where lane 1 of it is not reached, its counters still serve lane 0.
    n_counters = n_runs * LANE_STRIDE
    if n_elements < LANE_STRIDE:
        n_counters = n_elements
    w0, w1 = threefry2x32(key, rows, np.arange(n_counters, dtype=_U32)[None, :])
    if n_elements <= LANE_STRIDE:
        return w0[..., :n_elements]
    lead = w0.shape[:-1]
    shape = (*lead, n_runs, 1, LANE_STRIDE)
    both = np.concatenate([w0.reshape(shape), w1.reshape(shape)], axis=-2)
    return both.reshape(*lead, -1)[..., :n_elements]


def stream(key: tuple[int, int], n_elements: int, *, bits: int = 32, start: int = 0) -> NDArray[np.uint32]:
    """A word of 1, 2, 4, 8, 16 or 32 bits for each of the elements start … start + n_elements - 1: (n_elements,).

    >>> whole = stream((1, 2), 1000, bits=16)
    >>> bool((stream((1, 2), 600, bits=16, start=400) == whole[400:]).all()), bool(whole.max() < 2**16)
    (True, True)
    """
    if bits not in (1, 2, 4, 8, 16, 32):
        raise ValueError(f"bits must be 1, 2, 4, 8, 16 or 32, got {bits}")
    counter, lane = counter_and_lane(np.arange(start, start + n_elements), lanes=64 // bits)
    w0, w1 = threefry2x32(key, counter >> 32, counter & _MASK32)
    first_bit = lane * bits
    word = np.where(first_bit < 32, w0, w1)
    return np.asarray((word >> (first_bit % 32).astype(_U32)) & _U32(_MASK32 >> (32 - bits)), _U32)


def word_pairs(key: Key, examples: ArrayLike, n_elements: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Two 32-bit words for each example and element, each of shape (len(examples), n_elements); keys as in `words`."""
    return threefry2x32(key, _example_column(examples), np.arange(n_elements, dtype=_U32)[None, :])


def keep_threshold(keep_prob: ArrayLike) -> NDArray[np.uint64]:
    """round(keep_prob * 2**32): a word below it keeps the unit (2**32 keeps always)."""
    return np.rint(np.asarray(keep_prob, np.float64) * 2.0**32).astype(np.uint64)


def check_examples(examples: ArrayLike) -> NDArray[np.uint32]:
    """Example indices as counters hold them, or a ValueError that says which are allowed."""
    rows = np.atleast_1d(np.asarray(examples))
    if rows.size and (rows.min() < 0 or rows.max() > _MASK32):
        raise ValueError(f"example_index must lie in 0 … 2**32 - 1, got {rows.min()} … {rows.max()}")
    return rows.astype(_U32)


def _example_column(examples: ArrayLike) -> NDArray[np.uint32]:
    return check_examples(examples)[:, None]
