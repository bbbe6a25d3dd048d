"""A row of weight 2 is two rows and one of weight 0 is none: in class weights, in folds, in scores."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_absolute_error

from allmasks.linear_model import (
    DropoutLogisticRegression,
    DropoutLogisticRegressionCV,
    DropoutPoissonRegressor,
    DropoutRidge,
    DropoutRidgeCV,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
Y = np.digitize(X[:, 0] + RNG.normal(size=90), [0.2, 1.2])
TIMES = RNG.integers(0, 4, 90)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 2: 0.5}])
@pytest.mark.parametrize("where", ["memory", "dask"])
def test_repeated_rows_are_weights(class_weight, where):
    model = DropoutLogisticRegression(0.3, class_weight=class_weight, tol=1e-10)
    rows = np.repeat(np.arange(90), TIMES)
    truth = model.fit(X[rows], Y[rows]).coef_
    data = X, Y, TIMES.astype(float)
    if where == "dask":
        array = pytest.importorskip("dask.array")
        data = [array.from_array(a, chunks=(25, -1)[: a.ndim]) for a in data]
    np.testing.assert_allclose(model.fit(*data).coef_, truth, rtol=1e-6, atol=1e-9)


def test_balanced_as_in_scikit_learn():
    y, weight = (Y > 0).astype(int), RNG.uniform(0.1, 3, 90)
    ours = DropoutLogisticRegression(0.0, alpha=0.1, class_weight="balanced", tol=1e-10).fit(X, y, weight)
    # Each class's weights sum to the same.
    mass = np.bincount(y, weight)
    truth = LogisticRegression(C=10.0, tol=1e-12, max_iter=1000).fit(X, y, weight * weight.sum() / (2 * mass[y]))
    np.testing.assert_allclose(ours.coef_, truth.coef_, rtol=1e-6)


@pytest.mark.parametrize("where", ["memory", "dask"])
def test_a_class_without_weight_is_not_there(where):
    data = X, Y, (Y < 2).astype(float)
    if where == "dask":
        array = pytest.importorskip("dask.array")
        data = [array.from_array(a, chunks=(25, -1)[: a.ndim]) for a in data]
    model = DropoutLogisticRegression(0.3, class_weight="balanced").fit(*data)
    truth = DropoutLogisticRegression(0.3, class_weight="balanced").fit(X[Y < 2], Y[Y < 2])
    assert model.classes_.tolist() == [0, 1]
    np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-6)


def test_bad_class_weights():
    with pytest.raises(ValueError, match="class_weight must be finite and 0 or more, got -1 for class 0"):
        DropoutLogisticRegression(class_weight={0: -1.0}).fit(X, Y)
    with pytest.raises(ValueError, match='class_weight must be None, "balanced" or a dict, got 3'):
        DropoutLogisticRegression(class_weight=3).fit(X, Y)


def test_ridge_folds_score_by_weight():
    y, weight = X[:, 0] + RNG.normal(size=90), RNG.uniform(0, 3, 90)
    folds = [(np.arange(90) % 3 != k, np.arange(90) % 3 == k) for k in range(3)]
    model = DropoutRidgeCV(ps=[0.1, 0.6], cv=folds, scoring="neg_mean_absolute_error").fit(X, y, weight)
    for c, p in enumerate((0.1, 0.6)):
        scores, mass = [], []
        for train, test in folds:
            fitted = DropoutRidge(p).fit(X[train], y[train], weight[train])
            scores.append(-mean_absolute_error(y[test], fitted.predict(X[test]), sample_weight=weight[test]))
            mass.append(weight[test].sum())
        assert model.cv_results_["mean_test_score"][c] == pytest.approx(np.average(scores, weights=mass), rel=1e-9)
    squared = [
        DropoutRidgeCV(ps=[0.1], cv=folds, scoring=s).fit(X, y, weight) for s in (None, "neg_mean_squared_error")
    ]
    assert squared[0].best_score_ == pytest.approx(squared[1].best_score_, rel=1e-12)
    with pytest.raises(ValueError, match="scoring=neg_max_error takes no sample_weight"):
        DropoutRidgeCV(ps=[0.1], cv=3, scoring="neg_max_error").fit(X, y, weight)
    DropoutRidgeCV(ps=[0.1], cv=3, scoring="neg_max_error").fit(X, y)


def test_folds_without_a_class():
    """Class 2 is missing among the rows that one fold scores, and among those that another is fitted to."""
    order = np.argsort(Y == 2, kind="stable")
    Z, y = X[order], Y[order]
    few = np.flatnonzero(y == 2)[:1]
    rows = np.concatenate([np.flatnonzero(y < 2), few])
    Z, y = Z[rows], y[rows]
    half = np.arange(len(y)) < len(y) // 2
    folds = [(half, ~half), (~half, half)]
    model = DropoutLogisticRegressionCV(ps=[0.3], alphas=[0.5], cv=folds, scoring="neg_log_loss", tol=1e-8).fit(Z, y)
    for k, (train, test) in enumerate(folds):
        fitted = DropoutLogisticRegression(0.3, alpha=0.5).fit(Z[train], y[train])
        probability = np.zeros((test.sum(), 3))
        probability[:, fitted.classes_] = fitted.predict_proba(Z[test])
        truth = -log_loss(y[test], probability, labels=[0, 1, 2])
        assert model.cv_results_[f"split{k}_test_score"][0] == pytest.approx(truth, rel=1e-4)
    DropoutLogisticRegressionCV(ps=[0.3], alphas=[0.5], cv=folds).fit(Z, y)
    alone = [(y == 0, y == 1)]
    with pytest.raises(ValueError, match="the training rows of fold 0 hold fewer than 2 classes; use fewer folds"):
        DropoutLogisticRegressionCV(ps=[0.3], cv=alone).fit(Z, y)


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "Float64", "boolean", "string", "category"])
def test_nullable_targets(dtype):
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    y = pandas.Series((Y > 0).astype(str) if dtype == "string" else (Y > 0).astype(int)).astype(dtype)
    features = pandas.DataFrame(X, columns=list("abc"))
    lazy, lazy_y = frames.from_pandas(features, npartitions=3), frames.from_pandas(y, npartitions=3)
    truth = DropoutLogisticRegression(0.3).fit(X, Y > 0)
    for data in ((features, y), (lazy, lazy_y)):
        model = DropoutLogisticRegression(0.3).fit(*data)
        np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-5)
        assert [str(label) for label in model.classes_] in (["0", "1"], ["0.0", "1.0"], ["False", "True"])
    if dtype in ("Int64", "UInt8", "Float64"):
        for make in (DropoutRidge, DropoutPoissonRegressor):
            np.testing.assert_allclose(
                make(0.3).fit(lazy, lazy_y).coef_, make(0.3).fit(X, (Y > 0) * 1.0).coef_, rtol=1e-6
            )


def test_missing_targets_are_named():
    pandas, frames = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    y = pandas.Series(Y).astype("Int64")
    y[4] = pandas.NA
    lazy = frames.from_pandas(pandas.DataFrame(X, columns=list("abc")), npartitions=3)
    for make in (DropoutRidge, DropoutPoissonRegressor, DropoutLogisticRegression):
        with pytest.raises(ValueError, match="partition 0: y has missing values: drop those rows or fill them"):
            make().fit(lazy, frames.from_pandas(y, npartitions=3))
