"""The bits themselves, on more than 2**30 draws: uniform, and independent of neighbours, masks, examples, sites, seeds.

Every statistic is a z-score on a fixed number of draws. There are about eighty; at 4.5 sigma each the whole battery
fails by chance once in 1 800 choices of its keys, and the keys are fixed. Beside each stands a planted defect.
"""

import numpy as np
import pytest
from numba import njit
from scipy.stats import chi2, norm

from allmasks.kernels import cpu, reference
from allmasks.kernels.cpu import fill_lanes
from allmasks.nn.law import drawn_law

U = np.uint32
BLOCK = 128
LIMIT = 4.5


@njit
def _popcount(w):
    w = U(w - U(U(w >> U(1)) & U(0x55555555)))
    w = U(U(w & U(0x33333333)) + U(U(w >> U(2)) & U(0x33333333)))
    w = U(U(w + U(w >> U(4))) & U(0x0F0F0F0F))
    return U(U(w * U(0x01010101)) >> U(24))


@njit
def histogram(k0, k1, counters, quarters, deep, thresholds):
    """16-bit words by value; and how many 32-bit words are below each threshold."""
    w0, w1 = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    for start in range(0, counters, BLOCK):
        fill_lanes(U(k0), U(k1), np.uint64(start), w0, w1)
        for i in range(BLOCK):
            quarters[w0[i] & U(0xFFFF)] += 1
            quarters[w0[i] >> U(16)] += 1
            quarters[w1[i] & U(0xFFFF)] += 1
            quarters[w1[i] >> U(16)] += 1
        for j in range(len(thresholds)):
            t = U(thresholds[j])
            found = 0
            for i in range(BLOCK):
                found += (w0[i] < t) + (w1[i] < t)
            deep[j] += found


