"""The generator against its published vectors, and the layout's promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allmasks.kernels import reference

PI_KEY, PI_COUNTER = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("rounds", "key", "counter", "expected"),
    # The known-answer vectors distributed with Random123.
    [
        (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        (13, (ONES, ONES), (ONES, ONES), (0xFD36D048, 0x2D17272C)),
        (13, PI_KEY, PI_COUNTER, (0xBA3E4725, 0xF27D669E)),
        (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (20, (ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
        (20, PI_KEY, PI_COUNTER, (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(rounds, key, counter, expected):
    assert tuple(int(w) for w in reference.threefry2x32(key, *counter, rounds=rounds)) == expected


@given(st.integers(1, 1200), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_a_word_depends_on_its_own_example_and_element_alone(n, examples):
    key = reference.derive_key(7, 3, 5)
    words = reference.words(key, examples, n)
    counter, lane = reference.counter_and_lane(np.arange(n))
    for row, example in enumerate(examples):
        both = reference.threefry2x32(key, example, counter)
        np.testing.assert_array_equal(words[row], np.where(lane == 0, *both))
    np.testing.assert_array_equal(words[:1], reference.words(key, examples[:1], n))


def test_keys_differ_in_every_argument():
    keys = {reference.derive_key(s, site, m) for s in range(5) for site in range(5) for m in range(5)}
    assert len(keys) == 125


def test_threshold_reaches_both_ends():
    assert reference.keep_threshold([0.0, 0.5, 1.0]).tolist() == [0, 2**31, 2**32]


def test_bad_keys_are_refused():
    with pytest.raises(ValueError, match="seed must be an integer from 0"):
        reference.derive_key(-1)
    with pytest.raises(ValueError, match="example_index must lie in"):
        reference.words((0, 0), [2**32], 3)


@given(st.integers(1, 600), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_many_keys_at_once_are_each_key_alone(n, indices):
    keys = [reference.derive_key(7, 3, index) for index in indices]
    together = tuple(np.array(word, np.uint64)[:, None, None] for word in zip(*keys, strict=True))
    words, pairs = reference.words(together, [4, 2**32 - 1], n), reference.word_pairs(together, [0, 9], n)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(words[i], reference.words(key, [4, 2**32 - 1], n))
        for both, alone in zip(pairs, reference.word_pairs(key, [0, 9], n), strict=True):
            np.testing.assert_array_equal(both[i], alone)
