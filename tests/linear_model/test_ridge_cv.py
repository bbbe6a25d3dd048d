"""DropoutRidgeCV: leave-one-out along the path is what leaving each row out gives, and folds what folds give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.model_selection import KFold

from allmasks.linear_model import DropoutRidge, DropoutRidgeCV, quadratic, rate_path
from allmasks.linear_model.quadratic import Centered, solve_penalized

PS = [0.2, 0.7]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([8, 14]),
    d=st.sampled_from([3, 20]),
    k=st.integers(1, 2),
    alpha=st.sampled_from([0.0, 0.8]),
    intercept=st.booleans(),
    is_sparse=st.booleans(),
)
def test_leave_one_out_with_the_penalty_held_fixed(seed, n, d, k, alpha, intercept, is_sparse):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) + 0.5) * (rng.random((n, d)) < (0.6 if is_sparse else 2))
    Y, weight = rng.normal(size=(n, k)), rng.uniform(0.2, 2, n)
    given_X = sparse.csr_matrix(X) if is_sparse else X
    model = DropoutRidgeCV(PS, [alpha], fit_intercept=intercept).fit(given_X, Y, weight)
    squares = weight @ X**2
    for c, p in enumerate(PS):
        penalty, losses = squares * p / (1 - p) + alpha, np.empty(n)
        for i in range(n):
            rest = np.arange(n) != i
            data = Centered.of(X[rest], Y[rest], weight[rest], center=intercept)
            # A column that only row i fills keeps its penalty, and has nothing to learn from.
            left = solve_penalized(data, penalty, tol=1e-12, max_iter=None)
            losses[i] = np.square(Y[i] - X[i] @ left.coef - left.intercept).mean()
        mean = weight @ losses / weight.sum()
        assert -model.cv_results_["mean_test_score"][c] == pytest.approx(mean, rel=1e-7)
        error = np.sqrt(np.square(weight * (losses - mean)).sum() * n / (n - 1)) / weight.sum()
        assert model.cv_results_["se_test_score"][c] == pytest.approx(error, rel=1e-7)


@pytest.mark.parametrize("shape", [(30, 6), (12, 40)])
def test_folds_and_the_final_fit(shape):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape), rng.normal(size=shape[0])
    splits = KFold(3)
    for alpha in (0.0, 0.5):
        model = DropoutRidgeCV(PS, [alpha], cv=splits).fit(X, y)
        for c, p in enumerate(PS):
            apart = [
                np.square(y[test] - DropoutRidge(p, alpha).fit(X[train], y[train]).predict(X[test])).mean()
                for train, test in splits.split(X)
            ]
            assert -model.cv_results_["mean_test_score"][c] == pytest.approx(np.mean(apart), rel=1e-9)
            assert model.cv_results_["se_test_score"][c] == pytest.approx(np.std(apart, ddof=1) / 3**0.5, rel=1e-7)
        best = DropoutRidge(model.p_, model.alpha_).fit(X, y)
        np.testing.assert_array_equal(model.coef_, best.coef_)
        np.testing.assert_allclose(model.predict_std(X), best.predict_std(X))
        assert model.best_score_ == model.cv_results_["mean_test_score"].max()
    scored = DropoutRidgeCV(PS, cv=3, scoring="neg_mean_absolute_error").fit(X, y)
    apart = [
        np.abs(y[test] - DropoutRidge(0.7).fit(X[train], y[train]).predict(X[test])).mean()
        for train, test in splits.split(X)
    ]
    assert -scored.cv_results_["mean_test_score"][1] == pytest.approx(np.mean(apart), rel=1e-9)


def test_leaving_a_row_out_of_the_penalty_too_is_another_number():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 20)) * (rng.random((30, 20)) < 0.1)
    y = rng.normal(size=30)
    fixed = DropoutRidgeCV([0.5]).fit(X, y).best_score_
    refitted = DropoutRidgeCV([0.5], cv=30).fit(X, y).best_score_
    assert abs(fixed - refitted) > 1e-3 * abs(refitted)


def test_a_row_that_fits_itself_is_never_preferred():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(5, 20)), rng.normal(size=5)
    model = DropoutRidgeCV([0.0, 0.5]).fit(X, y)
    assert model.cv_results_["mean_test_score"][0] == -np.inf
    assert model.p_ == 0.5


def test_refusals(monkeypatch):
    X, y = np.random.default_rng(3).normal(size=(10, 3)), np.arange(10.0)
    with pytest.raises(ValueError, match="ps and alphas must each hold at least one value"):
        DropoutRidgeCV([]).fit(X, y)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1.5"):
        DropoutRidgeCV([0.5, 1.5]).fit(X, y)
    with pytest.raises(ValueError, match="scoring is for k-fold cross-validation: pass cv="):
        DropoutRidgeCV(scoring="r2").fit(X, y)
    for module in (quadratic, rate_path):
        monkeypatch.setattr(module, "LARGEST_GRAM", 2)
    for alphas in ([0.0], [1.0]):
        with pytest.raises(ValueError, match="fit DropoutRidge for a few rates instead"):
            DropoutRidgeCV(alphas=alphas).fit(X.T, y[:3])


@pytest.mark.parametrize("shape", [(25, 6), (9, 30)])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_degrees_of_freedom_are_the_trace_of_the_hat_matrix(shape, alpha):
    rng = np.random.default_rng(4)
    X, weight = rng.normal(size=shape), rng.uniform(0.5, 2, shape[0])
    X[:, 1] = 0
    squares = weight @ X**2
    data = Centered.of(X, np.eye(shape[0]), weight, center=True)
    found = rate_path.rate_path(data, squares, alpha).degrees_of_freedom(np.array([0.5, 2.0]), center=True)
    for strength, trace in zip((0.5, 2.0), found, strict=True):
        # Column i of the fit to unit targets is what row i contributes.
        fit = solve_penalized(data, strength * squares + alpha, tol=1e-12, max_iter=None)
        assert trace == pytest.approx(np.trace(X @ fit.coef + fit.intercept), rel=1e-9)
