"""The search over a lattice, on scores that are known in advance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allmasks.linear_model.lattice import Axis, best_of, climb, neighbors

RATES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
ALPHAS = np.array([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0])


def axes(beyond):
    return Axis.of("ps", RATES, beyond, rate=True), Axis.of("alphas", ALPHAS, beyond, rate=False)


def climbed(score, beyond=0, full=False):
    p_axis, alpha_axis = axes(beyond)
    calls = []

    def evaluate(points, best):
        calls.extend(points)
        return {(i, j): score(p_axis.values[i], alpha_axis.values[j]) for i, j in points}

    seen = climb(p_axis, alpha_axis, evaluate, full=full)
    assert len(calls) == len(set(calls)) == len(seen)  # nothing is fitted twice
    i, j = best_of(seen, p_axis, alpha_axis)
    return p_axis.values[i], alpha_axis.values[j], seen, (i, j)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(range(5)), st.sampled_from(range(7)), st.floats(0.1, 3.0), st.floats(-0.9, 0.9))
def test_a_single_hill_is_found_wherever_it_is(i, j, steep, tilt):
    top = (math.log(RATES[i] / (1 - RATES[i])), math.log(ALPHAS[j]))

    def score(p, alpha):
        a, b = math.log(p / (1 - p)) - top[0], math.log(alpha) - top[1]
        return -(a * a + steep * b * b + tilt * 2 * math.sqrt(steep) * a * b * 0.5)

    p, alpha, seen, _ = climbed(score)
    assert (p, alpha) == (RATES[i], ALPHAS[j])
    assert len(seen) <= 25


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_on_any_surface_the_choice_is_the_best_of_its_neighborhood(seed, full):
    table = {}
    rng = np.random.default_rng(seed)

    def score(p, alpha):
        return table.setdefault((p, alpha), float(rng.integers(4)))

    p_axis, alpha_axis = axes(2)
    _, _, seen, best = climbed(score, beyond=2, full=full)
    inside = [(i, j) for i, j in neighbors(best) if 0 <= i < len(p_axis.values) and 0 <= j < len(alpha_axis.values)]
    assert all(point in seen and seen[point] <= seen[best] for point in inside)
    if full:
        own = {(i, j) for i in p_axis.own for j in alpha_axis.own}
        assert own <= set(seen)


@pytest.mark.parametrize(
    ("top", "expected"),
    [((0.01, 0.1), (0.1 / 9, 0.1)), ((0.99, 30.0), (1 - 0.1 / 9, 10.0 * (10 / 3))), ((0.5, 1e-4), (0.5, 0.01 / 81))],
)
def test_it_goes_on_past_the_ends(top, expected):
    def score(p, alpha):
        return -abs(math.log(p / (1 - p)) - math.log(top[0] / (1 - top[0]))) - abs(math.log(alpha / top[1]))

    p, alpha, _, _ = climbed(score, beyond=4)
    assert (p, alpha) == pytest.approx(expected)


def test_equal_scores_lead_nowhere_and_nan_is_the_worst():
    p, alpha, seen, _ = climbed(lambda p, alpha: 1.0, beyond=4)
    assert (p, alpha) == (0.1, 10.0)  # the smaller rate, then the larger alpha, of the grid
    assert len(seen) < 30
    p, alpha, _, _ = climbed(lambda p, alpha: 1.0 if (p, alpha) == (0.5, 0.3) else math.nan)
    assert (p, alpha) == (0.5, 0.3)
    climbed(lambda p, alpha: math.nan, beyond=3)


@pytest.mark.parametrize(
    ("grid", "rate", "beyond", "expected"),
    [
        ([0.5], True, 4, [0.5]),
        ([0.0, 0.5], True, 2, [0.0, 0.5, 0.75, 0.875]),
        ([0.5, 0.999], True, 4, [0.5**k * 0.999 ** (1 - k) * 1 for k in (5, 4, 3, 2)] + [0.5, 0.999]),
        ([0.0, 2.0], False, 1, [0.0, 2.0, 20.0]),
        ([1e-300, 1e-290], False, 1, [1e-300, 1e-290, 1e-280]),
        ([1e290, 1e300], False, 2, [1e270, 1e280, 1e290, 1e300]),
        ([1.0, 2.0], False, 0, [1.0, 2.0]),
    ],
)
def test_values_past_the_ends(grid, rate, beyond, expected):
    axis = Axis.of("grid", np.array(grid), beyond, rate=rate)
    np.testing.assert_allclose(axis.values, expected, rtol=1e-9)
    assert (np.diff(axis.values) > 0).all()
    assert axis.values[axis.first] == grid[0]
    assert axis.values[axis.last] == grid[-1]
