"""The law of a mask: enumeration, probabilities and moments agree with each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allmasks.masks import MaskLaw, alpha_constants, check_p, dropout_moments

rates = st.floats(0, 0.999)


@given(st.lists(rates, min_size=1, max_size=8))
def test_enumeration_is_a_distribution_with_the_stated_moments(p):
    law = MaskLaw(np.array(p), (len(p),))
    masks = law.enumerate()
    weight = np.exp(law.log_prob(masks))
    noise = law.noise(masks)
    assert len(np.unique(masks, axis=0)) == law.n_masks
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(weight @ noise, np.ones(len(p)), rtol=1e-9)
    np.testing.assert_allclose(weight @ (noise - 1) ** 2, law.noise_variance(), rtol=1e-9, atol=1e-12)


def test_the_notes_first_example():
    mean, variance = dropout_moments([2, -1, 3], 0.5)
    assert mean.tolist() == [2, -1, 3]
    assert variance.tolist() == [4, 1, 9]


@pytest.mark.parametrize(
    ("sharing", "units", "mask_shape"),
    [("element", 24, (2, 3, 4)), ("channel", 2, (2, 1, 1)), ("row", 1, (1, 1, 1))],
)
def test_sharing_sets_the_independent_bits(sharing, units, mask_shape):
    law = MaskLaw(0.5, (2, 3, 4), sharing)
    assert (law.units, law.mask_shape) == (units, mask_shape)


def test_units_that_are_never_dropped_are_not_enumerated():
    law = MaskLaw(np.array([0.0, 0.5, 0.0]), (3,))
    assert law.enumerate().tolist() == [[True, False, True], [True, True, True]]
    assert law.log_prob([[False, True, True]])[0] == -np.inf


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_constants_keep_zero_mean_and_unit_variance(p):
    c = alpha_constants(p)
    kept_moment = (1 - p) * np.array([c.shift, c.scale**2 + c.shift**2])  # E over h with mean 0, variance 1
    dropped = c.scale * c.dropped + c.shift
    mean, second = kept_moment + p * np.array([dropped, dropped**2])
    assert abs(mean) < 1e-12
    assert abs(second - 1) < 1e-12


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan"), [0.5, 2.0]])
def test_a_rate_outside_the_range_is_named(p):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got"):
        check_p(p)


def test_bad_laws_say_what_is_needed():
    with pytest.raises(ValueError, match="give one rate, or one for each unit"):
        MaskLaw(np.array([0.1, 0.2]), (3,))
    with pytest.raises(ValueError, match="sharing must be"):
        MaskLaw(0.5, (3,), "batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="too many to list"):
        MaskLaw(0.5, (63,)).enumerate()
    with pytest.raises(TypeError, match="must be a number"):
        check_p("half")
