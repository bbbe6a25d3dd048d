"""Squared, Poisson and exponential losses against every mask, to their own round-off bound; no overflow on the way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import allmasks as am
from allmasks.methods import ClosedForm, Enumeration
from allmasks.scores.exponentials import log_mean_exp
from scores import truth
from scores.drawn import problems

pytestmark = truth.needs_extended
unhurried = settings(deadline=None, max_examples=60)

LOSSES = {
    "squared_error": lambda s, y: (s - y) ** 2,
    "poisson": lambda s, y: np.exp(s) - y * s,
    "exponential": lambda s, y: np.exp(-y * s),
}


def targets(loss, y):
    return 2 * y - 1 if loss == "exponential" else y


def mild(case):
    """The case with scores of a size whose exponential a double can hold."""
    largest = np.abs(case.X * case.weights / (1 - np.asarray(case.p))).sum(axis=1).max()
    case.weights = case.weights * min(1.0, 20.0 / max(largest, 1e-300))
    case.intercept = float(np.clip(case.intercept, -5, 5))
    return case


@pytest.mark.parametrize("loss", LOSSES)
@unhurried
@given(problems(rows=3, most_units=8))
def test_value_and_penalty_are_those_of_all_masks(loss, case):
    if loss != "squared_error":
        case = mild(case)
    y = targets(loss, case.y)
    result = am.expected_score_loss(case.weights, case.given, y, case.p, loss=loss, intercept=case.intercept)
    assert (result.method, result.guarantee, result.n_masks) == (ClosedForm(), "exact", 0)
    p = np.broadcast_to(case.p, case.weights.shape)
    for i, x in enumerate(case.X):
        exact = truth.mean_over_masks(lambda s, i=i: LOSSES[loss](s, y[i]), case.weights, x, p, case.intercept)
        off = abs(float(result.per_example[i] - exact))
        assert off <= result.per_example_error[i]
        assert result.per_example_error[i] <= 1e-11 * (
            1 + abs(float(exact)) + np.abs(case.weights / (1 - p) @ x) ** 2
        ) + (1e-12 * float((np.abs(case.weights * x) / (1 - p)).sum() + abs(case.intercept)) ** 2)
    assert result.penalty >= 0  # these losses are convex
    assert result.value == pytest.approx(result.weight_scaling_loss + result.penalty, rel=1e-13, abs=1e-300)


def test_squares_that_underflow_are_within_the_error():
    w, x = 0.015625, 6.18917136e-154
    result = am.expected_score_loss([w], [[x]], [0.0], 0.5, loss="squared_error")
    exact = truth.mean_over_masks(
        lambda s: LOSSES["squared_error"](s, 0.0), np.array([w]), np.array([x]), np.array([0.5]), 0.0
    )
    assert 0 <= abs(float(result.value - exact)) <= result.error <= 1e-320


def test_the_notes_worked_example():
    result = am.expected_score_loss([1.0, -1.0, 2.0], [[1.0, 2.0, -1.0]], [0.0], 0.5, loss="squared_error")
    assert (result.value, result.weight_scaling_loss, result.penalty) == (18.0, 9.0, 9.0)


def test_a_tiny_penalty_keeps_its_digits():
    # e^a − 1 − a and its like: nothing of size 1e-20 survives a subtraction from 1.
    for loss, y in (("poisson", 1.0), ("exponential", 1.0)):
        result = am.expected_score_loss([1e-10], [[1.0]], [y], 0.5, loss=loss)
        assert result.penalty == pytest.approx(0.5 * 1e-20, rel=1e-6)


def test_large_scores_do_not_overflow_on_the_way():
    # e^{a} with a = 1000 is no double, but it comes with probability 1e-300 or after a large negative shift.
    result = am.expected_score_loss([400.0], [[1.0]], [0.0], 0.5, loss="poisson", intercept=-700.0)
    assert result.value == pytest.approx(0.5 * np.exp(100.0) + 0.5 * np.exp(-700.0), rel=1e-12)
    many = am.expected_score_loss(np.full(2000, 0.3), np.ones((1, 2000)), [1.0], 0.5, loss="exponential")
    assert many.value == pytest.approx((0.5 + 0.5 * np.exp(-0.6)) ** 2000, rel=1e-11)


@pytest.mark.parametrize("method", [None, Enumeration()])
def test_an_expectation_beyond_the_largest_double_is_inf_and_said(method):
    result = am.expected_score_loss(
        [800.0], [[0.0], [1.0]], [0.0, 0.0], 0.2, loss="poisson", method=method, return_grad=True
    )
    assert (result.value, result.error, result.penalty) == (np.inf, np.inf, np.inf)
    assert result.per_example[0] == 1.0
    assert result.notes == (
        "the mean loss of row 1 is beyond the largest double, 1.8e308, and given as inf; scale that row or the weights "
        "down",
    )
    assert result.grad["weights"] == result.grad["intercept"] == result.grad["X"][1] == np.inf
    # A row that does not count does no harm.
    weighted = am.expected_score_loss(
        [800.0], [[0.0], [1.0]], [0.0, 0.0], 0.2, loss="poisson", method=method, sample_weight=[1.0, 0.0]
    )
    assert weighted.value == 1.0


def test_a_penalty_is_finite_where_both_of_its_parts_are_not():
    # e^710 (cosh(1e-6) − 1), say: the difference of two infinities is a double.
    result = am.expected_score_loss([1e-6], [[1.0]], [0.0], 0.5, loss="poisson", intercept=710.0)
    exact = truth.exact_loss([1e-6], [1.0], 0.5, 710.0, 0.0, "poisson")
    assert result.value == result.weight_scaling_loss == np.inf
    assert truth.apart(result.penalty, exact.value - exact.at_mean) <= result.penalty_error < 1e-9 * result.penalty


@pytest.mark.parametrize("method", [None, Enumeration()])
@pytest.mark.parametrize("as_csr", [False, True])
@pytest.mark.parametrize(
    ("loss", "w", "y", "p", "value", "grad"),
    [
        ("exponential", 1000.0, 1.0, 0.5, 0.5, 0.0),  # these two were NaN, and called exact
        ("poisson", -1000.0, 1.0, 0.5, 1000.5, -1.0),
        ("exponential", -1e300, -1.0, 0.9, 0.9, 0.0),
        ("poisson", -1e300, 0.0, 0.999999, 0.999999, 0.0),
        ("poisson", -1e300, 2.0, 0.5, 2e300, -2.0),
        ("exponential", 1e17, 1.0, 1e-6, 1e-6, 0.0),
        ("exponential", 3.0, 1.0, 0.0, np.exp(-3.0), -np.exp(-3.0)),
        ("exponential", 1000.0, 1.0, 0.0, 0.0, 0.0),
    ],
)
def test_what_is_finite_is_finite(method, as_csr, loss, w, y, p, value, grad):
    X = sparse.csr_matrix([[1.0]]) if as_csr else [[1.0]]
    result = am.expected_score_loss([w], X, [y], p, loss=loss, method=method, return_grad=True)
    assert result.guarantee == "exact"
    assert result.value == pytest.approx(value, rel=1e-12, abs=0)
    assert abs(result.value - value) <= result.error <= 1e-12 * (value + 1)
    assert result.grad["weights"] == pytest.approx(grad, rel=1e-12, abs=1e-300)
    assert result.notes == ()


@pytest.mark.parametrize("as_csr", [False, True])
def test_a_unit_whose_slope_is_a_tiny_share_of_an_infinite_mean(as_csr):
    # The mean is .001 e^1000, and of it the first unit, kept, has e^-1000.
    X = sparse.csr_matrix([[1.0, 2.0]]) if as_csr else [[1.0, 2.0]]
    result = am.expected_score_loss([-1.0, 0.5], X, [1.0], 0.999, loss="exponential", return_grad=True)
    exact = truth.exact_loss([-1.0, 0.5], [1.0, 2.0], 0.999, 0.0, 1.0, "exponential")
    assert result.value == np.inf
    assert result.grad["weights"][0] == -np.inf
    np.testing.assert_allclose(result.grad["weights"][1], float(2 * exact.kept[1]), rtol=1e-12)
    grad_x = result.grad["X"].toarray() if as_csr else result.grad["X"]
    np.testing.assert_allclose(grad_x[0, 1], float(0.5 * exact.kept[1]), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("rates", "w", "b"),
    [
        ((1e-300, 1e-9, 1e-9), (-750.0, -50.0, -50.0), 100.0),
        ((1e-300, 1e-300, 0.5), (-720.0, -720.0, 1.0), 700.0),
        ((1e-200, 0.5, 1e-110), (-700.0, 3.0, -600.0), 500.0),
        ((1e-300, 1e-9, 1e-9), (2.0, -1.0, 1.0), 5.0),
    ],
)
def test_masks_whose_probability_is_no_normal_double(loss, rates, w, b):
    # Dropped together, units that are all but never dropped may hold most of a mean of powers of e.
    for sign in (1.0, -1.0):
        y = -sign if loss == "exponential" else 0.0
        weights = [sign * v for v in w]
        result = am.expected_score_loss(
            weights, [[1.0, 1.0, 1.0]], [y], rates, loss=loss, intercept=sign * b, method=Enumeration()
        )
        exact = truth.exact_loss(np.array(weights), np.ones(3), np.array(rates), sign * b, y, loss, digits=1000)
        assert truth.apart(result.value, exact.value) <= result.error
        assert result.error <= 1e-11 * abs(result.value) + 1e-300


MAGNITUDES = st.one_of(st.floats(-300, 300), st.floats(-3, 3), st.floats(-20, 20))
RATES = st.sampled_from([0.0, 1e-300, 1e-9, 1e-3, 0.5, 0.9, 0.999999])


@pytest.mark.parametrize("method", [None, Enumeration()], ids=["formula", "listed"])
@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_magnitude_is_within_its_error_and_never_nan(method, loss, data):
    d = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    w = rng.standard_normal(d) * 10.0 ** data.draw(MAGNITUDES)
    x = rng.standard_normal(d) * 10.0 ** min(data.draw(MAGNITUDES), 290 - np.log10(np.abs(w).max()))
    p = np.array(data.draw(st.lists(RATES, min_size=d, max_size=d)))
    b, y = data.draw(st.floats(-800, 800)), data.draw(st.sampled_from([-1.0, 1.0]))
    if loss == "poisson":
        y = data.draw(st.sampled_from([0.0, 1.0, 1e6, 1e300]))
    result = am.expected_score_loss(w, [x], [y], p, loss=loss, intercept=b, method=method, return_grad=True)
    exact = truth.exact_loss(w, x, p, b, y, loss, digits=1000)
    assert truth.apart(result.value, exact.value) <= result.error
    with truth.mpmath.workdps(1000):
        assert truth.apart(result.penalty, exact.value - exact.at_mean) <= result.penalty_error
    assert (np.isinf(result.value) or np.isinf(result.weight_scaling_loss)) or result.notes == ()
    size = max([abs(k) for k in exact.kept] + [abs(exact.slope), abs(y), 1.0]) * (1 + 1e6 * (loss == "squared_error"))
    if loss == "squared_error":
        size = size + sum(abs(truth.mpmath.mpf(u) * v) for u, v in zip(w, x, strict=True)) + abs(b)
    for got, by, kept in (
        *zip(result.grad["weights"], x, exact.kept, strict=True),
        *zip(result.grad["X"][0], w, exact.kept, strict=True),
        (result.grad["intercept"], 1.0, exact.slope),
    ):
        assert not np.isnan(got)
        if np.isfinite(got):
            assert truth.apart(got, by * kept) <= 1e-9 * size * abs(by) + 1e-300
        else:
            assert size * abs(by) > 1e300


@given(st.floats(-1e4, 1e4), st.one_of(st.floats(0, 0.999), st.floats(0, 1e-12)))  # e^-11355 is denormal
def test_log_mean_exp(a, p):
    got = float(log_mean_exp(np.array(a), np.array(p)))
    a, p = truth.LONG(a), truth.LONG(p)
    exact = a + np.log(p * np.exp(-a) + (1 - p)) if a > 0 else np.log(p + (1 - p) * np.exp(a))
    assert got == pytest.approx(float(exact), rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("loss", LOSSES)
def test_dense_and_csr_agree_and_blocks_do_not_matter(loss, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((50, 7)) * (rng.random((50, 7)) < 0.5)
    w, y = rng.standard_normal(7), targets(loss, rng.integers(0, 2, 50))
    plain = am.expected_score_loss(w, X, y, 0.3, loss=loss, return_grad=True)
    csr = am.expected_score_loss(w, sparse.csr_matrix(X), y, 0.3, loss=loss, return_grad=True)
    monkeypatch.setattr("allmasks.scores.score._BLOCK_ELEMENTS", 20)
    blocked = am.expected_score_loss(w, X, y, 0.3, loss=loss, return_grad=True)
    for other in (csr, blocked):
        np.testing.assert_allclose(other.per_example, plain.per_example, rtol=1e-12)
        np.testing.assert_allclose(other.grad["weights"], plain.grad["weights"], rtol=1e-12, atol=1e-14)
    assert sparse.issparse(csr.grad["X"])
    np.testing.assert_allclose(csr.grad["X"].toarray()[X != 0], plain.grad["X"][X != 0], rtol=1e-12, atol=1e-15)
