"""Any smooth function of a score: its estimated error holds on smooth functions, and it claims no more than that."""

import numpy as np
import pytest
from hypothesis import given, settings

import allmasks as am
from allmasks.methods import Enumeration, Fourier
from scores import truth
from scores.drawn import problems

unhurried = settings(deadline=None, max_examples=40)

SMOOTH = {
    "softplus": lambda s: np.logaddexp(0, s),
    "tanh": np.tanh,
    "sine": lambda s: np.sin(3 * s),
    "bell": lambda s: np.exp(-(s**2)),
    "quartic": lambda s: s**4 / 100,
    "log-cosh": lambda s: np.logaddexp(s, -s),
}


@pytest.mark.parametrize("name", SMOOTH)
@unhurried
@given(case=problems(rows=2, most_units=9))
def test_the_estimated_error_holds_on_smooth_functions(name, case):
    g = SMOOTH[name]
    p = np.broadcast_to(case.p, case.weights.shape)
    reach = float(np.abs(case.X * case.weights / (1 - p)).sum(axis=1).max())
    case.weights = case.weights * min(1.0, 30.0 / max(reach, 1e-300))
    case.intercept = float(np.clip(case.intercept, -5, 5))
    result = am.expected_score_loss(
        case.weights, case.given, case.y, case.p, loss=g, intercept=case.intercept, method=Fourier()
    )
    assert result.guarantee == "estimated"
    for i, x in enumerate(case.X):
        exact = truth.mean_over_masks(g, case.weights, x, p, case.intercept)
        assert abs(float(result.per_example[i] - exact)) <= result.per_example_error[i]
        assert result.per_example_error[i] < 1e-8 * (1 + float(np.abs(g(np.array(40.0)))))


def test_a_function_of_score_and_target():
    def squared(s, y):
        return (s - y) ** 2

    by_series = am.expected_score_loss([1.0, 2.0], [[1.0, 1.0]], [3.0], 0.5, loss=squared, method=Fourier())
    closed = am.expected_score_loss([1.0, 2.0], [[1.0, 1.0]], [3.0], 0.5, loss="squared_error")
    assert by_series.value == pytest.approx(closed.value, abs=1e-9)


def test_few_units_are_listed_and_many_are_not():
    few = am.expected_score_loss(np.ones(10), np.ones((1, 10)), [0.0], 0.5, loss=np.tanh)
    assert (few.method, few.guarantee, few.n_masks) == (Enumeration(), "exact", 1024)
    many = am.expected_score_loss(np.ones(11), np.ones((1, 11)), [0.0], 0.5, loss=np.tanh)
    assert (many.method, many.guarantee) == (Fourier(), "estimated")
    listed = am.expected_score_loss(np.ones(11), np.ones((1, 11)), [0.0], 0.5, loss=np.tanh, method=Enumeration())
    assert abs(many.value - listed.value) <= many.error


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_the_value(name):
    rng = np.random.default_rng(1)
    w, X, y = rng.standard_normal(5), rng.standard_normal((3, 5)), np.zeros(3)
    p = np.array([0.5, 0.0, 0.3, 0.9, 0.5])

    def value(w, X, b):
        return am.expected_score_loss(w, X, y, p, loss=SMOOTH[name], intercept=b, method=Enumeration()).value

    grad = am.expected_score_loss(w, X, y, p, loss=SMOOTH[name], intercept=0.3, return_grad=True).grad
    step = 1e-5
    for j in range(5):
        e = step * np.eye(5)[j]
        slope = (value(w + e, X, 0.3) - value(w - e, X, 0.3)) / (2 * step)
        assert grad["weights"][j] == pytest.approx(slope, abs=1e-7)
        for i in range(3):
            shift = np.outer(np.eye(3)[i], e)
            slope = (value(w, X + shift, 0.3) - value(w, X - shift, 0.3)) / (2 * step)
            assert grad["X"][i, j] == pytest.approx(slope, abs=1e-7)
    slope = (value(w, X, 0.3 + step) - value(w, X, 0.3 - step)) / (2 * step)
    assert grad["intercept"] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(("p", "a"), [(0.5, np.pi), (0.5, 1.0), (0.25, 2.0)])
def test_gradients_survive_a_factor_that_vanishes(p, a):
    # p = ½ and aω = π make the characteristic function's factor 0, which must not be divided by blindly.
    w = np.array([a * (1 - p), 0.7])
    got = am.expected_score_loss(w, np.ones((1, 2)), [0.0], p, loss=np.tanh, return_grad=True, method=Fourier()).grad
    masks = np.array([[i, j] for i in (0, 1) for j in (0, 1)])
    weight = np.prod(np.where(masks, 1 - p, p), axis=1)
    slope = 1 / np.cosh(masks @ (w / (1 - p))) ** 2
    np.testing.assert_allclose(got["weights"], (weight * slope) @ masks / (1 - p), atol=1e-9)


def test_a_function_that_is_not_finite_where_scores_can_be_is_refused():
    with pytest.raises(ValueError, match=r"the loss of row 0 is not finite near scores -2 … 0, which masks can reach"):
        am.expected_score_loss([-1.0], [[1.0]], [0.0], 0.5, loss=np.sqrt, method=Fourier())
    # Where it is finite on every score, that it ends beyond does no harm.
    result = am.expected_score_loss([1.0], [[1.0]], [0.0], 0.5, loss=np.sqrt, intercept=3.0, method=Fourier())
    assert result.value == pytest.approx(0.5 * np.sqrt(3) + 0.5 * np.sqrt(5), abs=1e-6)
    assert abs(result.value - 0.5 * (np.sqrt(3) + np.sqrt(5))) <= result.error


def test_a_kink_shows_in_the_error():
    # |S| is not smooth: the answer is poor, and the error says so.
    rng = np.random.default_rng(2)
    w = rng.standard_normal(12)
    result = am.expected_score_loss(w, np.ones((1, 12)), [0.0], 0.5, loss=np.abs, method=Fourier())
    exact = float(truth.mean_over_masks(np.abs, w, np.ones(12), np.full(12, 0.5)))
    assert abs(result.value - exact) <= result.error
    assert result.error > 1e-10


def test_a_callable_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"must return one value for each score: given shape .*, it returned \(\)"):
        am.expected_score_loss([1.0], [[1.0]], [0.0], 0.5, loss=lambda s: s.sum())
