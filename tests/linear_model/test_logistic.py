"""DropoutLogisticRegression: the minimum of the enumerated objective, and a scikit-learn citizen."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks.linear_model import DropoutLogisticRegression
from truth import every_mask


@parametrize_with_checks([DropoutLogisticRegression()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def enumerated(w, b, X, y, p, alpha, weight):
    """Value and gradient of Σ s E log(1 + e^−ỹS) + α/2 ‖w‖², mask by mask."""
    p = np.broadcast_to(p, len(w))
    value, gw, gb = 0.5 * alpha * w @ w, alpha * w, 0.0
    for m, chance in zip(*every_mask(p), strict=True):
        if chance == 0.0:
            continue
        thinned = X * m / (1 - p)
        s = thinned @ w + b
        value += chance * weight @ (np.logaddexp(0.0, s) - y * s)
        r = weight * (expit(s) - y)
        gw, gb = gw + chance * thinned.T @ r, gb + chance * r.sum()
    return value, np.append(gw, gb)


def problem(d=10, n=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.6)
    y = (X[:, 0] - X[:, 1] + rng.normal(size=n) > 0.2).astype(int)
    return X, y, rng.uniform(0.5, 2.0, n)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, "each"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("alpha", [1e-2, 1.0])
def test_the_enumerated_gradient_vanishes(p, form, alpha):
    X, y, weight = problem()
    rates = np.linspace(0.0, 0.8, 10) if p == "each" else p
    model = DropoutLogisticRegression(rates, alpha=alpha).fit(form(X), y, weight)
    value, at = enumerated(model.coef_[0], model.intercept_[0], X, y, rates, alpha, weight)
    _, zero = enumerated(np.zeros(10), 0.0, X, y, rates, alpha, weight)
    assert np.linalg.norm(at) <= 1e-6 * np.linalg.norm(zero)
    assert abs(model.objective_ - value) <= model.objective_error_
    assert model.gradient_norm_ == pytest.approx(np.linalg.norm(at), abs=1e-9 * np.linalg.norm(zero))


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_the_enumerated_gradient_vanishes_for_14_binary_features(form, p):
    rng = np.random.default_rng(3)
    X = (rng.random((60, 14)) < 0.3).astype(float)
    y = (X[:, 0] + rng.random(60) > 0.7).astype(int)
    one = np.ones(60)
    model = DropoutLogisticRegression(p, alpha=0.1, fit_intercept=False).fit(form(X), y)
    _, at = enumerated(model.coef_[0], 0.0, X, y, p, 0.1, one)
    _, zero = enumerated(np.zeros(14), 0.0, X, y, p, 0.1, one)
    assert model.intercept_[0] == 0.0
    assert np.linalg.norm(at[:-1]) <= 1e-6 * np.linalg.norm(zero[:-1])


def test_without_dropout_it_is_logistic_regression():
    X, y, weight = problem()
    ours = DropoutLogisticRegression(0.0, alpha=0.5, tol=1e-10).fit(X, y, weight)
    theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=10000).fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(ours.equivalent_penalty_, 0.0)


def test_one_against_the_rest_is_a_problem_for_each_class():
    X, y, _ = problem()
    three = y + (X[:, 2] > 0.5)
    model = DropoutLogisticRegression(0.3).fit(X, three)
    for k in range(3):
        single = DropoutLogisticRegression(0.3).fit(X, three == k)
        np.testing.assert_allclose(model.coef_[k], single.coef_[0], rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X, average="masks").sum(axis=1), 1.0)
    assert model.predict_std(X).shape == (40, 3)


def test_mean_over_masks_and_spread():
    X, y, _ = problem(d=6)
    model = DropoutLogisticRegression(0.4).fit(X, y)
    masks, chance = every_mask([0.4] * 6)
    sigma = expit((X[:, None, :] * masks / 0.6) @ model.coef_[0] + model.intercept_[0])
    mean = sigma @ chance
    np.testing.assert_allclose(model.predict_proba(X, average="masks")[:, 1], mean, rtol=1e-11)
    np.testing.assert_allclose(
        model.predict_std(X), np.sqrt((sigma - mean[:, None]) ** 2 @ chance), rtol=1e-8, atol=1e-15
    )
    with pytest.raises(ValueError, match="average must be None"):
        model.predict_proba(X, average="all")


def test_equivalent_penalty_and_class_weight():
    X, y, _ = problem()
    model = DropoutLogisticRegression(0.5, class_weight={0: 2.0, 1: 0.5}).fit(X, y)
    weight = np.where(y == 0, 2.0, 0.5)
    sigma = model.predict_proba(X)[:, 1]
    np.testing.assert_allclose(model.equivalent_penalty_[0], (weight * sigma * (1 - sigma)) @ X**2, rtol=1e-10)
    same = DropoutLogisticRegression(0.5).fit(X, y, weight)
    np.testing.assert_allclose(model.coef_, same.coef_, rtol=1e-10)


def test_unlabeled_rows_share_the_penalty():
    X, y, weight = problem(d=6)
    more = problem(d=6, n=30, seed=5)[0]
    p, alpha = 0.5, 0.3
    model = DropoutLogisticRegression(p, alpha=alpha).fit(X, y, weight, X_unlabeled=sparse.csr_matrix(more))
    total = weight.sum()
    w = np.append(model.coef_[0], model.intercept_[0])

    def value(w):
        def penalty(rows, s):
            zero = np.zeros(len(rows))
            loss, _ = enumerated(w[:-1], w[-1], rows, zero, p, 0.0, s)
            return loss - s @ np.logaddexp(0.0, rows @ w[:-1] + w[-1])

        mu = X @ w[:-1] + w[-1]
        shared = (penalty(X, weight) + penalty(more, np.ones(30))) * total / (total + 30)
        return weight @ (np.logaddexp(0.0, mu) - y * mu) + shared + alpha / 2 * w[:-1] @ w[:-1]

    assert model.objective_ == pytest.approx(value(w), rel=1e-11)
    for j in range(7):
        step = 1e-4 * np.eye(7)[j]
        assert abs(value(w + step) - value(w - step)) / 2e-4 < 1e-4


def test_features_of_one_class_at_alpha_zero():
    X = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    with pytest.warns(ConvergenceWarning, match=r"1 of 2 features \(the first: 0\) speak for one class only"):
        model = DropoutLogisticRegression(alpha=0.0).fit(X, [1, 1, 0, 1, 0])
    assert np.isfinite(model.coef_).all()
    with pytest.warns(ConvergenceWarning, match="stopped at a gradient of"):
        DropoutLogisticRegression(max_iter=1, tol=1e-12).fit(*problem()[:2])


def test_bad_input_and_edges():
    X, y, _ = problem()
    for p in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match=re.escape(f"must lie in [0, 1), got {p}")):
            DropoutLogisticRegression(p).fit(X, y)
    with pytest.raises(ValueError, match="one for each of the 10 features"):
        DropoutLogisticRegression([0.5, 0.5]).fit(X, y)
    with pytest.raises(ValueError, match="alpha must be finite and at least 0, got -1"):
        DropoutLogisticRegression(alpha=-1).fit(X, y)
    with pytest.raises(ValueError, match="contain only one class"):
        DropoutLogisticRegression().fit(X, np.ones(40))
    X[:, 3] = 0.0
    single = DropoutLogisticRegression().fit(X.astype(np.float32), y)
    assert single.coef_.dtype == np.float32
    assert single.coef_[0, 3] == 0.0
    vanishing = DropoutLogisticRegression(1 - 1e-9).fit(X, y)
    assert np.isfinite(vanishing.coef_).all()
    assert np.abs(vanishing.coef_).max() < 1e-3
    warm = DropoutLogisticRegression(0.5, warm_start=True).fit(X, y)
    assert warm.fit(X, y).n_iter_[0] == 0


def test_verbose_prints_steps(capsys):
    DropoutLogisticRegression(verbose=1).fit(*problem()[:2])
    assert "[class 1] exact step 0: objective" in capsys.readouterr().out
