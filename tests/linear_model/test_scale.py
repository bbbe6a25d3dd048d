"""The size of y and of the weights is no part of a problem: no estimator stops early, or never, because of it."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import PoissonRegressor

from allmasks.linear_model import (
    DropoutLogisticRegression,
    DropoutLogisticRegressionCV,
    DropoutPoissonRegressor,
    DropoutRidge,
    DropoutRidgeCV,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 3))
COUNTS = RNG.poisson(np.exp(0.5 * X[:, 0])).astype(float)
LABELS = (X[:, 0] + RNG.normal(size=100) > 1.0).astype(int)
WEIGHT = RNG.uniform(0.2, 2.0, 100)


def lazily(*arrays):
    array = pytest.importorskip("dask.array")
    return [array.from_array(a, chunks=(30, -1)[: a.ndim]) for a in arrays]


@pytest.mark.parametrize("form", ["dense", "csr", "dask"])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("size", [1e-300, 1e-9, 1e-6, 1e9, 1e290])
def test_rates_of_any_size(size, p, form):
    """alpha grows with what it stands against, so that the weights are the same and b is log(size) further."""
    truth = DropoutPoissonRegressor(p, alpha=0.1).fit(X, COUNTS, WEIGHT)
    data = X, COUNTS * size, WEIGHT
    data = lazily(*data) if form == "dask" else (sparse.csr_matrix(X) if form == "csr" else X, *data[1:])
    model = DropoutPoissonRegressor(p, alpha=0.1 * size).fit(*data)
    np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-6, atol=1e-9)
    assert model.intercept_ - np.log(size) == pytest.approx(truth.intercept_, rel=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e-6])
def test_small_rates_against_scikit_learn(size):
    model = DropoutPoissonRegressor(0.0, alpha=0.0).fit(X, COUNTS * size)
    truth = PoissonRegressor(alpha=0.0, tol=1e-12, max_iter=1000, solver="newton-cholesky").fit(X, COUNTS)
    np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-6)
    assert model.intercept_ - np.log(size) == pytest.approx(truth.intercept_, rel=1e-6)


def test_claims_over_exposure():
    """Rates weighted by exposure: a few claims in thousands of policies."""
    rng = np.random.default_rng(1)
    Z, exposure = rng.normal(size=(4000, 4)), rng.uniform(0.01, 1, 4000)
    claims = rng.poisson(exposure * np.exp(0.4 * Z[:, 0] - 4.0))
    model = DropoutPoissonRegressor(0.0, alpha=1e-3).fit(Z, claims / exposure, exposure)
    truth = PoissonRegressor(alpha=1e-3 / exposure.sum(), tol=1e-12, max_iter=1000, solver="newton-cholesky")
    truth.fit(Z, claims / exposure, exposure)
    np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-6, atol=1e-9)


def test_small_rates_without_intercept():
    """Every score must come down from 0 to log y: the gradient at rest says nothing of when that is done."""
    Z = np.column_stack([np.ones(100), X[:, 0]])
    model = DropoutPoissonRegressor([0.0, 0.2], alpha=0.0, fit_intercept=False).fit(Z, COUNTS * 1e-9)
    truth = DropoutPoissonRegressor(0.2, alpha=0.0).fit(X[:, :1], COUNTS * 1e-9)
    np.testing.assert_allclose(model.coef_, [truth.intercept_, *truth.coef_], rtol=1e-6)


@pytest.mark.parametrize("size", [1e-200, 1e-6, 1e9])
@pytest.mark.parametrize("form", ["memory", "dask"])
@pytest.mark.parametrize(
    ("make", "y"),
    [
        (lambda a: DropoutRidge(0.3, a), COUNTS),
        (lambda a: DropoutPoissonRegressor(0.3, alpha=a), COUNTS),
        (lambda a: DropoutLogisticRegression(0.3, alpha=a), LABELS),
        (lambda a: DropoutLogisticRegression(0.0, alpha=a), LABELS),
        (lambda a: DropoutLogisticRegression(0.3, alpha=a, multi_class="quadratic"), LABELS),
        (lambda a: DropoutRidgeCV(ps=[0.1, 0.5], alphas=[a], cv=3), COUNTS),
        (lambda a: DropoutLogisticRegressionCV(ps=[0.1, 0.5], alphas=[a], cv=3, scoring="neg_log_loss"), LABELS),
    ],
)
def test_weights_of_any_size(make, y, form, size):
    truth, model = make(0.1).fit(X, y, WEIGHT), make(0.1 * size)
    if form == "dask" and ("CV" in type(model).__name__ or getattr(model, "multi_class", "") == "quadratic"):
        pytest.skip("in memory only")
    data = (X, y, WEIGHT * size)
    model.fit(*(lazily(*data) if form == "dask" else data))
    np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, truth.intercept_, rtol=1e-5)
    assert model.objective_ == pytest.approx(truth.objective_ * size, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    log_y=st.floats(-250, 250),
    log_weight=st.floats(-40, 40),
    intercept=st.booleans(),
    alpha=st.sampled_from([0.0, 1e-3, 1.0]),
)
def test_poisson_fits_are_the_same_problem(seed, log_y, log_weight, intercept, alpha):
    rng = np.random.default_rng(seed)
    Z, y = rng.normal(size=(40, 2)) + 0.3, rng.gamma(2.0, size=40)
    p, size, heavy = rng.uniform(0, 0.8, 2), 10.0**log_y, 10.0**log_weight
    if not intercept:
        size = 1.0  # scores cannot shift, so another size is another problem
    one = DropoutPoissonRegressor(p, alpha=alpha, fit_intercept=intercept).fit(Z, y)
    two = DropoutPoissonRegressor(p, alpha=alpha * size * heavy, fit_intercept=intercept)
    two.fit(Z, y * size, np.full(40, heavy))
    np.testing.assert_allclose(two.coef_, one.coef_, rtol=1e-5, atol=1e-7)


def test_a_class_seldom_seen():
    """One row in 1000: at b = 0 its gradient is lost in the others'."""
    rng = np.random.default_rng(2)
    Z = rng.normal(size=(4000, 2))
    y = np.zeros(4000, int)
    y[:4] = 1
    Z[:4] += 0.5
    for p in (0.0, 0.2):
        rough = DropoutLogisticRegression(p, alpha=0.01).fit(Z, y)
        fine = DropoutLogisticRegression(p, alpha=0.01, tol=1e-9).fit(Z, y)
        np.testing.assert_allclose(rough.coef_, fine.coef_, rtol=1e-4)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_a_gradient_that_is_rounding_alone(form, alpha):
    """Each row with both labels: weights 0 are best, and no step is taken."""
    rng = np.random.default_rng(3)
    half = rng.normal(size=(60, 8)) * np.exp(3 * rng.normal(size=8))
    weight = np.tile(rng.uniform(0.1, 2, 60), 2)
    Z, y = form(np.vstack([half, half])), np.repeat([0, 1], 60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for p in (0.0, 0.5):
            model = DropoutLogisticRegression(p, alpha=alpha).fit(Z, y, weight)
            assert not model.coef_.any()
            assert model.n_iter_[0] == 0
            assert model.objective_ == pytest.approx(weight.sum() * np.log(2), rel=1e-13)
        DropoutLogisticRegression(0.3, alpha=alpha, multi_class="quadratic").fit(Z, y, weight)
        constant = DropoutPoissonRegressor(0.3, alpha=alpha).fit(Z, np.full(120, 3e-7))
        assert np.abs(constant.coef_).max() < 1e-9
        assert constant.intercept_ == pytest.approx(np.log(3e-7))


@pytest.mark.parametrize("make", [DropoutLogisticRegression, DropoutPoissonRegressor, DropoutRidge])
def test_random_state_is_taken_where_nothing_is_drawn(make):
    one, two = (make(0.3, random_state=state).fit(X, LABELS) for state in (0, 7))
    np.testing.assert_array_equal(one.coef_, two.coef_)
    assert "not used; the fit is deterministic" in make.__doc__


@pytest.mark.parametrize("form", ["dense", "csr", "dask"])
@pytest.mark.parametrize("size", [1e200, 1e300])
@pytest.mark.parametrize("make", [DropoutRidge, DropoutPoissonRegressor, DropoutLogisticRegression])
def test_features_whose_squares_overflow_are_refused(make, size, form):
    data = X / np.abs(X).max() * size, LABELS
    data = lazily(*data) if form == "dask" else (sparse.csr_matrix(data[0]) if form == "csr" else data[0], LABELS)
    with pytest.raises(ValueError, match=r"feature.* reach.*e\+.*scale"):
        make().fit(*data)


@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (DropoutRidge, 1e-200),
        (DropoutRidge, np.array([1.0, 1e-170, 1.0])),
        (DropoutPoissonRegressor, 1e-14),
        (DropoutLogisticRegression, 1e-16),
        (DropoutLogisticRegression, 1e-300),
    ],
)
def test_features_too_small_for_the_one_penalty_are_refused(make, size, form):
    """Weights of 1e200 are the answer, and 0 was given. With alpha, 0 is right to the last digit of any prediction."""
    data = X * size if form == "dense" else sparse.csr_matrix(X * size)
    with pytest.raises(ValueError, match=r"feature.* reach.*e-.*scale"):
        make(alpha=0.0).fit(data, LABELS)
    if np.ndim(size) == 0:
        np.testing.assert_allclose(
            make(alpha=1.0).fit(data, LABELS).predict(data), make(alpha=1.0).fit(0 * X, LABELS).predict(X), atol=1e-9
        )


@pytest.mark.parametrize("make", [DropoutPoissonRegressor, DropoutLogisticRegression])
def test_small_features_are_fitted_as_large_ones(make):
    plain = make(alpha=0.0).fit(X, LABELS)
    np.testing.assert_allclose(make(alpha=0.0).fit(X * 1e-9, LABELS).coef_ * 1e-9, plain.coef_, rtol=1e-4)


def test_penalty_that_overflows_alone_is_refused():
    features, y = [[5e149], [1.9e150], [2.6e150], [-1.3e150]], [525457.0, -295558.0, -249816.0, 567213.0]
    weight = [1787223.0, 1770868.0, 1497875.0, 155761.0]
    with pytest.raises(ValueError, match=r"penalty of feature 0.*beyond the largest double"):
        DropoutRidge(p=0.99, alpha=1e-6, fit_intercept=False).fit(features, y, weight)


def test_targets_whose_squares_overflow_have_weights_all_the_same():
    plain, huge = (DropoutRidge().fit(X, X[:, 0] * size) for size in (1.0, 1e200))
    np.testing.assert_allclose(huge.coef_ / 1e200, plain.coef_, rtol=1e-12)
    assert huge.objective_ == np.inf