@njit
def agreement(a0, a1, high_a, b0, b1, high_b, first_b, counters, copied_every):
    """Equal bits of two streams, and elements that both drop at p = 1/8; every so many blocks a word is copied."""
    w0, w1 = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    v0, v1 = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint32)
    equal, both = 0, 0
    cut = U(7 << 13)
    for start in range(0, counters, BLOCK):
        fill_lanes(U(a0), U(a1), np.uint64(np.uint64(high_a) << np.uint64(32)) | np.uint64(start), w0, w1)
        second = np.uint64(np.uint64(high_b) << np.uint64(32)) | np.uint64(start + first_b)
        fill_lanes(U(b0), U(b1), second, v0, v1)
        if copied_every and (start // BLOCK) % copied_every == 0:
            v0[:] = w0
        for i in range(BLOCK):
            equal += 64 - _popcount(U(w0[i] ^ v0[i])) - _popcount(U(w1[i] ^ v1[i]))
            both += (U(w0[i] & U(0xFFFF)) >= cut) & (U(v0[i] & U(0xFFFF)) >= cut)
            both += (U(w0[i] >> U(16)) >= cut) & (U(v0[i] >> U(16)) >= cut)
            both += (U(w1[i] & U(0xFFFF)) >= cut) & (U(v1[i] & U(0xFFFF)) >= cut)
            both += (U(w1[i] >> U(16)) >= cut) & (U(v1[i] >> U(16)) >= cut)
    return equal, both


def parts_of(words, bits, whole):
    """Each word's parts of so many bits, from the lowest on: (whole // bits, len(words))."""
    return (words >> np.arange(0, whole, bits, dtype=words.dtype)[:, None]) & words.dtype.type(2**bits - 1)


@njit
def lagged(dropped, lag):
    """How many elements are dropped together with the one `lag` further on."""
    found = 0
    for i in range(len(dropped) - lag):
        found += dropped[i] & dropped[i + lag]
    return found


def binomial_z(count, n, p):
    return (count - n * p) / np.sqrt(n * p * (1 - p))


def chi_square_z(counts, expected):
    statistic = float(((counts - expected) ** 2 / expected).sum())
    upper = chi2.sf(statistic, len(counts) - 1)
    return float(norm.isf(upper)) if upper > 0 else np.inf


def test_known_answers():
    """The compiled kernel gives Random123's published vector for 13 rounds; `test_reference` has the other five."""
    words = np.empty(129, np.uint32)
    cpu.fill_words(words, 0, 1)
    assert (int(words[0]), int(words[128])) == (0x9D1C5EC6, 0x8BD50731)


RATES = [1e-4, 1e-3, 0.01, 3 / 256, 0.05, 0.1, 3 / 16, 0.2, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.99, 0.999]


@pytest.mark.slow
def test_frequencies():
    """2**30 words of 16 bits, the 2**29 of 32 bits that they are halves of, and their parts of 8 to 1 bits."""
    laws = {p: drawn_law(p) for p in RATES}
    assert {law.bits for law in laws.values()} == {1, 2, 4, 8, 16, 32}
    deep_rates = [p for p, law in laws.items() if law.bits == 32]
    thresholds = np.array([laws[p].threshold for p in deep_rates], np.uint32)
    quarters, deep = np.zeros(2**16, np.int64), np.zeros(len(thresholds), np.int64)
    for seed in range(64):
        k0, k1 = reference.derive_key(seed, 0)
        histogram(k0, k1, 2**22, quarters, deep, thresholds)
    n = int(quarters.sum())
    assert n == 2**30
    assert abs(chi_square_z(quarters, n / 2**16)) < LIMIT
    for p, law in laws.items():
        if law.bits == 32:
            kept, draws = deep[deep_rates.index(p)], n // 2
        else:
            parts = parts_of(np.arange(2**16), law.bits, 16)
            kept, draws = int((quarters * (parts < law.threshold).sum(0)).sum()), n * (16 // law.bits)
        assert abs(binomial_z(kept, draws, 1 - law.p)) < LIMIT, p
        planted = 1 - law.p - 10 * np.sqrt(law.p * (1 - law.p) / draws)
        assert abs(binomial_z(kept, draws, planted)) > LIMIT, p
    worn = quarters + (np.arange(2**16) % 2 - 0.5) * n / 2**24  # odd values come up 1/256 more often than even ones
    assert chi_square_z(worn, n / 2**16) > LIMIT


# Of each stream the key and the counter's high word (in evaluation the example); last, where the second starts.
RELATIONS = {
    "masks": lambda i: ((5, 9, i), 0, (5, 9, i + 1), 0, 0),
    "sites": lambda i: ((5, 9 + i, 3), 0, (5, 10 + i, 3), 0, 0),
    "seeds": lambda i: ((i, 9, 3), 0, (i + 1, 9, 3), 0, 0),
    "examples": lambda i: ((5, 9, 3), i, (5, 9, 3), i + 1, 0),
    "units": lambda i: ((5, 9, i), 0, (5, 9, i), 0, 2**20),
    "calls of a seeded layer": lambda i: ((7, i), 0, (7, i + 1), 0, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELATIONS)
def test_streams_are_independent(name):
    """2**30 bits of one stream against those of its neighbour: 16 pairs of 2**20 counters of 64 bits."""
    equal = both = broken = broken_both = 0
    for i in range(16):
        one, high_a, two, high_b, first = RELATIONS[name](i)
        ends = (*reference.derive_key(*one), high_a, *reference.derive_key(*two), high_b, first, 2**20)
        e, b = agreement(*ends, 0)
        equal, both = equal + e, both + b
        e, b = agreement(*ends, 1024)  # one block in 1024 has a word in common with its neighbour
        broken, broken_both = broken + e, broken_both + b
    for count, n, p in ((equal, 2**30, 0.5), (both, 2**26, 1 / 64)):
        assert abs(binomial_z(count, n, p)) < LIMIT
    assert abs(binomial_z(broken, 2**30, 0.5)) > LIMIT
    assert broken_both > both


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_neighbours_are_independent(p):
    """2**27 elements of one stream at lags within a lane, across lanes and across runs."""
    law, n = drawn_law(p), 2**27
    words = np.empty(n * law.bits // 32, np.uint32)
    cpu.fill_words(words, 123456789, 1)
    lanes = [parts_of(w, law.bits, 32).astype(np.uint16) for w in words.reshape(-1, BLOCK)]
    drawn = np.concatenate(lanes).reshape(-1)  # the layout's order: all lanes of 128 words, then of the next
    assert np.array_equal(drawn[:20_000], reference.stream((123456789, 0), 20_000, bits=law.bits))
    dropped = (drawn >= law.threshold).astype(np.uint8)
    copied = dropped.reshape(-1, 128).copy()
    copied[::64, 1::2] = copied[::64, ::2]  # in one lane of 64 every second element does what its neighbour does
    for lag in (1, 2, 3, 64, 127, 128, 129, 256, 512, 1024, 2048, 4096, 8192):
        pairs = n - lag
        # Overlapping pairs: Var = pairs * p2 (1 - p2) + 2 pairs p^3 (1 - p), with p2 = p^2.
        spread = np.sqrt(pairs * (law.p**2 * (1 - law.p**2) + 2 * law.p**3 * (1 - law.p)))
        assert abs((lagged(dropped, lag) - pairs * law.p**2) / spread) < LIMIT, lag
        if lag == 1:
            assert abs((lagged(copied.reshape(-1), lag) - pairs * law.p**2) / spread) > LIMIT
