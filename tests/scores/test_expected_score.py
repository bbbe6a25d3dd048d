"""Moments of a dropped-out score under each link, against every mask in extended precision."""

import numpy as np
import pytest
from hypothesis import example, given, settings

import allmasks as am
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, MonteCarlo
from scores import truth
from scores.drawn import Drawn, problems

LINKS = {"identity": lambda s: s, "log": np.exp}

TINIEST = np.full((3, 3), 5e-324)
"""Inputs whose products are rounded to whole multiples of the smallest double."""


@truth.needs_extended
@pytest.mark.parametrize("link", LINKS)
@settings(deadline=None, max_examples=50)
@given(case=problems(rows=3, most_units=9))
@example(case=Drawn(np.array([0.138, -14.26, 122.56]), TINIEST, 0.0, 0.0, np.zeros(3), as_csr=False))
@example(case=Drawn(np.array([0.138, 1e-200, 0.25]), TINIEST, 0.5, 0.0, np.zeros(3), as_csr=True))
def test_identity_and_log_link(link, case):
    p = np.broadcast_to(case.p, case.weights.shape)
    if link == "log":
        reach = float(np.abs(case.X * case.weights / (1 - p)).sum(axis=1).max())
        case.weights = case.weights * min(1.0, 20.0 / max(reach, 1e-300))
    moments = am.expected_score(case.weights, case.given, case.p, link=link, intercept=case.intercept)
    assert (moments.guarantee, moments.method) == ("exact", ClosedForm())
    for i, x in enumerate(case.X):
        mean = truth.mean_over_masks(LINKS[link], case.weights, x, p, case.intercept)
        variance = truth.mean_over_masks(
            lambda s, mean=mean: (LINKS[link](s) - mean) ** 2, case.weights, x, p, case.intercept
        )
        assert abs(float(moments.mean[i] - mean)) <= moments.mean_error[i]
        step = 1e-18 * (1 + float(abs(mean)))
        own = step**2 + 2 * step * float(variance) ** 0.5  # the truth's rounding
        assert abs(float(moments.variance[i] - variance)) <= moments.variance_error[i] + own


def test_a_variance_that_nearly_vanishes_is_not_negative():
    # By subtraction a true 2e-18 came out as −6e-17.
    moments = am.expected_score([1e-9], [[1.0]], 0.5)
    assert 0 <= moments.variance[0] <= moments.variance_error[0]
    exact = truth.logistic([1e-9], [1.0], 0.5).variance[0]
    assert abs(float(moments.variance[0] - exact)) <= moments.variance_error[0]


@pytest.mark.parametrize("method", [None, Enumeration()])
def test_a_variance_beyond_the_largest_double_leaves_the_mean(method):
    moments = am.expected_score([1.0], [[1.0]], 0.5, link="log", intercept=400.0, method=method)
    mean, variance = truth.exact_moments([1.0], [1.0], 0.5, 400.0, "log")
    assert truth.apart(moments.mean[0], mean) <= moments.mean_error[0] < 1e-11 * moments.mean[0]
    assert moments.variance[0] == np.inf
    assert "the variance of row 0 is beyond the largest double" in moments.notes[0]
    if method is None:  # known in logs
        assert moments.std[0] == pytest.approx(float(truth.mpmath.sqrt(variance)), rel=1e-11)
    both = am.expected_score([1.0], [[1.0]], 0.5, link="log", intercept=800.0, method=method)
    assert both.mean[0] == both.variance[0] == np.inf
    assert len(both.notes) == 2


@pytest.mark.parametrize("method", [None, Enumeration()], ids=["formula", "listed"])
def test_a_variance_of_the_score_itself_is_noted_too_where_it_is_no_double(method):
    moments = am.expected_score([1e200], [[1.0]], 0.5, link="identity", method=method)
    assert (moments.mean[0], moments.variance[0]) == (1e200, np.inf)
    assert "the variance of row 0 is beyond the largest double" in moments.notes[0]


@pytest.mark.parametrize("link", truth.EXACT_LINKS)
@pytest.mark.parametrize("method", [None, Enumeration()], ids=["formula", "listed"])
def test_moments_of_any_magnitude(link, method):
    rng = np.random.default_rng(6)
    for _ in range(60):
        d = int(rng.integers(1, 4))
        w = rng.standard_normal(d) * 10.0 ** rng.choice([rng.uniform(-300, 280), rng.uniform(-9, 3)])
        x, b = rng.standard_normal(d), float(rng.choice([0.0, 30.0, -700.0, 1e-9]))
        p = rng.choice([0.0, 1e-300, 1e-9, 1e-3, 0.5, 0.9, 0.999999], d)
        moments = am.expected_score(w, [x], p, link=link, intercept=b, method=method)
        mean, variance = truth.exact_moments(w, x, p, b, link, digits=1000)
        assert truth.apart(moments.mean[0], mean) <= moments.mean_error[0]
        assert truth.apart(moments.variance[0], variance) <= moments.variance_error[0]


def test_a_looser_tolerance_is_bounded():
    rng = np.random.default_rng(0)
    w, X = rng.standard_normal(9), rng.standard_normal((5, 9))
    loose = am.expected_score(w, X, 0.3, method=Fourier(tol=1e-4))
    exact = am.expected_score(w, X, 0.3)
    assert (loose.guarantee, exact.guarantee) == ("bounded", "exact")
    assert (np.abs(loose.mean - exact.mean) <= loose.mean_error).all()
    assert (np.abs(loose.variance - exact.variance) <= loose.variance_error).all()


def test_the_gaussian_approximation_claims_no_error():
    rng = np.random.default_rng(0)
    w, X = rng.standard_normal(50) / 20, rng.standard_normal((5, 50))
    for link in ("logistic", "identity", "log"):
        near = am.expected_score(w, X, 0.5, link=link, method=GaussianMoments())
        exact = am.expected_score(w, X, 0.5, link=link)
        assert near.guarantee == "uncontrolled"
        assert np.isnan(near.mean_error).all()
        assert np.isnan(near.variance_error).all()
        np.testing.assert_allclose(near.mean, exact.mean, rtol=0.05, atol=0.01)
        np.testing.assert_allclose(near.std, exact.std, rtol=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.ones((2, 3))}, r"expected_score takes one output, weights of shape \(d,\), got \(2, 3\)"),
        ({"link": "probit"}, 'link must be "logistic", "identity", "log" or "softmax", got \'probit\''),
        ({"method": Delta()}, r"Delta does not apply here: it has no moments for the logistic link.*Enumeration\(\)"),
        ({"method": MonteCarlo()}, "MonteCarlo does not apply here: it has no moments"),
        ({"method": ClosedForm()}, "ClosedForm does not apply here: it has no moments for the logistic link"),
        ({"method": "fourier"}, r"method must be a value of am\.methods, such as .*got 'fourier'"),
        ({"p": 1.0}, r"must lie in \[0, 1\), got 1\.0"),
        ({"weights": [1e300, 1e300], "X": [[1e9, 1.0]]}, r"scores of row 0 can exceed the largest double.*scale that"),
    ],
)
def test_bad_input(change, message):
    arguments = {"weights": np.ones(2), "X": np.ones((1, 2)), "p": 0.5, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        am.expected_score(**arguments)
