"""Every mask listed in float64 against the same in extended precision, and what is refused."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from scipy import sparse

import allmasks as am
from allmasks.methods import Enumeration
from allmasks.scores.score import ScoreProblem
from scores import truth
from scores.drawn import Drawn, problems

LOSSES = {
    "squared_error": lambda s, y: (s - y) ** 2,
    "logistic": lambda s, y: np.logaddexp(0, s) - y * s,
    "poisson": lambda s, y: np.exp(s) - y * s,
    "exponential": lambda s, y: np.exp(-(2 * y - 1) * s),
    "sine": lambda s, y: np.sin(s),
}


@truth.needs_extended
@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=40)
@given(case=problems(rows=3, most_units=9))
@example(case=Drawn(np.array([13.57, -25.28, 21.04]), np.full((3, 3), 5e-324), 0.0, 0.0, np.zeros(3), as_csr=False))
def test_within_its_own_error(name, case):
    p = np.broadcast_to(case.p, case.weights.shape)
    if name in ("poisson", "exponential"):
        reach = float(np.abs(case.X * case.weights / (1 - p)).sum(axis=1).max())
        case.weights = case.weights * min(1.0, 20.0 / max(reach, 1e-300))
    y = 2 * case.y - 1 if name == "exponential" else case.y
    result = am.expected_score_loss(
        case.weights,
        case.given,
        y,
        case.p,
        loss=np.sin if name == "sine" else name,
        intercept=case.intercept,
        method=Enumeration(),
    )
    assert result.guarantee == "exact"
    for i, x in enumerate(case.X):
        exact = truth.mean_over_masks(lambda s, i=i: LOSSES[name](s, case.y[i]), case.weights, x, p, case.intercept)
        assert abs(float(result.per_example[i] - exact)) <= result.per_example_error[i]


def test_only_units_that_move_the_score_count():
    # 40 columns, but 3 that matter: p = 0, a weight of 0 and an input of 0 need no listing.
    w, x = np.ones(40), np.zeros(40)
    x[[1, 5, 9, 12]], w[5] = 1.0, 0.0
    p = np.full(40, 0.5)
    p[12] = 0.0
    result = am.expected_score_loss(w, [x], [0.0], p, method=Enumeration())
    assert result.n_masks == 4
    exact = truth.mean_over_masks(lambda s: np.logaddexp(0, s), [1.0, 1.0], [1.0, 1.0], [0.5, 0.5], 1.0)
    assert result.value == pytest.approx(float(exact), abs=1e-14)


def test_more_masks_than_allowed_are_refused_before_anything_is_listed():
    with pytest.raises(
        am.MethodNotApplicable,
        match=r"row 1 has 21 random units, 2\^21 masks, more than max_masks=1048576.*Fourier\(\).*MonteCarlo\(\)",
    ):
        am.expected_score_loss(np.ones(21), [np.zeros(21), np.ones(21)], [0.0, 0.0], 0.5, method=Enumeration())
    with pytest.raises(am.MethodNotApplicable, match="more than max_masks=4"):
        am.expected_score_loss(np.ones(3), np.ones((1, 3)), [0.0], 0.5, method=Enumeration(max_masks=4))


def test_twenty_units_fit():
    result = am.expected_score_loss(np.linspace(-1, 1, 20), np.ones((1, 20)), [1.0], 0.3, method=Enumeration())
    fourier = am.expected_score_loss(np.linspace(-1, 1, 20), np.ones((1, 20)), [1.0], 0.3)
    assert result.n_masks == 2**20
    assert abs(result.value - fourier.value) <= result.error + fourier.error


def test_rows_are_blocked_without_changing_them(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 9)) * (rng.random((30, 9)) < 0.4)
    w, y = rng.standard_normal(9), np.zeros(30)
    whole = am.expected_score_loss(w, X, y, 0.4, method=Enumeration(), return_grad=True)
    monkeypatch.setattr("allmasks.scores.every_mask._BLOCK_MASKS", 40)
    parts = am.expected_score_loss(w, sparse.csr_matrix(X), y, 0.4, method=Enumeration(), return_grad=True)
    np.testing.assert_allclose(parts.per_example, whole.per_example, rtol=1e-14)
    np.testing.assert_allclose(parts.grad["weights"], whole.grad["weights"], rtol=1e-12, atol=1e-15)


def test_a_mask_of_infinite_loss_may_have_a_finite_share():
    # e^720 is no double; 1e-20 of it is.
    result = am.expected_score_loss(
        [720.0 * 1e-20], [[1.0]], [0.0], 1 - 1e-12, loss="poisson", method=Enumeration(), intercept=0.0
    )
    assert np.isfinite(result.value)
    p = 1 - 2.0**-40
    result = am.expected_score_loss(
        [720.0 * (1 - p)], [[1.0]], [3.0], p, loss="poisson", method=Enumeration(), return_grad=True
    )
    exact = truth.exact_loss([720.0 * (1 - p)], [1.0], p, 0.0, 3.0, "poisson")
    assert truth.apart(result.value, exact.value) <= result.error < 1e-11 * result.value
    assert truth.apart(result.grad["intercept"], exact.slope) < 1e-11 * result.grad["intercept"]
    square = am.expected_score_loss([1e150], [[1.0]], [0.0], 0.999999, loss="squared_error", method=Enumeration())
    exact = truth.exact_loss([1e150], [1.0], 0.999999, 0.0, 0.0, "squared_error")
    assert truth.apart(square.value, exact.value) <= square.error < 1e-12 * square.value


def test_a_callable_that_is_infinite_under_some_mask_is_refused_by_name():
    with pytest.raises(ValueError, match=r"the loss of row 0 is not finite at score 1600, which mask 1 gives"):
        am.expected_score_loss([800.0], [[1.0]], [0.0], 0.5, loss=np.exp, method=Enumeration())


STEEP = {"poisson": np.exp, "exponential": lambda s: np.exp(-s), "squared_error": np.square, "callable": np.exp}


@truth.needs_extended
@pytest.mark.parametrize("name", STEEP)
def test_the_error_is_that_of_the_steepest_slope_within_a_scores_rounding(name):
    # The slope between neighbouring scores, far apart, was up to 3.6 × too small.
    rng = np.random.default_rng(5)
    worst = 0.0
    for _ in range(150):
        d = int(rng.integers(1, 5))
        w, x, p = rng.standard_normal(d) * 60, rng.standard_normal(d), rng.uniform(0.01, 0.99, d)
        w *= min(1.0, 600.0 / np.abs(w * x / (1 - p)).sum())
        y = 1.0 if name == "exponential" else 0.0
        loss = np.exp if name == "callable" else name
        result = am.expected_score_loss(w, [x], [y], p, loss=loss, method=Enumeration())
        exact = truth.mean_over_masks(STEEP[name], w, x, p)
        off = abs(float(result.per_example[0] - exact))
        assert off <= result.per_example_error[0]
        worst = max(worst, off / result.per_example_error[0])
    assert worst > 0.003  # and it is not so large that it says nothing


def test_a_function_faster_than_its_scores_are_known_is_not_called_exact():
    result = am.expected_score_loss([1e17, 3e16], [[1.0, 1.0]], [0.0], 0.5, loss=np.cos, method=Enumeration())
    assert result.guarantee == "estimated"
    exact = truth.mean_over_masks(np.cos, [1e17, 3e16], [1.0, 1.0], [0.5, 0.5])
    assert abs(float(result.value - exact)) <= result.error


def test_moments_of_any_link():
    rng = np.random.default_rng(4)
    w, X, p = rng.standard_normal(6), rng.standard_normal((4, 6)), rng.uniform(0, 0.9, 6)
    for link in ("logistic", "identity", "log"):
        listed = am.expected_score(w, X, p, link=link, intercept=0.2, method=Enumeration())
        exact = am.expected_score(w, X, p, link=link, intercept=0.2)
        assert listed.guarantee == exact.guarantee == "exact"
        assert (np.abs(listed.mean - exact.mean) <= listed.mean_error + exact.mean_error).all()
        assert (np.abs(listed.variance - exact.variance) <= listed.variance_error + exact.variance_error).all()
        np.testing.assert_allclose(listed.weight_scaling, exact.weight_scaling)


def test_contributions_are_the_documented_ones():
    problem = ScoreProblem(np.array([2.0, 3.0]), np.array([[1.0, -1.0]]), np.array([0.5, 0.0]), 0.25, np.ones(1))
    np.testing.assert_array_equal(problem.contributions(slice(0, 1)), [[4.0, -3.0]])
    assert problem.mean() == [2 - 3 + 0.25]
    assert problem.variance() == [0.5 / 0.5 * 4]
    assert problem.magnitude() == [4 + 3 + 0.25]
