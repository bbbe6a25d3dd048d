"""DropoutLogisticRegression(multi_class="quadratic"): the second-order form of the multinomial loss over masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks import MethodNotApplicable
from allmasks.linear_model import DropoutLogisticRegression, DropoutLogisticRegressionCV
from truth import every_mask

QUADRATIC = {"multi_class": "quadratic"}


@parametrize_with_checks([DropoutLogisticRegression(multi_class="quadratic")])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def problem(classes=3, d=6, n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.7)
    y = (X @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))).argmax(axis=1)
    return X, y, rng.uniform(0.5, 2.0, n)


def second_order(W, b, X, y, weight, noisy, p, alpha):
    """The objective written out row by row, with the matrices of its definition."""
    value = 0.5 * alpha * np.square(W).sum()
    for x, r in zip(X, noisy, strict=True):
        pi = softmax(W @ x + b)
        cov = (W * (p / (1 - p) * x**2)) @ W.T
        value += 0.5 * r * np.trace((np.diag(pi) - np.outer(pi, pi)) @ cov)
    for x, k, s in zip(X, y, weight, strict=False):
        z = W @ x + b
        value += s * (logsumexp(z) - z[k])
    return value


def enumerated(W, b, X, y, weight, p, alpha):
    """Σ s E[softmax cross-entropy] + α/2 ‖W‖², mask by mask."""
    masks, chance = every_mask(p)
    z = (X[:, None, :] * masks / (1 - p)) @ W.T + b
    losses = logsumexp(z, axis=2) - np.take_along_axis(z, y[:, None, None], axis=2)[..., 0]
    return 0.5 * alpha * np.square(W).sum() + weight @ (losses @ chance)


def numerical(f, theta, step=1e-6):
    return np.array([(f(theta + step * e) - f(theta - step * e)) / (2 * step) for e in np.eye(len(theta))])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("p", [0.3, "each"])
def test_the_written_out_objective_is_stationary(form, p):
    X, y, weight = problem()
    rates = np.full(6, p) if p == 0.3 else np.linspace(0.0, 0.6, 6)
    model = DropoutLogisticRegression(rates, alpha=0.5, tol=1e-8, **QUADRATIC).fit(form(X), y, weight)

    def f(theta):
        return second_order(theta[:18].reshape(3, 6), theta[18:], X, y, weight, weight, rates, 0.5)

    at = np.concatenate([model.coef_.ravel(), model.intercept_])
    assert model.objective_ == pytest.approx(f(at), rel=1e-13)
    assert np.linalg.norm(numerical(f, at)) <= 1e-6 * np.linalg.norm(numerical(f, np.zeros(21)))
    assert model.gradient_norm_ <= 1e-8 * np.linalg.norm(numerical(f, np.zeros(21))) * 1.001
    assert model.guarantee_ == "uncontrolled"
    assert np.isnan(model.objective_error_)
    expected = [
        (rates / (1 - rates)) * ((weight * pi * (1 - pi)) @ X**2) for pi in softmax(X @ model.coef_.T + at[18:], 1).T
    ]
    np.testing.assert_allclose(model.equivalent_penalty_, expected, rtol=1e-10)


def test_rows_without_a_class_share_the_second_order_term():
    X, y, weight = problem()
    model = DropoutLogisticRegression(0.4, alpha=0.3, tol=1e-8, **QUADRATIC).fit(
        X[:40], y[:40], weight[:40], X_unlabeled=X[40:]
    )
    total = weight[:40].sum()
    noisy = np.concatenate([weight[:40], np.ones(20)]) * total / (total + 20)

    def f(theta):
        return second_order(theta[:18].reshape(3, 6), theta[18:], X, y[:40], weight[:40], noisy, np.full(6, 0.4), 0.3)

    at = np.concatenate([model.coef_.ravel(), model.intercept_])
    assert model.objective_ == pytest.approx(f(at), rel=1e-13)
    assert np.linalg.norm(numerical(f, at)) <= 1e-6 * np.linalg.norm(numerical(f, np.zeros(21)))


def test_what_is_left_out_is_of_fourth_order_in_the_weights():
    # Against every mask; large weights are why the form is uncontrolled.
    X, y, weight = problem(d=5)
    rng = np.random.default_rng(1)
    # At p = ½ a unit's third moment is 0.
    W, b, p = rng.normal(size=(3, 5)), rng.normal(size=3), np.full(5, 0.5)

    def error(size):
        terms = (size * W, b, X, y, weight)
        return second_order(*terms, weight, p, 0.1) - enumerated(*terms, p, 0.1)

    assert abs(error(1.0)) > 1e-3
    assert error(0.02) / error(0.04) == pytest.approx(1 / 16, rel=0.05)


def test_without_dropout_it_is_the_multinomial_logistic_regression():
    X, y, weight = problem()
    ours = DropoutLogisticRegression(0.0, alpha=0.5, tol=1e-8, **QUADRATIC).fit(X, y, weight)
    theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=10000).fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-5, atol=1e-6)
    assert ours.intercept_ - ours.intercept_.mean() == pytest.approx(
        theirs.intercept_ - theirs.intercept_.mean(), rel=1e-5
    )
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-5)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_two_classes_have_one_score():
    X, y, _ = problem(classes=2)
    ours = DropoutLogisticRegression(0.5, alpha=30.0, **QUADRATIC).fit(X, y)
    exact = DropoutLogisticRegression(0.5, alpha=30.0).fit(X, y)
    assert ours.coef_.shape == (1, 6)
    assert ours.intercept_.shape == (1,)
    assert ours.equivalent_penalty_.shape == (1, 6)
    # Small weights: the exact minimum is near, and is not the same.
    assert 1e-6 < np.abs(ours.coef_ - exact.coef_).max() < 1e-2 * np.abs(exact.coef_).max()
    assert (ours.guarantee_, exact.guarantee_) == ("uncontrolled", "exact")
    # Of one score everything about the masks is exact, however its weights were found.
    assert ours.predict_std(X).shape == (60,)
    np.testing.assert_allclose(ours.predict_proba(X, average="masks").sum(axis=1), 1.0)


def test_what_has_no_exact_form_is_refused():
    X, y, _ = problem()
    model = DropoutLogisticRegression(0.3, **QUADRATIC).fit(X, y)
    with pytest.raises(MethodNotApplicable, match=r"softmax of several classes over all masks.*multi_class='ovr'"):
        model.predict_proba(X, average="masks")
    with pytest.raises(MethodNotApplicable, match="softmax of several classes"):
        model.predict_std(X)
    for estimator in (DropoutLogisticRegression, DropoutLogisticRegressionCV):
        with pytest.raises(ValueError, match=r"multi_class must be \"ovr\" \(exact\) or \"quadratic\".*'softmax'"):
            estimator(multi_class="softmax").fit(X, y)


def test_dask_input_is_refused_by_name():
    da = pytest.importorskip("dask.array")
    X, y, _ = problem()
    with pytest.raises(TypeError, match=r"DropoutLogisticRegression\(multi_class=\"quadratic\"\)"):
        DropoutLogisticRegression(**QUADRATIC).fit(da.from_array(X, chunks=30), da.from_array(y, chunks=30))


def test_warm_start_float32_and_messages(capsys):
    X, y, _ = problem()
    model = DropoutLogisticRegression(0.3, warm_start=True, verbose=1, **QUADRATIC).fit(X.astype(np.float32), y)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert "[quadratic] step 1: approximate objective" in capsys.readouterr().out
    first = model.n_iter_[0]
    again = model.fit(X.astype(np.float32), y)
    assert again.n_iter_[0] < first / 2


def test_chosen_by_cross_validation():
    X, y, _ = problem(n=90)
    model = DropoutLogisticRegressionCV(ps=(0.1, 0.5), alphas=(0.1, 1.0), **QUADRATIC).fit(X, y)
    single = DropoutLogisticRegression(model.p_, alpha=model.alpha_, **QUADRATIC).fit(X, y)
    assert model.guarantee_ == "uncontrolled"
    np.testing.assert_array_equal(model.coef_, single.coef_)
    np.testing.assert_allclose(model.predict_proba(X), softmax(model.decision_function(X), axis=1))
