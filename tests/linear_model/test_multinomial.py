"""DropoutLogisticRegression of several classes in one softmax: from above by a bound, and to second order."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, sparse
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks import MethodNotApplicable
from allmasks.linear_model import DropoutLogisticRegression, DropoutLogisticRegressionCV
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.multinomial import BoundedMultinomial
from truth import every_mask

QUADRATIC = {"multi_class": "quadratic"}


BOUNDED = {"multi_class": "softmax"}
FORMS = ("ovr", "quadratic")


@parametrize_with_checks(
    [DropoutLogisticRegression(multi_class="quadratic"), DropoutLogisticRegression(multi_class="softmax")]
)
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
        with pytest.raises(ValueError, match=r"multi_class must be \"ovr\" \(exact\), \"softmax\".*'all'"):
            estimator(multi_class="all").fit(X, y)


@pytest.mark.parametrize("form", ["quadratic", "softmax"])
def test_dask_input_is_refused_by_name(form):
    da = pytest.importorskip("dask.array")
    X, y, _ = problem()
    with pytest.raises(TypeError, match=rf"DropoutLogisticRegression\(multi_class=\"{form}\"\)"):
        DropoutLogisticRegression(multi_class=form).fit(da.from_array(X, chunks=30), da.from_array(y, chunks=30))


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


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("p", [0.3, "each"])
def test_the_objective_lies_between_its_bounds_and_is_no_higher_than_anyone_else_s(form, p):
    X, y, weight = problem()
    rates = np.full(6, p) if p == 0.3 else np.linspace(0.0, 0.6, 6)
    model = DropoutLogisticRegression(rates, alpha=0.5, tol=1e-8, **BOUNDED).fit(form(X), y, weight)

    def every(theta):
        return enumerated(theta[:18].reshape(3, 6), theta[18:], X, y, weight, rates, 0.5)

    at = np.concatenate([model.coef_.ravel(), model.intercept_])
    low, high = model.objective_bounds_
    assert low <= every(at) <= high
    assert model.objective_ == high
    assert model.objective_error_ == high - low < 5e-4 * high
    assert model.guarantee_ == "bounded"
    # The exact minimum, by enumeration: what the bound costs is less than its width.
    least = optimize.minimize(every, at, options={"gtol": 1e-4}).fun
    assert every(at) - least <= high - low
    masks = np.random.default_rng(0).random((20, *X.shape)) >= rates
    sampled = LogisticRegression(C=2.0, tol=1e-8, max_iter=5000).fit(
        np.concatenate(masks * (X / (1 - rates))), np.tile(y, 20), np.tile(weight / 20, 20)
    )
    others = [sampled, *(DropoutLogisticRegression(rates, alpha=0.5, multi_class=m).fit(X, y, weight) for m in FORMS)]
    for other in others:
        assert every(at) < every(np.concatenate([other.coef_.ravel(), other.intercept_]))


@pytest.mark.parametrize("classes", [3, 30])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("size", [0.01, 1.0, 20.0])
def test_the_bound_s_gradient_and_what_it_bounds(form, size, classes):
    X, y, weight = problem(classes=classes)
    y[:classes] = np.arange(classes)
    rates, labels = np.linspace(0.0, 0.9, 6), np.zeros((60, classes))
    labels[np.arange(60), y] = weight
    noisy = weight + 0.3
    bound = BoundedMultinomial(Rows(form(X)), rates / (1 - rates), 0.5, True, labels, noisy, rates)
    theta = size * np.random.default_rng(3).normal(size=7 * classes)
    value, gradient = bound.value_and_gradient(theta)
    assert np.allclose(numerical(lambda t: bound.value_and_gradient(t)[0], theta), gradient, rtol=1e-5, atol=1e-5)
    W, b = bound.split(theta)
    z = X @ W.T + b
    # Of what dropout adds a part counts more: its own weight, log Σ e^z taken back.
    every = [enumerated(W, b, X, y, w, rates, 0.5) for w in (weight, noisy)]
    at_mean = 0.3 * (logsumexp(z, axis=1) - z[np.arange(60), y]).sum()
    truth = every[1] - at_mean
    low, high = bound.proven(theta, 1e-6)
    assert low <= truth <= min(high, value * (1 + 1e-12))


def test_the_curvature_is_the_hessian_of_small_weights():
    X, y, weight = problem()
    rates, labels = np.linspace(0.0, 0.6, 6), np.zeros((60, 3))
    labels[np.arange(60), y] = weight
    bound = BoundedMultinomial(Rows(X), rates / (1 - rates), 0.5, True, labels, weight, rates)
    theta = 1e-4 * np.random.default_rng(3).normal(size=21)
    curvature = bound.curvature(theta)
    hessian = np.array([numerical(lambda t, k=k: bound.value_and_gradient(t)[1][k], theta, 1e-5) for k in range(21)])
    ours = np.array([curvature.product(e) for e in np.eye(21)])
    assert np.allclose(ours, hessian, rtol=2e-3, atol=2e-3 * abs(hessian).max())
    assert np.allclose(np.diag(ours), curvature.diagonal)


def test_a_bounded_fit_of_two_classes_is_the_exact_one_and_without_dropout_scikit_learn_s():
    X, y, _ = problem(classes=2)
    both = [DropoutLogisticRegression(0.5, multi_class=form).fit(X, y) for form in ("ovr", "softmax")]
    np.testing.assert_array_equal(both[0].coef_, both[1].coef_)
    assert both[1].guarantee_ == "exact"
    low, high = both[1].objective_bounds_
    assert low < both[1].objective_ < high
    X, y, weight = problem()
    ours = DropoutLogisticRegression(0.0, alpha=0.5, tol=1e-8, **BOUNDED).fit(X, y, weight)
    theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=10000).fit(X, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-5)
    assert ours.objective_error_ < 1e-9


def test_a_bounded_fit_starts_again_is_searched_and_says_what_it_does(capsys):
    X, y, _ = problem(n=90)
    model = DropoutLogisticRegression(0.3, warm_start=True, verbose=1, **BOUNDED).fit(X.astype(np.float32), y)
    assert model.coef_.dtype == np.float32
    assert "[softmax] step 1: upper bound" in capsys.readouterr().out
    first = model.n_iter_[0]
    assert model.fit(X.astype(np.float32), y).n_iter_[0] < first  # anew to the bound by one moment, then on
    more = DropoutLogisticRegression(0.3, **BOUNDED).fit(X[:60], y[:60], X_unlabeled=X[60:])
    low, high = more.objective_bounds_
    assert low < high < low + 0.1
    search = DropoutLogisticRegressionCV(ps=(0.1, 0.5), alphas=(0.1, 1.0), **BOUNDED).fit(X, y)
    single = DropoutLogisticRegression(search.p_, alpha=search.alpha_, **BOUNDED).fit(X, y)
    np.testing.assert_array_equal(search.coef_, single.coef_)
    for ask in (lambda: model.predict_proba(X, average="masks"), lambda: model.predict_std(X)):
        with pytest.raises(MethodNotApplicable, match=r"am\.expected_score\(model\.coef_"):
            ask()
