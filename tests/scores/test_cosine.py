"""Any smooth function of a score: its estimated error holds on smooth functions, and it claims no more than that."""

import numpy as np
import pytest
from hypothesis import given, settings

import allmasks as am
from allmasks.methods import Enumeration, Fourier
from allmasks.scores.series import Series
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
    few = am.expected_score_loss(np.ones(12), np.ones((1, 12)), [0.0], 0.5, loss=np.tanh)
    assert (few.method, few.guarantee, few.n_masks) == (Enumeration(), "exact", 4096)
    many = am.expected_score_loss(np.ones(13), np.ones((1, 13)), [0.0], 0.5, loss=np.tanh)
    assert (many.method, many.guarantee) == (Fourier(), "estimated")
    listed = am.expected_score_loss(np.ones(13), np.ones((1, 13)), [0.0], 0.5, loss=np.tanh, method=Enumeration())
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
    w = rng.standard_normal(18)  # too many masks to list instead
    result = am.expected_score_loss(w, np.ones((1, 18)), [0.0], 0.5, loss=np.abs, method=Fourier())
    exact = float(truth.mean_over_masks(np.abs, w, np.ones(18), np.full(18, 0.5)))
    assert (result.guarantee, result.n_masks, result.notes) == ("estimated", 0, ())
    assert abs(result.value - exact) <= result.error
    assert result.error > 1e-10


def test_a_callable_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"must return one value for each score: given shape .*, it returned \(\)"):
        am.expected_score_loss([1.0], [[1.0]], [0.0], 0.5, loss=lambda s: s.sum())


def bell(s):
    return np.exp(-(s**2) / 2)


@pytest.mark.parametrize("method", [None, Fourier(), Fourier(max_nodes=256)], ids=repr)
@pytest.mark.parametrize(
    ("g", "w", "p", "b", "value"),
    [
        # Each agreed with itself on twice as many terms: .0078147 ± 1e-12, and 0 ± 1e-305.
        (np.cos, np.arange(40.0, 52.0), 0.5, 0.0, 0.0036481),
        (bell, np.array([2.0, 21.0, -9.0] * 4), 0.999, 0.7, 0.77336),
        (lambda s: np.cos(7 * s), np.arange(400.0, 410.0), 0.3, 1.0, None),
        (lambda s: np.where(np.abs(s) < 0.1, 1.0, 0.0), np.arange(1.0, 9.0), 0.9, 0.05, 0.9**8),
        (np.abs, np.linspace(-3, 4, 11), 0.5, 0.2, None),
    ],
    ids=["fast", "narrow", "faster", "a step", "a kink"],
)
def test_what_the_series_cannot_hold_is_not_claimed(method, g, w, p, b, value):
    result = am.expected_score_loss(w, np.ones((1, len(w))), [0.0], p, loss=g, intercept=b, method=method)
    exact = float(truth.mean_over_masks(g, w, np.ones(len(w)), np.full(len(w), p), b))
    if value is not None:
        assert exact == pytest.approx(value, rel=2e-5)
    assert abs(result.value - exact) <= result.error < 1e-8


@pytest.mark.parametrize("seed", range(3))
def test_fast_functions_of_many_units(seed):
    # Too many masks to list: a right value or an error that holds.
    rng = np.random.default_rng(seed)
    w, X = rng.uniform(20, 40, 40), np.ones((2, 40))
    for speed in (0.1, 1.0, 3.0, 10.0):
        result = am.expected_score_loss(w, X, np.zeros(2), 0.5, loss=lambda s, v=speed: np.cos(v * s), method=Fourier())
        exact = float(np.prod(0.5 + 0.5 * np.exp(2j * speed * w)).real)
        assert result.guarantee in ("estimated", "uncontrolled")
        assert np.isnan(result.error) or abs(result.value - exact) <= result.error


def test_a_bump_that_scores_really_meet_is_seen_and_its_error_unknown():
    # 30 units, rarely kept, far too wide for the nodes: the series is 0 where every drawn score says .78.
    w = np.arange(1.0, 31.0) * 10
    result = am.expected_score_loss(w, np.ones((1, 30)), [0.0], 0.999, loss=bell, intercept=0.7, method=Fourier())
    exact = bell(0.7) * 0.999**30  # any unit that is kept moves the score by 10 000 or more
    assert result.guarantee == "uncontrolled"
    assert np.isnan(result.error)
    assert result.value == pytest.approx(exact, rel=0.05)  # and still the value is not the series' alone
    assert result.notes == (
        "the loss of row 0 changes faster than its series resolves: the error is unknown; MonteCarlo() gives one",
    )
    with pytest.raises(am.MethodNotApplicable, match=r"row 0 changes faster .* so that its gradient would be wrong"):
        am.expected_score_loss(
            w, np.ones((1, 30)), [0.0], 0.999, loss=bell, intercept=0.7, method=Fourier(), return_grad=True
        )


def test_a_series_that_overflows_gives_way_to_the_masks():
    result = am.expected_score_loss([-7e151], [[3.0]], [0.05], 0.75, loss="squared_error", method=Fourier())
    exact = truth.exact_loss([-7e151], [3.0], 0.75, 0.0, 0.05, "squared_error")
    assert truth.apart(result.value, exact.value) <= result.error < 1e-10 * result.value


def test_a_series_is_its_function_between_its_points():
    s = np.linspace(0, 2 * np.pi, 65)[:-1]
    series = Series.of(np.exp(np.sin(s)), 0.0, 2 * np.pi)
    spots = np.random.default_rng(0).uniform(0, 2 * np.pi, 50)
    np.testing.assert_allclose(series.at(spots), np.exp(np.sin(spots)), atol=1e-13)
    grid, values = series.on_second_grid()
    np.testing.assert_allclose(values, np.exp(np.sin(grid)), atol=1e-13)
    assert np.abs(grid[:, None] - s).min() > 0.005  # the two never meet
    assert series.misfit(lambda x: np.exp(np.sin(x)), spots, 0.0, 6.0)[1] < 1e-12
    assert series.misfit(lambda x: np.exp(np.sin(x)) + (np.abs(x - 2) < 0.03), spots, 0.0, 6.0)[1] == pytest.approx(1.0)
