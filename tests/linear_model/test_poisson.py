"""DropoutPoissonRegressor: the minimum of the enumerated objective, and a scikit-learn citizen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import PoissonRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks.linear_model import DropoutPoissonRegressor
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.poisson_objective import ExactPoisson
from truth import every_mask


@parametrize_with_checks([DropoutPoissonRegressor(), DropoutPoissonRegressor(0.2, alpha=1.0)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def enumerated(w, b, X, y, p, alpha, weight):
    """Value and gradient of Σ s E[e^S − yS] + α/2 ‖w‖², mask by mask."""
    p = np.broadcast_to(p, len(w))
    value, gw, gb = alpha / 2 * w @ w, alpha * w, 0.0
    for m, chance in zip(*every_mask(p), strict=True):
        thinned = X * m / (1 - p)
        score = thinned @ w + b
        value += chance * weight @ (np.exp(score) - y * score)
        r = weight * (np.exp(score) - y)
        gw = gw + chance * thinned.T @ r
        gb += chance * r.sum()
    return value, np.append(gw, gb)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, "each"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_enumerated_vanishes(p, form):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 8)) * (rng.random((40, 8)) < 0.6)
    y = rng.poisson(np.exp(X[:, 0] * 0.5 + 0.3))
    weight = rng.uniform(0.5, 2.0, 40)
    rates = np.linspace(0.0, 0.8, 8) if p == "each" else p
    model = DropoutPoissonRegressor(rates, alpha=0.5).fit(form(X), y, weight)
    value, at = enumerated(model.coef_, model.intercept_, X, y, rates, 0.5, weight)
    _, zero = enumerated(np.zeros(8), 0.0, X, y, rates, 0.5, weight)
    assert np.linalg.norm(at) <= 1e-6 * np.linalg.norm(zero)
    assert abs(model.objective_ - value) <= model.objective_error_ < 1e-9 * abs(value)
    assert model.gradient_norm_ == pytest.approx(np.linalg.norm(at), abs=1e-9 * np.linalg.norm(zero))


def test_without_dropout_it_is_poisson_regression():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 4))
    y = rng.poisson(np.exp(0.4 * X[:, 0]))
    ours = DropoutPoissonRegressor(0.0, alpha=2.0, tol=1e-10).fit(X, y)
    theirs = PoissonRegressor(alpha=2.0 / 80, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)
    assert ours.intercept_ == pytest.approx(theirs.intercept_, rel=1e-6, abs=1e-8)
    # Without an intercept a rate far from 1 cannot be met: a poor score, and the same one in both.
    shifted = y + 20
    ours = DropoutPoissonRegressor(0.0, alpha=2.0, tol=1e-10, fit_intercept=False).fit(X, shifted)
    theirs = PoissonRegressor(
        alpha=2.0 / 80, tol=1e-10, max_iter=1000, solver="newton-cholesky", fit_intercept=False
    ).fit(X, shifted)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)
    assert ours.score(X, shifted) == pytest.approx(theirs.score(X, shifted), rel=1e-6)


def test_mean_over_masks_and_spread():
    X = np.array([[1.0, -2.0]])
    model = DropoutPoissonRegressor(0.5, alpha=0.1).fit(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), [1, 2, 4])
    masks, _ = every_mask([0.5, 0.5])
    values = np.exp((X * masks / 0.5) @ model.coef_ + model.intercept_)
    assert model.predict(X, average="masks")[0] == pytest.approx(values.mean(), rel=1e-12)
    assert model.predict_std(X)[0] == pytest.approx(values.std(), rel=1e-10)
    with pytest.raises(ValueError, match="average must be None"):
        model.predict(X, average="all")


def test_bad_input_and_edges():
    X = np.array([[1.0, 0.0], [2.0, 0.0], [0.5, 0.0]])
    with pytest.raises(ValueError, match=r"y must be 0 or more for a Poisson loss, got -1 in row 1"):
        DropoutPoissonRegressor().fit(X, [1, -1, 2])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1\.0"):
        DropoutPoissonRegressor(1.0).fit(X, [1, 1, 2])
    with pytest.raises(ValueError, match="alpha must be finite and at least 0"):
        DropoutPoissonRegressor(alpha=-1.0).fit(X, [1, 1, 2])
    model = DropoutPoissonRegressor().fit(X.astype(np.float32), [1, 1, 2])
    assert model.coef_.dtype == np.float32
    assert model.coef_[1] == 0.0
    assert np.isfinite(DropoutPoissonRegressor(1 - 1e-9).fit(X, [1, 1, 2]).coef_).all()
    with pytest.warns(ConvergenceWarning, match="1 of 1 features occur only in rows with y = 0"):
        DropoutPoissonRegressor(alpha=0.0).fit([[1.0], [0.0]], [0, 3])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_objective_at_weights_whose_powers_are_no_doubles(form):
    # Masks that drop the unit give e^0, the others e^-2000 or e^2000.
    rows = Rows(form([[1.0], [0.0]]))
    objective = ExactPoisson(rows, np.array([1.0, 2.0]), np.ones(2), np.array([0.5]), 0.0, True)
    value, gradient = objective.value_and_gradient(np.array([-1000.0, 0.0]))
    assert value == pytest.approx(1000.5 + 1.0, rel=1e-14)
    np.testing.assert_allclose(gradient, [-1.0, 0.5 - 1 + 1 - 2], atol=1e-13)
    assert objective.value_and_gradient(np.array([1000.0, 0.0]))[0] == np.inf  # not NaN: a line search goes on
    assert objective.value_and_gradient(np.array([1e300, -1e300]))[0] == np.inf
    huge = Rows(form([[1e150], [-1e150]]))
    for y in ([1.0, 1.0], [0.0, 0.0]):
        far = ExactPoisson(huge, np.array(y), np.ones(2), np.array([0.5]), 0.0, True)
        assert far.value_and_gradient(np.array([1e200, 0.0]))[0] == np.inf
        near, slope = far.value_and_gradient(np.array([1e-150, 0.0]))
        assert np.isfinite(near)
        assert np.isfinite(slope).all()
    kept = ExactPoisson(huge, np.array([1.0, 1.0]), np.ones(2), np.array([0.0]), 0.0, True)
    assert kept.equivalent_penalty(np.array([1e-150, 0.0])) == 0.0


def test_predictions_beyond_the_largest_double_are_inf_and_said():
    rng = np.random.default_rng(0)
    X, y = rng.random((40, 2)), rng.poisson(2.0, 40).astype(float)
    model = DropoutPoissonRegressor(0.5, alpha=1.0).fit(X, y)
    model.coef_ = np.array([1.0, 0.0])
    with pytest.warns(RuntimeWarning, match="the mean of e\\^S over all masks is beyond the largest double for row 1"):
        mean = model.predict([[1.0, 1.0], [900.0, 0.0]], average="masks")
    assert np.isfinite(mean[0])
    assert mean[1] == np.inf
    # The variance is beyond it, its root is not.
    a = 600.0
    expected = 0.5 * np.exp(a) * np.exp(model.intercept_)
    assert model.predict_std([[a / 2, 0.0]])[0] == pytest.approx(expected, rel=1e-10)


def test_a_weight_that_only_a_faint_penalty_holds_is_reached():
    """Rows of no count fix the first weight up to where alpha does, 1e-13 of the other curvatures."""
    X = np.array(
        [
            [0.0, 0.055386967999811, 16.454146029711449],
            [0.0, 0.0, 5.484715343237149],
            [0.0, 0.166160903999433, 10.969430686474299],
            [27.968556079452075, 0.0, 0.0],
            [9.322852026484025, 0.221547871999246, 0.0],
            [18.64570405296805, 0.0, 16.454146029711449],
        ]
    )
    weight = np.array([1940148.877574, 1605649.174898, 1819347.839534, 74632.736607, 895995.606492, 490035.077550])
    model = DropoutPoissonRegressor([0.615571434437, 0.675955039664, 0.465944912453], alpha=1.0)
    model.fit(X, np.array([5e6, 1e6, 1e6, 0.0, 0.0, 0.0]), weight)  # warnings are errors
    assert model.n_iter_ < 40
