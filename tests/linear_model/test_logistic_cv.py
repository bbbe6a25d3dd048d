"""DropoutLogisticRegressionCV: the search finds what a plain loop finds, and scikit-learn's checks."""

from __future__ import annotations

import numpy as np
import pytest
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
    model = DropoutLogisticRegressionCV((0.1, 0.6), (0.1, 2.0), cv=folds, scoring="neg_log_loss").fit(X, y)
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
