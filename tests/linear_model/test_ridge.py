"""DropoutRidge: its objective's gradient is zero when every mask is listed, and its kin are where they should be."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks.linear_model import DropoutRidge, DropoutRidgeCV, quadratic
from linear_model.enumerated import squared_objective


@pytest.mark.filterwarnings("ignore:Skipping check check_array_api_input:sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([DropoutRidge(), DropoutRidge(p=0.2, alpha=1.0), DropoutRidgeCV(), DropoutRidgeCV(cv=3)])
def test_scikit_learn_to_the_letter(estimator, check):
    check(estimator)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    d=st.integers(1, 12),
    n=st.integers(2, 30),
    k=st.integers(1, 3),
    alpha=st.sampled_from([0.0, 0.3, 10.0]),
    intercept=st.booleans(),
    is_sparse=st.booleans(),
)
def test_gradient_of_the_enumerated_objective_is_zero(seed, d, n, k, alpha, intercept, is_sparse):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)) + rng.normal()
    if is_sparse:
        X = X * (rng.random(X.shape) < 0.6)
    Y, weight, p = rng.normal(size=(n, k)), rng.uniform(0.1, 2, n), rng.uniform(0.05, 0.95, d)
    given_X = sparse.csr_matrix(X) if is_sparse else X
    model = DropoutRidge(p, alpha, fit_intercept=intercept).fit(given_X, Y, weight)
    value, slope, shift = squared_objective(X, Y, weight, p, alpha, model.coef_.T, model.intercept_)
    _, slope0, shift0 = squared_objective(X, Y, weight, p, alpha, np.zeros((d, k)), np.zeros(k))
    scale = max(np.abs(slope0).max(), np.abs(shift0).max())
    assert np.abs(slope).max() <= 1e-10 * scale
    if intercept:
        assert np.abs(shift).max() <= 1e-10 * scale
    assert abs(value - model.objective_) <= model.objective_error_ + 1e-13 * abs(value)
    assert model.objective_error_ < 1e-9 * (1 + abs(value)) * max(1.0, scale)
    assert model.gradient_norm_ <= 1e-10 * scale * d * k
    np.testing.assert_allclose(model.equivalent_penalty_, p / (1 - p) * (weight @ X**2), rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(200, 12), (20, 50)])
def test_equal_to_ridge_on_columns_of_unit_second_moment(weighted, shape):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape) + 0.5, rng.normal(size=shape[0])
    weight = rng.uniform(0.5, 2, shape[0]) if weighted else np.ones(shape[0])
    X = X / np.sqrt(weight @ X**2 / weight.sum())
    for p in (0.1, 0.5, 0.9):
        ours = DropoutRidge(p).fit(X, y, weight)
        theirs = Ridge(alpha=weight.sum() * p / (1 - p), solver="svd").fit(X, y, weight)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-10, atol=1e-12)
        assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-10, abs=1e-12)


def test_averaged_sgd_with_masks_lands_there():
    """Averaged SGD on one random mask a row: within 3 standard errors of the exact answer, which shrink as 1/√steps."""
    rng = np.random.default_rng(1)
    n, d, p, runs = 64, 5, 0.4, 32
    X = rng.normal(size=(n, d))
    y = X @ rng.normal(size=d) + rng.normal(size=n)
    exact = DropoutRidge(p, fit_intercept=False).fit(X, y).coef_
    spreads = []
    for steps in (4_000, 16_000):
        w, total = np.zeros((runs, d)), np.zeros((runs, d))
        for t in range(steps):
            rows = rng.integers(0, n, runs)
            x = X[rows] * (rng.random((runs, d)) >= p) / (1 - p)
            w -= 0.02 * x * ((x * w).sum(axis=1) - y[rows])[:, None]
            if t >= steps // 4:
                total += w
        ends = total / (steps - steps // 4)
        error = ends.std(axis=0, ddof=1) / np.sqrt(runs)
        assert (np.abs(ends.mean(axis=0) - exact) < 3 * error + 1e-3).all()
        spreads.append(error.mean())
    assert 1.5 < spreads[0] / spreads[1] < 2.7
    # What plain least squares finds is not what masks find: the same test tells them apart.
    plain = LinearRegression(fit_intercept=False).fit(X, y).coef_
    assert (np.abs(ends.mean(axis=0) - plain) > 3 * error + 1e-3).any()


def test_the_iterative_solver_agrees(monkeypatch):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(40, 60)) * (rng.random((40, 60)) < 0.3)
    y, weight = rng.normal(size=(40, 2)), rng.uniform(0.5, 2, 40)
    direct = DropoutRidge(0.3, 0.1).fit(X, y, weight)
    monkeypatch.setattr(quadratic, "LARGEST_GRAM", 10)
    for given_X in (X, sparse.csr_matrix(X)):
        iterated = DropoutRidge(0.3, 0.1).fit(given_X, y, weight)
        np.testing.assert_allclose(iterated.coef_, direct.coef_, atol=1e-9)
        assert iterated.n_iter_ > 1
    with pytest.warns(Warning, match="stopped after max_iter=2 iterations .* raise max_iter"):
        DropoutRidge(0.3, 0.1, max_iter=2).fit(X, y)


def test_partial_fit_is_fit():
    rng = np.random.default_rng(3)
    X, y, weight = rng.normal(size=(50, 4)) + 3, rng.normal(size=50), rng.uniform(0.5, 2, 50)
    for intercept in (True, False):
        whole = DropoutRidge(0.3, 0.2, fit_intercept=intercept).fit(X, y, weight)
        parts = DropoutRidge(0.3, 0.2, fit_intercept=intercept)
        for lo in range(0, 50, 7):
            parts.partial_fit(sparse.csr_matrix(X[lo : lo + 7]), y[lo : lo + 7], weight[lo : lo + 7])
        np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-10)
        assert parts.objective_ == pytest.approx(whole.objective_, rel=1e-10)
        assert parts.intercept_ == pytest.approx(whole.intercept_, rel=1e-9, abs=1e-12)
    with pytest.raises(ValueError, match="y has 2 outputs but earlier batches had 1"):
        parts.partial_fit(X, np.stack([y, y], axis=1))


def test_unlabeled_rows_sharpen_the_penalty_only():
    rng = np.random.default_rng(4)
    X, more, y = rng.normal(size=(20, 3)), 2 * rng.normal(size=(300, 3)), rng.normal(size=20)
    model = DropoutRidge(0.5).fit(X, y, X_unlabeled=sparse.csr_matrix(more))
    both = np.concatenate([X, more])
    np.testing.assert_allclose(model.equivalent_penalty_, 20 * np.square(both).mean(axis=0), rtol=1e-12)
    by_hand = solve(X, y, model.equivalent_penalty_)
    np.testing.assert_allclose(model.coef_, by_hand, rtol=1e-10)


def solve(X, y, penalty):
    centered = X - X.mean(axis=0)
    return np.linalg.solve(centered.T @ centered + np.diag(penalty), centered.T @ (y - y.mean()))


def test_predict_std_is_the_spread_over_all_masks():
    from linear_model.enumerated import every_mask

    rng = np.random.default_rng(5)
    X, Y, p = rng.normal(size=(30, 4)), rng.normal(size=(30, 2)), np.array([0.0, 0.2, 0.5, 0.9])
    model = DropoutRidge(p).fit(X, Y)
    masks, probability = every_mask(p)
    for i in range(3):
        scores = (X[i] * masks / (1 - p)) @ model.coef_.T + model.intercept_
        mean = probability @ scores
        np.testing.assert_allclose(model.predict(X[i : i + 1])[0], mean, rtol=1e-12)
        spread = np.sqrt(probability @ (scores - mean) ** 2)
        np.testing.assert_allclose(model.predict_std(sparse.csr_matrix(X[i : i + 1]))[0], spread, rtol=1e-10)


def test_edges():
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(30, 4)), rng.normal(size=30)
    X[:, 2] = 0
    for alpha in (0.0, 1.0):
        for p in (0.0, 0.5, 1 - 1e-12):
            model = DropoutRidge(p, alpha).fit(X, y)
            assert model.coef_[2] == 0
            assert np.isfinite(model.coef_).all()
            assert np.isfinite(model.objective_)
    assert np.abs(DropoutRidge(1 - 1e-12).fit(X, y).coef_).max() < 1e-9
    # p = 0: plain least squares, of least norm where columns repeat.
    twice = np.concatenate([X, X], axis=1)
    np.testing.assert_allclose(DropoutRidge(0.0).fit(twice, y).predict(twice), LinearRegression().fit(X, y).predict(X))
    narrow = DropoutRidge().fit(X.astype(np.float32), y)
    assert narrow.coef_.dtype == np.float32 == narrow.predict(X.astype(np.float32)).dtype
    np.testing.assert_allclose(narrow.coef_, DropoutRidge().fit(X, y).coef_, rtol=2e-5, atol=1e-7)
    again = pickle.loads(pickle.dumps(DropoutRidge().fit(X, y)))
    np.testing.assert_array_equal(again.predict(X), DropoutRidge().fit(X, y).predict(X))
    assert clone(DropoutRidge(p=0.3)).p == 0.3
    assert make_pipeline(StandardScaler(), DropoutRidge()).fit(X, y).score(X, y) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1.0}, r"p is the probability of dropping and must lie in \[0, 1\), got 1.0"),
        ({"p": float("nan")}, "got nan"),
        ({"p": [0.1, 0.2]}, r"p must be one rate, or one for each of the 3 features, got shape \(2,\)"),
        ({"alpha": -1.0}, "alpha must be finite and at least 0, got -1.0"),
        ({"alpha": float("inf")}, "alpha must be finite and at least 0, got inf"),
    ],
)
def test_refusals(arguments, message):
    X, y = np.eye(3), np.arange(3.0)
    with pytest.raises(ValueError, match=message):
        DropoutRidge(**arguments).fit(X, y)
    with pytest.raises(TypeError, match="alpha must be a number, got 'much'"):
        DropoutRidge(alpha="much").fit(X, y)
    with pytest.raises(ValueError, match=r"(?i)sample.weights? must .* at least one"):
        DropoutRidge().fit(X, y, np.zeros(3))


@pytest.mark.parametrize("size", [1e-150, 1e-100, 1e100, 1e150])
@pytest.mark.parametrize("as_csr", [False, True])
def test_weights_whose_squares_are_no_doubles_keep_their_penalty(size, as_csr):
    X, y = np.array([[2.0], [1.0], [0.5], [-0.3]]), np.array([1.0, -2.0, 0.4, 1.3])
    plain = DropoutRidge(p=0.5, fit_intercept=False).fit(X, y)
    given = sparse.csr_matrix(X * size) if as_csr else X * size
    scaled = DropoutRidge(p=0.5, fit_intercept=False).fit(given, y)
    # Columns times c are weights divided by c: the same predictions, objective and spread.
    np.testing.assert_allclose(scaled.coef_ * size, plain.coef_, rtol=1e-12)
    np.testing.assert_allclose(scaled.objective_, plain.objective_, rtol=1e-12)
    np.testing.assert_allclose(scaled.predict_std(given), plain.predict_std(X), rtol=1e-12)


def test_leave_one_out_of_huge_targets_overflows_nowhere():
    X, y = np.array([[0.35], [0.25], [-0.98], [-0.85]]), np.array([-3.8, -9.4, -7.2, 9.4])
    plain, huge = (DropoutRidgeCV(ps=[0.1, 0.5], alphas=[0.0, 1.0]).fit(X, y * c) for c in (1.0, 1e99))
    assert (huge.p_, huge.alpha_) == (plain.p_, plain.alpha_)
    for name in ("mean_test_score", "se_test_score"):
        np.testing.assert_allclose(huge.cv_results_[name] / 1e198, plain.cv_results_[name], rtol=1e-12)


def test_a_penalty_beyond_the_largest_double_is_refused():
    X, y = np.array([[1e150], [-2e150], [3e150]]), np.array([1.0, 2.0, 3.0])
    for fit in (DropoutRidge(p=0.99).fit, DropoutRidge(p=0.99).partial_fit):
        with pytest.raises(ValueError, match=r"penalty of feature 0.*beyond the largest double; scale"):
            fit(X, y, sample_weight=np.full(3, 1e6))
