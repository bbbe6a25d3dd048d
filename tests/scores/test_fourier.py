"""The logistic loss over all masks against every mask listed in extended precision, each to its own proven error."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

import allmasks as am
from allmasks.methods import Enumeration, Fourier
from scores import truth
from scores.drawn import Drawn, problems

pytestmark = truth.needs_extended
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))


def solved(case: Drawn, **kwargs):
    """The result for the rows that were not refused, and which those are."""
    rows = np.arange(len(case.X))
    while len(rows):
        X = case.X[rows]
        try:
            return rows, am.expected_score_loss(
                case.weights,
                sparse.csr_matrix(X) if case.as_csr else X,
                case.y[rows],
                case.p,
                intercept=case.intercept,
                return_grad=True,
                **kwargs,
            )
        except am.MethodNotApplicable as refusal:
            rows = np.delete(rows, int(str(refusal).split("row ")[1].split()[0]))
    return rows, None


def check(case: Drawn, tally: Counter) -> None:
    rows, result = solved(case, method=Fourier())
    tally["refused"] += len(case.X) - len(rows)
    tally["cases"] += len(case.X)
    if result is None:
        return
    X, y = case.X[rows], case.y[rows]
    expected = truth.logistic(case.weights, X, case.p, case.intercept)
    mean = np.asarray(X, truth.LONG) @ np.asarray(case.weights, truth.LONG) + case.intercept
    round_off = 1e-12 * (1 + expected.largest)
    off = np.abs(result.per_example - (expected.softplus - y * mean))
    assert result.guarantee == "exact"
    assert (off <= round_off).all()
    assert (off <= result.per_example_error).all()
    assert (result.per_example_error <= 100 * round_off).all()
    tally["worst, of the round-off allowed"] = max(
        tally["worst, of the round-off allowed"], float((off / round_off).max())
    )
    tally["worst, of its own error"] = max(
        tally["worst, of its own error"], float((off / result.per_example_error).max())
    )
    slopes = (expected.kept - y[:, None]) / len(rows)
    got = result.grad["X"].toarray() if case.as_csr else result.grad["X"]
    stored = X != 0 if case.as_csr else np.ones(X.shape, bool)  # CSR has entries, and gradients, where X has
    # A slope is a sum over nodes less a label of its own size: what is left of 1 − 1 is off by the rounding of 1.
    rounding = 256 * np.finfo(float).eps
    for mine, exact, size in (
        (got[stored], (slopes * case.weights)[stored], np.abs(case.weights).max(initial=0.0) / len(rows)),
        (result.grad["weights"], (slopes * X).sum(axis=0), np.abs(X).mean(axis=0).max(initial=0.0)),
        (np.array([result.grad["intercept"]]), np.array([(expected.sigma - y).mean()]), 1.0),
    ):
        if exact.size:
            assert np.abs(mine - exact).max() <= 1e-8 * np.abs(exact).max() + rounding * size


def test_the_gradient_of_rows_that_are_all_but_certain():
    ones = np.ones((40, 1))
    check(Drawn(np.array([14.13792596]), ones, 0.5, 0.0, np.ones(40), as_csr=False), Counter())


@pytest.mark.slow
def test_ten_thousand_cases_agree_to_round_off(capsys):
    tally: Counter = Counter()

    @settings(unhurried, max_examples=260, database=None)
    @given(problems(rows=40))
    def drawn(case):
        check(case, tally)

    drawn()
    with capsys.disabled():
        print(f"\nFourier against enumeration: {dict(tally)}")
    assert tally["cases"] >= 10_000
    assert tally["refused"] < 0.02 * tally["cases"]


@settings(unhurried, max_examples=25)
@given(problems(rows=4, most_units=10))
def test_any_case_agrees_to_round_off(case):
    check(case, Counter())


@settings(unhurried, max_examples=40)
@given(problems(rows=4, most_units=10), st.sampled_from([1e-2, 1e-4, 1e-6, 1e-8]))
def test_a_looser_tolerance_is_bounded(case, tol):
    rows, result = solved(case, method=Fourier(tol=tol))
    if result is None:
        return
    expected = truth.logistic(case.weights, case.X[rows], case.p, case.intercept)
    mean = np.asarray(case.X[rows], truth.LONG) @ np.asarray(case.weights, truth.LONG) + case.intercept
    off = np.abs(result.per_example - (expected.softplus - case.y[rows] * mean))
    assert result.guarantee == "bounded"
    assert (off <= result.per_example_error).all()
    assert (result.per_example_error <= 2 * tol * (1 + expected.largest)).all()


@settings(unhurried, max_examples=40)
@given(problems(rows=4, most_units=10))
def test_mean_and_variance_of_the_probability(case):
    try:
        moments = am.expected_score(case.weights, case.given, case.p, intercept=case.intercept)
    except am.MethodNotApplicable:
        return
    expected = truth.logistic(case.weights, case.X, case.p, case.intercept)
    assert moments.guarantee == "exact"
    assert ((moments.mean >= 0) & (moments.mean <= 1) & (moments.variance >= 0)).all()
    assert (np.abs(moments.mean - expected.sigma) <= moments.mean_error).all()
    assert (np.abs(moments.variance - expected.variance) <= moments.variance_error).all()
    # The error is relative to the scores' size, of which float64 keeps 16 digits.
    assert (moments.variance_error <= 1e-10 * (1 + expected.largest)).all()


@pytest.mark.parametrize("d", [30, 300, 3000])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_beyond_enumeration_the_parts_of_a_score_can_be_listed(d, p):
    # All weights equal: the score is binomial, and d + 1 values are all there are.
    from scipy.stats import binom

    w = 4.0 / d
    kept = np.arange(d + 1)
    s = (w / (1 - p) * kept).astype(truth.LONG) - 1
    exact = (binom.pmf(kept, d, 1 - p) * np.logaddexp(0, s)).sum()
    result = am.expected_score_loss(np.full(d, w), np.ones((1, d)), [0.0], p, intercept=-1.0)
    # The binomial weights of SciPy are themselves good to about 1e-13.
    assert abs(result.value - float(exact)) <= result.error + 1e-12
    assert result.error <= 1e-12 * (1 + 4 / (1 - p))


@truth.needs_extended
def test_few_huge_weights_are_enumerated_and_the_rest_transformed():
    # One unit of 10⁵ would need about 10⁵ nodes; the others need 60.
    rng = np.random.default_rng(0)
    w = np.concatenate([[1e5, -3e4], 0.3 * rng.standard_normal(10)])
    result = am.expected_score_loss(w, np.ones((1, 12)), [0.0], 0.9, method=Fourier(max_nodes=256))
    expected = truth.logistic(w, np.ones(12), 0.9)
    assert abs(result.per_example - expected.softplus) <= result.per_example_error
    assert result.per_example_error[0] <= 1e-10 * float(expected.largest[0])


def test_past_the_node_budget_it_refuses_and_says_what_would_do():
    w = np.full(40, 1e4)
    with pytest.raises(
        am.MethodNotApplicable,
        match=r"row 1 needs more than max_nodes=4096 nodes.*max_nodes=\.\.\.\) with more nodes, Enumeration\(\) for at "
        r"most 20 units, or MonteCarlo\(\)",
    ):
        am.expected_score_loss(w, [np.zeros(40), np.linspace(-1, 1, 40)], [0.0, 0.0], 0.5, method=Fourier())
    # More nodes do it, and enumeration of the same row cut short agrees with it.
    row = np.linspace(-1, 1, 40) * (np.arange(40) % 4 == 0)
    more = am.expected_score_loss(w, [row], [0.0], 0.5, method=Fourier(max_nodes=2**20))
    listed = am.expected_score_loss(w, [row], [0.0], 0.5, method=Enumeration())
    assert abs(more.value - listed.value) <= more.error + listed.error


@pytest.mark.parametrize("mu", [-800.0, -60.0, 60.0, 800.0])
def test_saturated_scores_need_no_node(mu):
    w = np.array([0.5, -0.25, 0.125])
    result = am.expected_score_loss(w, np.ones((1, 3)), [1.0], 0.5, intercept=mu, method=Fourier(max_nodes=2))
    expected = truth.logistic(w, np.ones(3), 0.5, mu)
    assert abs(result.value - float(expected.softplus[0] - (mu + 0.375))) <= result.error
    assert np.isfinite(result.per_example).all()


def test_nothing_that_varies_gives_a_penalty_of_exactly_zero():
    for p, w in ((0.0, [3.0, -2.0]), (0.5, [0.0, 0.0])):
        result = am.expected_score_loss(w, [[1.0, 1.0]], [1.0], p)
        assert result.penalty == 0.0
        assert result.value == result.weight_scaling_loss


@settings(unhurried, max_examples=30)
@given(problems(rows=3, most_units=8), st.permutations(range(8)))
def test_the_order_of_units_and_the_container_do_not_matter(case, order):
    order = [j for j in order if j < len(case.weights)]
    p = np.broadcast_to(case.p, case.weights.shape)
    plain, moved, csr = (
        am.expected_score_loss(w, X, case.y, rate, intercept=case.intercept)
        for w, X, rate in (
            (case.weights, case.X, p),
            (case.weights[order], case.X[:, order], p[order]),
            (case.weights, sparse.csr_matrix(case.X), p),
        )
    )
    for other in (moved, csr):
        assert (
            np.abs(plain.per_example - other.per_example) <= plain.per_example_error + other.per_example_error
        ).all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_many_small_units_by_power_sums_equal_their_factors(p):
    """A common rate lets small units in by power sums; two rates that differ in the last bit do not."""
    rng = np.random.default_rng(3)
    w, X = rng.standard_normal(500) / 20, rng.standard_normal((6, 500))
    y, rates = np.ones(6), np.full(500, p)
    by_sums = am.expected_score_loss(w, X, y, rates, return_grad=True)
    rates[0] = np.nextafter(p, 1)
    by_factors = am.expected_score_loss(w, X, y, rates, return_grad=True)
    off = np.abs(by_sums.per_example - by_factors.per_example)
    assert (off <= by_sums.per_example_error + by_factors.per_example_error).all()
    assert (off < 1e-12).all()
    for name in ("weights", "X"):
        scale = np.abs(by_factors.grad[name]).max()
        np.testing.assert_allclose(by_sums.grad[name], by_factors.grad[name], atol=1e-12 * scale)
