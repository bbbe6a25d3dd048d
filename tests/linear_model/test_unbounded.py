"""Fits at alpha = 0 whose best weights are infinite: said, soon over, and finite all the same."""

import warnings

import numpy as np
import pytest
from numba import typeof
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from allmasks.linear_model import DropoutLogisticRegression, DropoutPoissonRegressor
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.newton import finite_start, minimize
from allmasks.linear_model.separation import recedes, separates
from allmasks.scores.memory import unlocked
from allmasks.scores.score import _rows

NONE = np.zeros(8, bool)


def test_heavy_tailed_counts_are_over_soon():
    rng = np.random.default_rng(0)
    X = (rng.random((120, 1000)) < 0.8 / np.arange(1, 1001) ** 0.8) * np.minimum(rng.zipf(1.7, (120, 1000)), 150)
    model = DropoutLogisticRegression(0.5, alpha=0.0)
    with pytest.warns(ConvergenceWarning, match="369 of 1000 features .* speak for one class only, so at alpha=0 no"):
        model.fit(sparse.csr_matrix(X, dtype=float), np.arange(120) % 2)
    assert model.n_iter_[0] < 40
    assert np.isfinite(model.objective_)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.gradient_norm_)
    # Within two percent of where 200 more steps lead: 4.7845.
    assert model.objective_ < 1.02 * 4.7845


def test_a_start_out_of_reach_is_drawn_back():
    class Walled:
        """(w − 3)², infinite beyond 2, its gradient nan beyond 1.5."""

        def value_and_gradient(self, w):
            value = np.inf if w[0] > 2 else float((w[0] - 3) ** 2)
            return value, np.full(1, np.nan) if w[0] > 1.5 else 2 * (w - 3)

        def curvature(self, w):
            from allmasks.linear_model.newton import Curvature

            return Curvature(lambda u: 2 * u, np.full(1, 2.0))

    start = finite_start(Walled(), np.array([40.0]), np.zeros(1))
    assert 0.0 < start[0] <= 1.5
    found = minimize(Walled(), np.zeros(1), 1e-9, 50)
    assert found.refused
    assert not found.converged
    assert np.isfinite(found.value)
    assert np.isfinite(found.gradient).all()
    assert found.w[0] <= 1.5


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12])
def test_values_so_large_that_scores_spread_beyond_any_integral(size):
    rng = np.random.default_rng(1)
    X = rng.zipf(1.5, (60, 40)).clip(1, 10**6) * size
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = DropoutLogisticRegression(0.9, alpha=0.0, max_iter=30).fit(
            X * (rng.random(X.shape) < 0.3), np.arange(60) % 2
        )
    assert np.isfinite(model.objective_)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.gradient_norm_)
    assert all(w.category is ConvergenceWarning for w in seen)


def test_a_step_too_far_in_poisson_is_refused():
    X = np.array([[1e3], [2e3], [-3e3], [0.0]])
    model = DropoutPoissonRegressor(0.5, alpha=1e-6).fit(X, [1.0, 2.0, 0.0, 1.0])
    assert np.isfinite(model.objective_)
    assert np.isfinite(model.coef_).all()


def cases():
    """Rows, and whether they can be separated, ties allowed, by no single column."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(40, 2))
    side = np.where(X @ [1.0, -1.0] > 0, 1.0, -1.0)
    yield X, side, True
    tied = np.vstack([X, [[1.0, 1.0], [1.0, 1.0]]])
    yield tied, np.append(side, [1.0, -1.0]), True
    yield X, -side, True
    mixed = side.copy()
    mixed[:10] *= -1
    yield X, mixed, False
    yield np.vstack([X, X]), np.append(side, -side), False


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("number", range(5))
def test_separation_by_a_combination(number, form):
    X, sign, truth = list(cases())[number]
    assert recedes(form(X), sign, np.zeros(len(sign), bool), True) is truth
    y = (sign > 0).astype(int)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        DropoutLogisticRegression(0.0, alpha=0.0).fit(form(X), y)
    said = [str(w.message) for w in seen]
    assert any("a combination of the features that are never dropped separates the classes" in s for s in said) is truth
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DropoutLogisticRegression(0.0, alpha=0.1).fit(form(X), y)
        # Dropped one by one, these features can do nothing together.
        DropoutLogisticRegression(0.4, alpha=0.0).fit(form(X), y)


def test_undropped_features_separate_beside_dropped_ones():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 4))
    y = (X[:, 0] - X[:, 1] + 0.3 > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="never dropped separates the classes, so at alpha=0 no finite"):
        DropoutLogisticRegression([0.0, 0.0, 0.5, 0.5], alpha=0.0).fit(X, y)
    undropped = np.array([True, True, False, False])
    assert separates(Rows(X), np.where(y, 1.0, -1.0), np.array([1.0, -1.0, 0, 0]), 0.3, undropped, True)


def test_separation_is_said_over_dask():
    array = pytest.importorskip("dask.array")
    X = np.random.default_rng(4).normal(size=(80, 2))
    y = (X[:, 0] - X[:, 1] > 0).astype(int)
    with pytest.warns(ConvergenceWarning, match="a combination of the features that are never dropped separates"):
        DropoutLogisticRegression(0.0, alpha=0.0).fit(array.from_array(X, (30, -1)), array.from_array(y, 30))


def test_poisson_weights_that_fall_together():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(50, 2))
    X[:25, 1] = X[:25, 0]
    X[25:, 1] = X[25:, 0] - rng.uniform(0.5, 1, 25)
    y = np.r_[rng.poisson(3.0, 25) + 1, np.zeros(25)]
    with pytest.warns(ConvergenceWarning, match="a combination of the features that are never dropped falls in rows"):
        DropoutPoissonRegressor(0.0, alpha=0.0).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DropoutPoissonRegressor(0.0, alpha=0.0).fit(X, np.r_[y[:25], np.ones(25)])


def test_counts_all_zero():
    X = np.random.default_rng(6).normal(size=(30, 2))
    with pytest.warns(ConvergenceWarning, match="every y of positive weight is 0, so no finite intercept is best"):
        model = DropoutPoissonRegressor(0.3, alpha=0.1).fit(X, np.zeros(30))
    assert np.isfinite(model.intercept_)
    assert model.predict(X).max() < 1e-3


def test_locked_rows_are_not_copied_nor_compiled_anew():
    X = sparse.random(50, 20, 0.3, random_state=0, format="csr")
    y = np.arange(50) % 2
    free = DropoutLogisticRegression(0.4).fit(X, y)
    for part in (X.data, X.indices, X.indptr):
        part.setflags(write=False)
    locked = DropoutLogisticRegression(0.4).fit(X, y)
    locked.predict_proba(X, "masks")
    np.testing.assert_array_equal(locked.coef_, free.coef_)
    rows = Rows(X)
    # What a kernel is compiled for.
    assert typeof(rows.X.data) == typeof(np.ones(1))
    assert typeof(rows.X.indices) == typeof(np.ones(1, np.int32))
    assert rows.X.data.flags.writeable
    assert rows.X.indices.flags.writeable
    assert rows.X.indptr.flags.writeable
    assert np.shares_memory(rows.X.data, X.data)
    assert not X.data.flags.writeable
    dense = np.ones((3, 2))
    dense.setflags(write=False)
    assert np.shares_memory(unlocked(dense), dense)
    assert Rows(dense).X.flags.writeable
    taken = _rows(X)  # of expected_score_loss, likewise
    assert taken.data.flags.writeable
    assert taken.indices.flags.writeable
    assert np.shares_memory(taken.data, X.data)
