"""DropoutLogisticRegressionCV: the search finds what a plain loop finds, and scikit-learn's checks."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks.linear_model import DropoutLogisticRegression, DropoutLogisticRegressionCV


@parametrize_with_checks([DropoutLogisticRegressionCV(ps=(0.5,), alphas=(1.0,), cv=2, tol=1e-4)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 6))
    return X, np.where(X[:, 0] + 0.5 * rng.normal(size=60) > 0, "yes", "no")


def test_scores_are_those_of_a_plain_loop():
    X, y = problem()
    folds = list(StratifiedKFold(3).split(X, y))
    settings = {"cv": folds, "scoring": "neg_log_loss", "search": "full", "search_tol": 1e-4}
    model = DropoutLogisticRegressionCV((0.1, 0.6), (0.1, 2.0), **settings).fit(X, y)
    assert len(model.cv_results_["p"]) >= 4
    for k, (p, alpha) in enumerate(zip(model.cv_results_["p"], model.cv_results_["alpha"], strict=True)):
        single = DropoutLogisticRegression(p, alpha=alpha)
        scores = cross_val_score(single, X, y, cv=folds, scoring="neg_log_loss")
        assert model.cv_results_["mean_test_score"][k] == pytest.approx(scores.mean(), abs=2e-3)
        assert model.cv_results_["se_test_score"][k] == pytest.approx(scores.std(ddof=1) / 3**0.5, abs=2e-3)
    best = int(np.argmin(model.cv_results_["rank_test_score"]))
    assert (model.p_, model.alpha_) == (model.cv_results_["p"][best], model.cv_results_["alpha"][best])
    again = DropoutLogisticRegression(model.p_, alpha=model.alpha_).fit(X, y)
    np.testing.assert_array_equal(model.coef_, again.coef_)
    np.testing.assert_array_equal(model.predict_std(X), again.predict_std(X))


def test_no_refit_and_bad_grids():
    X, y = problem()
    model = DropoutLogisticRegressionCV((0.5,), (1.0,), cv=2, refit=False).fit(X, y)
    assert not hasattr(model, "coef_")
    assert model.p_ == 0.5
    with pytest.raises(ValueError, match=r"ps must be in \[0, 1\), got 1"):
        DropoutLogisticRegressionCV((0.5, 1.0)).fit(X, y)
    with pytest.raises(ValueError, match="alphas must be one or more numbers"):
        DropoutLogisticRegressionCV(alphas=()).fit(X, y)
    with pytest.raises(ValueError, match='search must be "coarse" or "full", got \'fine\''):
        DropoutLogisticRegressionCV(search="fine").fit(X, y)
    for beyond in (-1, 1.5, True, "4"):
        with pytest.raises(ValueError, match=re.escape(f"beyond must be a number of steps, 0 or more, got {beyond!r}")):
            DropoutLogisticRegressionCV(beyond=beyond).fit(X, y)


def rare_words(n=120, d=60, seed=0):
    """Rows in which every column is rare and speaks a little."""
    rng = np.random.default_rng(seed)
    X = sparse.csr_matrix((rng.random((n, d)) < 0.3 / np.arange(1, d + 1) ** 0.5).astype(float))
    logits = X @ rng.normal(size=d)
    return X, (logits + rng.logistic(size=n) > np.median(logits)).astype(int)


def folds_of_choice(model, k):
    found = model.cv_results_
    best = np.flatnonzero((found["p"] == model.p_) & (found["alpha"] == model.alpha_))[0]
    return np.array([found[f"split{i}_test_score"][best] for i in range(k)])


@pytest.mark.parametrize("seed", [0, 1])
def test_coarse_to_fine_chooses_as_the_whole_grid_does_with_fewer_fits(seed):
    X, y = rare_words(seed=seed)
    grid = ((0.1, 0.3, 0.5, 0.7, 0.9), (0.1, 0.3, 1.0, 3.0, 10.0))
    settings = {"cv": 4, "scoring": "neg_log_loss", "beyond": 0, "refit": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        coarse = DropoutLogisticRegressionCV(*grid, **settings).fit(X, y)
        full = DropoutLogisticRegressionCV(*grid, search="full", **settings).fit(X, y)
    assert len(full.cv_results_["p"]) == 25
    assert len(coarse.cv_results_["p"]) <= 17
    assert coarse.cv_results_["n_iter"].sum() < 0.8 * full.cv_results_["n_iter"].sum()
    gap = folds_of_choice(full, 4) - folds_of_choice(coarse, 4)
    assert gap.mean() <= max(1e-4, gap.std(ddof=1) / 2)


def test_a_fit_from_a_neighbor_scores_as_one_from_rest():
    X, y = rare_words()
    folds = list(StratifiedKFold(3).split(X, y))
    settings = {"cv": folds, "scoring": "neg_log_loss", "refit": False, "search_tol": 1e-5}
    model = DropoutLogisticRegressionCV((0.1, 0.5, 0.9), (1.0, 10.0), **settings)
    found = model.fit(X, y).cv_results_
    for p, alpha, score in zip(found["p"], found["alpha"], found["mean_test_score"], strict=True):
        single = DropoutLogisticRegression(p, alpha=alpha)
        assert score == pytest.approx(cross_val_score(single, X, y, cv=folds, scoring="neg_log_loss").mean(), abs=2e-4)


def test_a_choice_past_an_end_is_noted_and_one_at_the_end_of_all_is_warned_of():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(120, 30))
    y = X[:, 0] + 4.0 * rng.normal(size=120) > 0  # next to nothing to learn: the stronger the better
    grid = ((0.1, 0.3), (0.01, 0.1))
    with pytest.warns(UserWarning, match="0.1 is the largest of alphas that was tried: the best may lie farther"):
        model = DropoutLogisticRegressionCV(*grid, scoring="neg_log_loss", beyond=0).fit(X, y)
    assert (model.p_, model.alpha_) == (0.3, 0.1)
    assert len(model.notes_) == 2
    y = X[:, 0] + 1.5 * rng.normal(size=120) > 0
    model = DropoutLogisticRegressionCV((0.3,), grid[1], scoring="neg_log_loss", beyond=6).fit(X, y)
    assert 0.1 < model.alpha_ < 1e5
    assert model.notes_ == (f"the best score lies past the largest of alphas, 0.1, at {model.alpha_:.4g}",)
    inner = DropoutLogisticRegressionCV((0.5,), (0.1,), scoring="neg_log_loss").fit(X, y)
    assert inner.notes_ == ()  # one value is no grid


@pytest.mark.parametrize("multi_class", ["ovr", "quadratic"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_several_classes_weights_and_rows_without_a_class(multi_class, dtype):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(90, 5)).astype(dtype)
    y = np.array(["a", "b", "c"])[np.argmax(X[:, :3] + 0.7 * rng.normal(size=(90, 3)), axis=1)]
    weight = np.where(np.arange(90) < 8, 0.0, rng.random(90) + 0.5)
    folds = list(StratifiedKFold(3).split(X, y))
    model = DropoutLogisticRegressionCV(
        (0.2, 0.5), (1.0, 5.0), cv=folds, multi_class=multi_class, class_weight="balanced", beyond=0, search="full"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, y, weight, X_unlabeled=X[:10] + 0.1)
    for p, alpha, score in zip(*(model.cv_results_[k] for k in ("p", "alpha", "mean_test_score")), strict=True):
        truth = []
        for train, test in folds:
            single = DropoutLogisticRegression(p, alpha=alpha, multi_class=multi_class, class_weight="balanced")
            single.fit(X[train], y[train], weight[train], X[:10] + 0.1)
            truth.append(single.score(X[test], y[test], weight[test]))
        assert score == pytest.approx(np.mean(truth), abs=0.03)  # one row of a fold
    assert model.coef_.dtype == dtype


def test_alpha_zero_and_no_dropout_are_ends_of_nature():
    X, y = problem()
    model = DropoutLogisticRegressionCV((0.0, 0.5), (0.0, 1.0), cv=3, refit=False, beyond=1).fit(X, y)
    assert model.cv_results_["p"].min() == 0.0
    assert model.cv_results_["alpha"].min() == 0.0
