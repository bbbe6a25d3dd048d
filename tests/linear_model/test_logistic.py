"""DropoutLogisticRegression: the minimum of the enumerated objective, and a scikit-learn citizen."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from allmasks.linear_model import DropoutLogisticRegression


@parametrize_with_checks([DropoutLogisticRegression()])
def test_scikit_learn_checks(estimator, check):
    check(estimator)
