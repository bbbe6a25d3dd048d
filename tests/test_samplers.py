"""Every sampler draws each mask with exactly the dropout law; blocks are independent and stable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allmasks import samplers

HYPERCUBES = [samplers.LatinHypercube(size) for size in (8, 4, 2)]
ALL = [samplers.Independent(), samplers.Antithetic(), *HYPERCUBES]
each = pytest.mark.parametrize("sampler", ALL, ids=repr)


def frequency_z(kept: np.ndarray, q: float) -> float:
    return float((kept.mean() - q) / np.sqrt(q * (1 - q) / kept.size))


@each
@pytest.mark.parametrize("q", [0.001, 0.2, 0.5, 0.77, 0.9999])
def test_each_mask_of_a_block_has_the_law(sampler, q):
    # Fixed position in the block, many units: those bits are independent, so the binomial z applies.
    for position in range(sampler.block):
        kept = sampler.draw(11, 2, [position], range(50), np.full(4000, q))
        assert abs(frequency_z(kept, q)) < 4.5


@each
def test_the_frequency_test_catches_a_planted_bias(sampler):
    kept = sampler.draw(11, 2, [0], range(500), np.full(4000, 0.5 * 1.01))
    assert abs(frequency_z(kept, 0.5)) > 4.5


@each
def test_units_and_blocks_are_uncorrelated(sampler):
    # First mask of 20 000 blocks, 6 units and 3 examples: all 18 columns independent, and neighbours in time.
    kept = sampler.draw(5, 9, np.arange(20_000) * sampler.block, range(3), np.full(6, 0.5))
    columns = kept.reshape(20_000, 18) - 0.5
    z = 4 * columns.T @ columns / np.sqrt(20_000)
    assert np.abs(z[np.triu_indices(18, 1)]).max() < 4.5
    lagged = 4 * (columns[1:] * columns[:-1]).sum(axis=0) / np.sqrt(19_999)
    assert np.abs(lagged).max() < 4.5


@each
@given(data=st.data())
def test_a_mask_never_depends_on_what_is_drawn_with_it(sampler, data):
    masks = data.draw(st.lists(st.integers(0, 100), min_size=1, max_size=12))
    examples = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5))
    units = data.draw(st.integers(1, 300))
    q = np.full(units, 0.6)
    together = sampler.draw(1, 2, masks, examples, q)
    i, j = data.draw(st.integers(0, len(masks) - 1)), data.draw(st.integers(0, len(examples) - 1))
    alone = sampler.draw(1, 2, [masks[i]], [examples[j]], q)
    np.testing.assert_array_equal(together[i, j], alone[0, 0])


@pytest.mark.parametrize("sampler", HYPERCUBES, ids=repr)
@pytest.mark.parametrize("q", [0.05, 0.3, 0.5, 0.8])
def test_latin_hypercube_keeps_each_unit_the_right_number_of_times(sampler, q):
    b = sampler.block
    kept = sampler.draw(0, 0, range(80), range(3), np.full(50, q)).reshape(80 // b, b, -1).sum(axis=1)
    assert kept.min() >= np.floor(b * q)
    assert kept.max() <= np.ceil(b * q)


def test_latin_hypercube_pairs_of_units_are_as_good_as_independent_orders():
    # Within a block, the product of two units' centred bits has the variance of independent permutations.
    kept = samplers.LatinHypercube().draw(3, 1, range(8 * 20_000), [0], np.full(2, 0.5))
    signs = 2.0 * kept[:, 0].reshape(20_000, 8, 2) - 1
    block_mean = (signs[..., 0] * signs[..., 1]).mean(axis=1)
    z = block_mean.mean() / (block_mean.std() / np.sqrt(20_000))
    assert abs(z) < 4.5
    # For ±1 with four of each: Var = 1/7.
    assert abs(block_mean.var() * 7 - 1) < 0.05


def test_antithetic_pairs_are_opposite():
    kept = samplers.Antithetic().draw(0, 0, [0, 1], [0], np.full(1000, 0.5))
    np.testing.assert_array_equal(kept[0], ~kept[1])


@each
@pytest.mark.parametrize("units", [1, 127, 128, 129, 255, 256, 257, 300])
def test_the_compiled_kernel_draws_the_bits_of_the_formulas(sampler, units, monkeypatch):
    masks, examples, seed, site = np.arange(2**40, 2**40 + 24), [0, 5, 2**32 - 1], 2**63 + 12345, 2**64 - 17
    for q in (0.5, 0.9, 0.123456, 1.0, np.linspace(0.01, 1, units)):
        drawn = []
        for compiled_from in (1, 2**60):
            monkeypatch.setattr(samplers, "_COMPILED_FROM", compiled_from)
            drawn.append(sampler.draw(seed, site, masks, examples, np.broadcast_to(q, (units,))))
        assert drawn[0].dtype == drawn[1].dtype == np.bool_
        np.testing.assert_array_equal(drawn[0], drawn[1])


BAD = {
    "masks": [[-1], [0.7], [True], ["a"], [2.0]],
    "keep_prob": [[1.5], [-0.1], [np.nan], [0.5, np.inf]],
    "site": [-1, 2**64, 1.5, True, "a"],
    "seed": [-1, 2**64, 0.5, False],
}


@each
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_is_no_mask_index_rate_or_key_is_refused(sampler, name, value):
    arguments = {"seed": 1, "site": 2, "masks": [0], "examples": [0], "keep_prob": [0.5]}
    with pytest.raises((TypeError, ValueError), match=f"{name} must"):
        sampler.draw(**{**arguments, name: value})


@each
def test_nothing_is_drawn_of_nothing(sampler):
    assert sampler.draw(0, 1, [], [0], [0.5]).shape == (0, 1, 1)
    assert sampler.draw(0, 2**64 - 1, np.arange(3), [0], []).shape == (3, 1, 0)
    assert sampler.draw(0, 1, range(3), [0], [0.0, 1.0]).tolist() == [[[False, True]]] * 3
