"""Fits and predictions on Dask collections are those in memory; the rows stay where they are."""

import subprocess
import sys

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from allmasks.linear_model import (
    DropoutLogisticRegression,
    DropoutLogisticRegressionCV,
    DropoutPoissonRegressor,
    DropoutRidge,
    DropoutRidgeCV,
)
from linear_model.generated import LARGE, block, pid, spilled, target

RNG = np.random.default_rng(8)
N, D = 230, 6
X = RNG.normal(size=(N, D)) * (RNG.random((N, D)) < 0.5)
SCORE = X @ RNG.normal(size=D) + 0.3
WEIGHT = RNG.integers(0, 4, N).astype(float)
TARGETS = {
    "ridge": SCORE + RNG.normal(size=N),
    "logistic": (SCORE + RNG.logistic(size=N) > 0).astype(int),
    "classes": np.array(["blue", "green", "red"])[np.digitize(SCORE + RNG.logistic(size=N), [-1, 1])],
    "poisson": RNG.poisson(np.exp(0.4 * SCORE)).astype(float),
}
MODELS = {
    "ridge": DropoutRidge(p=0.3, alpha=0.5),
    "logistic": DropoutLogisticRegression(p=0.3, alpha=0.2, tol=1e-9),
    "classes": DropoutLogisticRegression(p=0.3, alpha=0.2, tol=1e-9),
    "poisson": DropoutPoissonRegressor(p=0.3, alpha=0.2, tol=1e-10),
}
CHUNKS = (50, 0, 73, 7, 100)


def fresh(kind, **changes):
    model = MODELS[kind]
    return type(model)(**(model.get_params() | changes))


def rows(kind="array", x=X, chunks=CHUNKS):
    lazy = da.from_array(x, chunks=(chunks, -1))
    if kind == "csr":
        return lazy.map_blocks(sparse.csr_matrix, dtype=x.dtype)
    if kind == "frame":
        return dd.from_map(lambda k: pd.DataFrame(x[CUTS[k] : CUTS[k + 1]], columns=list("abcdef")), range(len(chunks)))
    return lazy


CUTS = np.cumsum([0, *CHUNKS])


def same(lazy, memory, tolerance):
    for name in ("coef_", "intercept_", "objective_", "equivalent_penalty_"):
        np.testing.assert_allclose(getattr(lazy, name), getattr(memory, name), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["logistic", "classes", "poisson"])
@pytest.mark.parametrize("storage", ["array", "csr", "frame"])
def test_chunks_made_anew_at_each_pass_are_refused(kind, storage):
    """Each step of such a fit would see other data; ridge reads once, and fits what it read."""
    rng = np.random.default_rng()

    def shuffled(block):
        return block[rng.permutation(block.shape[0])]

    anew = rows(storage)
    if storage == "frame":
        anew = anew.map_partitions(lambda part: part.sample(frac=1, random_state=int(rng.integers(2**31))))
        y = dd.from_map(lambda k: pd.Series(TARGETS[kind][CUTS[k] : CUTS[k + 1]]), range(len(CHUNKS)))
    else:
        anew, y = anew.map_blocks(shuffled, dtype=float), TARGETS[kind]
    with pytest.raises(ValueError, match=r"partition \d held other numbers than when it was read before: .*persist"):
        fresh(kind).fit(anew, y)
    fresh(kind).fit(anew.persist(), y)
    fresh("ridge").fit(anew, y if kind != "classes" else y == "red")


