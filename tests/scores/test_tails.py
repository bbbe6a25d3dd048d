"""Moments of heavy-tailed losses in closed form, against every mask; and what they say of errors."""

import numpy as np
import pytest

import allmasks as am
from allmasks.losses import score_loss
from allmasks.scores.tails import tail_moments
from truth import every_mask

A, Q, B = np.array([1.0, -0.7, 0.4, 2.1]), np.array([0.3, 0.6, 0.9, 0.02]), 0.2
BITS, CHANCE = every_mask(1 - Q)


@pytest.mark.parametrize("block", [1, 2, 8])
@pytest.mark.parametrize(
    ("loss", "y"), [("poisson", 0.8), ("poisson", 0.0), ("exponential", 1.0), ("exponential", -1.0)]
)
def test_moments_are_those_of_every_mask(loss, y, block):
    values = score_loss(loss).value(BITS @ A + B, np.full(len(BITS), y))
    if block > 1:
        for j in range(4):
            on = BITS[:, j] == 1
            effect = np.average(values[on], weights=CHANCE[on]) - np.average(values[~on], weights=CHANCE[~on])
            values = values - effect * (BITS[:, j] - Q[j])
    values = values - CHANCE @ values
    second, third, fourth = (CHANCE @ values**k for k in (2, 3, 4))
    found = tail_moments(score_loss(loss), A[None], Q, B, np.array([y]), block)
    size = found.size[0]
    assert found.second[0] * size**2 == pytest.approx(second, rel=1e-9)
    assert found.third[0] * size**3 == pytest.approx(third, rel=1e-9)
    assert found.excess[0] * size**4 == pytest.approx(fourth - 3 * second**2, rel=1e-8)


def test_losses_without_a_tail_have_no_such_moments():
    for loss in ("logistic", "squared_error"):
        assert tail_moments(score_loss(loss), A[None], Q, B, np.array([1.0]), 1) is None


@pytest.mark.parametrize("sampler", [am.samplers.LatinHypercube(), am.samplers.Antithetic(), am.samplers.Independent()])
def test_a_tail_that_no_mask_drawn_shows_is_known(sampler):
    # E e^S with S far spread: 256 masks hold the truth in six runs of ten, and none says that it can be trusted.
    weights = 3 * np.random.default_rng(0).normal(size=20) / 4
    rows, y = np.ones((200, 20)), np.ones(200)
    method = am.methods.MonteCarlo(n_masks=256, sampler=sampler)
    result = am.expected_score_loss(weights, rows, y, 0.7, loss="poisson", method=method)
    assert not result.per_example_reliable.any()
    alone = am.expected_score_loss(weights, rows[:1], y[:1], 0.7, loss="poisson", method=method)
    assert not alone.reliable
    assert any("the error is not to be trusted" in note for note in alone.notes)