@pytest.mark.parametrize("storage", ["array", "csr", "frame"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_coefficients_are_those_in_memory(kind, storage):
    y = TARGETS[kind]
    lazy_y, lazy_weight = da.from_array(y, chunks=(CHUNKS,)), da.from_array(WEIGHT, chunks=(CHUNKS,))
    if storage == "frame":
        lazy_y = dd.from_map(lambda k: pd.Series(y[CUTS[k] : CUTS[k + 1]]), range(len(CHUNKS)))
    lazy = fresh(kind).fit(rows(storage), lazy_y, lazy_weight)
    given = pd.DataFrame(X, columns=list("abcdef")) if storage == "frame" else X
    memory = fresh(kind).fit(given, y, WEIGHT)
    same(lazy, memory, 1e-10 if kind == "ridge" else 2e-8)
    assert lazy.n_features_in_ == D
    assert hasattr(lazy, "feature_names_in_") == (storage == "frame")
    if "class" in kind or kind == "logistic":
        np.testing.assert_array_equal(lazy.classes_, memory.classes_)
    methods = ["predict", "predict_std"] + ["predict_proba", "decision_function"] * hasattr(lazy, "predict_proba")
    for name in methods:
        promised = getattr(lazy, name)(rows(storage))
        assert isinstance(promised, da.Array)
        assert promised.numblocks[0] == len(CHUNKS)
        found = promised.compute()
        assert found.dtype == promised.dtype
        expected = getattr(lazy, name)(given)
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        else:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["ridge", "logistic", "poisson"])
def test_single_precision_and_no_intercept(kind):
    x, y = X.astype(np.float32), TARGETS[kind]
    lazy = fresh(kind, fit_intercept=False).fit(rows(x=x), da.from_array(y, chunks=90))
    memory = fresh(kind, fit_intercept=False).fit(x, y)
    assert lazy.coef_.dtype == memory.coef_.dtype == np.float32
    np.testing.assert_allclose(lazy.coef_, memory.coef_, rtol=2e-6, atol=1e-7)


def test_targets_in_memory_are_cut_along_the_chunks():
    same(fresh("ridge").fit(rows(), TARGETS["ridge"], WEIGHT), fresh("ridge").fit(X, TARGETS["ridge"], WEIGHT), 1e-10)


def test_several_outputs():
    y = np.column_stack([TARGETS["ridge"], SCORE**2])
    lazy = fresh("ridge").fit(rows(), da.from_array(y, chunks=(40, 2)))
    same(lazy, fresh("ridge").fit(X, y), 1e-10)
    assert lazy.predict(rows()).shape == (N, 2)


@pytest.mark.parametrize("class_weight", ["balanced", {"blue": 3.0, "green": 0.5}])
def test_class_weights(class_weight):
    y = TARGETS["classes"]
    lazy = fresh("classes", class_weight=class_weight).fit(rows(), y, WEIGHT)
    same(lazy, fresh("classes", class_weight=class_weight).fit(X, y, WEIGHT), 2e-8)


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_rows_without_labels(kind):
    more = RNG.normal(size=(70, D))
    lazy = fresh(kind).fit(rows(), TARGETS[kind], WEIGHT, X_unlabeled=da.from_array(more, chunks=(30, D)))
    same(lazy, fresh(kind).fit(X, TARGETS[kind], WEIGHT, X_unlabeled=more), 1e-10 if kind == "ridge" else 2e-8)


@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_beyond_the_largest_hessian_products_take_its_place(kind, monkeypatch):
    monkeypatch.setattr("allmasks.linear_model.summed._LARGEST_HESSIAN", 3)
    same(fresh(kind).fit(rows("csr"), TARGETS[kind]), fresh(kind).fit(X, TARGETS[kind]), 2e-8)


@pytest.mark.parametrize("storage", ["array", "csr"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_hessian_is_what_its_products_say(storage, plain):
    from allmasks.linear_model.feature_rows import Rows
    from allmasks.linear_model.logistic_objective import BinaryLogistic
    from allmasks.linear_model.poisson_objective import ExactPoisson

    held = Rows(X if storage == "array" else sparse.csr_matrix(X))
    p, w = np.full(D, 0.3), RNG.normal(size=D + 1)
    label = WEIGHT * TARGETS["logistic"]
    task = BinaryLogistic(held, p, 0.2, True, label, 0.6 * WEIGHT, 0.4 * WEIGHT if plain else None)
    for objective in (task.gaussian(), task.exact(1e-10), ExactPoisson(held, TARGETS["poisson"], WEIGHT, p, 0.2, True)):
        curvature = objective.curvature(w)
        columns = np.column_stack([curvature.product(unit) for unit in np.eye(D + 1)])
        np.testing.assert_allclose(curvature.matrix(), columns, rtol=1e-10, atol=1e-10)


def test_a_feature_of_one_class_alone_is_named():
    from sklearn.exceptions import ConvergenceWarning

    x, y = X.copy(), TARGETS["logistic"]
    x[:, 2] = y * np.abs(x[:, 2])
    for given in (x, rows(x=x)):
        with pytest.warns(ConvergenceWarning, match=r"1 of 6 features \(the first: 2\)"):
            fresh("logistic", alpha=0.0, max_iter=8).fit(given, y)
    counts = np.where(x[:, 2] > 0, 0.0, TARGETS["poisson"])
    for given in (x, rows(x=x)):
        with pytest.warns(ConvergenceWarning, match="1 of 6 features occur only in rows with y = 0"):
            fresh("poisson", alpha=0.0, max_iter=8).fit(given, counts)


def test_predictions_are_of_the_fit_they_were_asked_of():
    model = fresh("ridge").fit(X, TARGETS["ridge"])
    before, promised = model.predict(X), model.predict(rows())
    model.fit(X, -TARGETS["ridge"])
    np.testing.assert_allclose(promised.compute(), before)


def unknown():
    lazy = rows()
    return lazy[lazy[:, 0] < 9.0]


Y = da.from_array(TARGETS["ridge"], chunks=(CHUNKS,))


@pytest.mark.parametrize(
    ("given", "y", "text"),
    [
        (da.from_array(X, chunks=(50, 3)), Y, r"columns split into 2 chunks.*X\.rechunk\(\{1: -1\}\)"),
        (unknown(), TARGETS["ridge"], r"partitions are unknown, so y in memory.*compute_chunk_sizes"),
        (unknown(), Y.rechunk(23), "X has 5 partitions and y 10, and their sizes are unknown"),
        (unknown(), da.ones(N - 1, chunks=((50, 0, 73, 7, 99),)), "partition 4: X has 100 rows but y has 99"),
        (rows(), Y[:-1], "X has 230 rows but y has 229"),
        (rows(), TARGETS["ridge"][:-1], "X has 230 rows but y has 229"),
        (rows(), None, "y is None"),
        (rows(x=np.where(np.arange(N)[:, None] == 60, np.nan, X)), Y, "partition 2: Input X contains NaN"),
        (rows()[:, 0], Y, "X must be 2-D with a known number of features"),
        (dd.from_pandas(pd.DataFrame({"a": [1.0], "b": ["x"]}), npartitions=1), Y, "columns b of X are not numbers"),
    ],
)
def test_what_cannot_be_fitted_is_said(given, y, text):
    with pytest.raises(ValueError, match=text):
        fresh("ridge").fit(given, y)


def test_other_refusals():
    with pytest.raises(TypeError, match="y or sample_weight is a Dask collection but X is ndarray in memory"):
        fresh("ridge").fit(X, Y)
    with pytest.raises(TypeError, match="must be a Dask array or dataframe"):
        fresh("ridge").fit(dask.delayed(X), Y)
    for search in (DropoutRidgeCV(), DropoutLogisticRegressionCV()):
        with pytest.raises(TypeError, match="takes data in memory, got a Dask collection"):
            search.fit(rows(), Y)
    with pytest.raises(ValueError, match="partition 2: y must be 0 or more"):
        fresh("poisson").fit(rows(), da.where(da.arange(N, chunks=(CHUNKS,)) == 60, -1.0, 1.0))
    with pytest.raises(ValueError, match="only one class: 1"):
        fresh("logistic").fit(rows(), da.ones(N, chunks=(CHUNKS,), dtype=int))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        fresh("logistic").fit(rows(), Y)
    with pytest.raises(ValueError, match="has 5 features, but DropoutRidge is expecting 6"):
        fresh("ridge").fit(X, TARGETS["ridge"]).predict(rows()[:, :5])
    with pytest.raises(ValueError, match="at most 8192 features; X has 9000"):
        fresh("ridge").fit(da.ones((4, 9000)), np.ones(4))


def test_importing_the_estimators_does_not_import_dask():
    code = (
        "import sys, numpy as np; from allmasks.linear_model import *; DropoutRidge().fit(np.eye(3), [1, 2, 3]);"
        "DropoutLogisticRegression(); print('dask' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# ---- on a cluster of worker processes


def generated(count=20, **options):
    return da.map_blocks(block, chunks=((options.get("rows", LARGE[0]),) * count, LARGE[1]), dtype=float, **options)


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "50MB"}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize("storage", ["dense", "csr"])
def test_twenty_partitions_on_two_processes_equal_memory(client, kind, storage):
    x = generated(storage=storage)
    y = x.map_blocks(target, kind, drop_axis=1, dtype=float)
    lazy = fresh(kind, tol=1e-9).fit(x, y)
    here = [block({None: {"chunk-location": (number, 0)}}, storage=storage) for number in range(20)]
    given = sparse.vstack(here, format="csr") if storage == "csr" else np.concatenate(here)
    memory = fresh(kind, tol=1e-9).fit(given, np.concatenate([target(one, kind) for one in here]))
    same(lazy, memory, 1e-10 if kind == "ridge" else 1e-7)
    np.testing.assert_allclose(lazy.predict(x).compute(), lazy.predict(given), rtol=1e-12)


@pytest.mark.slow
def test_a_worker_killed_on_the_way_changes_nothing(client, tmp_path):
    def fit(x):
        return fresh("logistic").fit(x, x.map_blocks(target, "logistic", drop_axis=1, dtype=float))

    undisturbed = fit(generated())
    before = set(client.run(pid).values())
    disturbed = fit(generated(die=str(tmp_path)))
    client.wait_for_workers(2, timeout=60)
    assert set(client.run(pid).values()) != before
    # Two undisturbed fits differ by as much: sums inside a partition round by where an array lies in memory.
    np.testing.assert_allclose(disturbed.coef_, undisturbed.coef_, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(disturbed.intercept_, undisturbed.intercept_, rtol=1e-11, atol=1e-14)
    assert disturbed.objective_ == pytest.approx(undisturbed.objective_, rel=1e-13)


@pytest.mark.slow
def test_data_three_times_the_memory_of_the_workers():
    from distributed import Client, LocalCluster

    limit, rows, count = 700, 50_000, 140
    x = generated(count, rows=rows)
    assert x.nbytes > 3 * limit * 2**20
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, memory_limit=f"{limit}MiB", dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        model = fresh("ridge").fit(x, x.map_blocks(target, "ridge", drop_axis=1, dtype=float))
        assert sum(client.run(spilled).values()) == 0
    assert np.abs(model.coef_ - np.linspace(-0.5, 0.5, LARGE[1]) / (1 + 0.3 / 0.7)).max() < 0.01


@pytest.mark.slow
def test_a_search_runs_on_the_cluster_by_joblib(client):
    import joblib

    search = DropoutLogisticRegressionCV(ps=(0.2, 0.6), alphas=(0.1, 1.0), cv=3)
    alone = search.fit(X, TARGETS["logistic"]).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="dask"):
        shared = DropoutLogisticRegressionCV(ps=(0.2, 0.6), alphas=(0.1, 1.0), cv=3).fit(X, TARGETS["logistic"])
    np.testing.assert_allclose(shared.cv_results_["mean_test_score"], alone)
