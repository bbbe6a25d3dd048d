"""Least squares on columns that say nothing, columns far from zero, and more columns than rows: digits are kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import sparse
from sklearn.linear_model import LinearRegression

from allmasks.linear_model import DropoutRidge, DropoutRidgeCV
from allmasks.linear_model.centered import Centered, second_moments
from allmasks.linear_model.partitions import Partitions
from allmasks.linear_model.sufficient import Sufficient


def by_batches(X, y, p, alpha=0.0, weight=None):
    model = DropoutRidge(p, alpha)
    for rows in np.array_split(np.arange(len(y)), 7):
        model.partial_fit(X[rows], y[rows], None if weight is None else weight[rows])
    return model


def over_dask(X, y, p, alpha=0.0, weight=None):
    array = pytest.importorskip("dask.array")
    rows = (len(y) // 7 + 1, -1)
    weight = None if weight is None else array.from_array(weight, chunks=rows[0])
    lazy = array.from_array(X, chunks=rows, asarray=False) if sparse.issparse(X) else array.from_array(X, chunks=rows)
    return DropoutRidge(p, alpha).fit(lazy, array.from_array(y, chunks=rows[0]), weight)


def at_once(X, y, p, alpha=0.0, weight=None):
    return DropoutRidge(p, alpha).fit(X, y, weight)


def on_csr(X, y, p, alpha=0.0, weight=None):
    return DropoutRidge(p, alpha).fit(sparse.csr_matrix(X), y, weight)


def on_csr_batches(X, y, p, alpha=0.0, weight=None):
    return by_batches(sparse.csr_matrix(X), y, p, alpha, weight)


def chosen(X, y, p, alpha=0.0, weight=None):
    return DropoutRidgeCV(ps=[0.0], alphas=[alpha], cv=3).fit(X, y, weight)


WAYS = [at_once, on_csr, by_batches, on_csr_batches, over_dask]


@pytest.mark.parametrize("way", [*WAYS, chosen])
@pytest.mark.parametrize("constant", [1.0, 0.1, 1 / 3, 1e7, -1e-9, 3e150])
def test_a_constant_column_without_penalty_has_no_weight(way, constant):
    rng = np.random.default_rng(0)
    for n in (23, 1000):
        X = rng.normal(size=(n, 3))
        X[:, 1] = constant
        y, weight = X[:, 0] - 2 * X[:, 2] + rng.normal(size=n) + 5, rng.uniform(0.1, 2, n)
        truth = LinearRegression().fit(X[:, [0, 2]], y, weight)
        model = way(X, y, 0.0, 0.0, weight)
        assert model.coef_[1] == 0.0
        np.testing.assert_allclose(model.coef_[[0, 2]], truth.coef_, rtol=1e-12)
        assert model.intercept_ == pytest.approx(truth.intercept_, rel=1e-12)


def test_a_constant_column_that_alone_is_never_dropped():
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.normal(size=(40, 2)), np.full(40, 0.3)])
    y = X[:, 0] + rng.normal(size=40)
    model, without = DropoutRidge([0.5, 0.5, 0.0]).fit(X, y), DropoutRidge(0.5).fit(X[:, :2], y)
    np.testing.assert_allclose(model.coef_, [*without.coef_, 0.0], rtol=1e-13)


def test_a_column_constant_but_for_its_rounding():
    rng = np.random.default_rng(2)
    X = np.column_stack([rng.normal(size=50), 0.1 + 0.2 * np.ones(50)])
    X[::2, 1] = 0.3  # 0.1 + 0.2 is another float
    y = X[:, 0] + rng.normal(size=50)
    for way in WAYS:
        np.testing.assert_allclose(way(X, y, 0.0).coef_, [*LinearRegression().fit(X[:, :1], y).coef_, 0.0], rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mean", [1e3, 1e7, -1e12])
def test_a_column_far_from_zero_keeps_its_digits(way, mean):
    rng = np.random.default_rng(3)
    X = np.column_stack([mean + np.round(rng.normal(size=120), 3), rng.normal(size=120) * (rng.random(120) < 0.4)])
    y = 2.0 * (X[:, 0] - mean) + X[:, 1] + 0.1 * rng.normal(size=120)
    mp.dps = 60
    # The normal equations in 60 digits.
    columns = [[mpf(float(v)) for v in column] for column in (*X.T, y)]
    apart = [[v - sum(column) / len(column) for v in column] for column in columns]
    gram = mp.matrix(2, 2)
    for i in range(2):
        for j in range(2):
            gram[i, j] = mp.fdot(apart[i], apart[j])
    truth = mp.lu_solve(gram, mp.matrix([mp.fdot(a, apart[2]) for a in apart[:2]]))
    np.testing.assert_allclose(way(X, y, 0.0).coef_, [float(v) for v in truth], rtol=1e-13)


@pytest.mark.parametrize("size", [1e20, 1e-24])
def test_single_precision_is_squared_in_double(size):
    rng = np.random.default_rng(4)
    X = (rng.normal(size=(30, 3)) * size * (rng.random((30, 3)) < 0.7)).astype(np.float32)
    y, S = rng.normal(size=30), sparse.csr_matrix(X)
    wide = X.astype(np.float64)
    np.testing.assert_allclose(second_moments(S), (wide**2).sum(axis=0), rtol=1e-14)
    truth = DropoutRidge(0.3).fit(wide, y)
    for data in (X, S):
        model = DropoutRidge(0.3).fit(data, y)
        np.testing.assert_allclose(model.coef_, truth.coef_, rtol=1e-6)
        np.testing.assert_allclose(model.predict_std(data), truth.predict_std(wide), rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 25),
    density=st.sampled_from([0.2, 0.7, 0.97, 1.0]),
    size=st.sampled_from([1e-9, 1.0, 1e6]),
    far=st.sampled_from([0.0, 3.0, 1e8]),
)
def test_centered_rows_are_those_written_out(seed, n, density, size, far):
    """Means, energies, products of CSR and dense rows against the centered matrix in extended precision."""
    rng = np.random.default_rng(seed)
    X = size * (far + rng.normal(size=(n, 4))) * (rng.random((n, 4)) < density)
    weight, y = rng.uniform(0.1, 3, n) * (rng.random(n) < 0.9) + 1e-3, rng.normal(size=(n, 2))
    long, s = X.astype(np.longdouble), weight.astype(np.longdouble)
    apart = (long - (s / s.sum()) @ long) * np.sqrt(s)[:, None]
    W, R = rng.normal(size=(4, 2)), rng.normal(size=(n, 2))
    energy = (apart**2).sum(axis=0).astype(float)
    reach = np.sqrt(energy) + 1e-15 * size * far
    for data in (Centered.of(X, y, weight, center=True), Centered.of(sparse.csr_matrix(X), y, weight, center=True)):
        np.testing.assert_allclose(data.energy, energy, rtol=1e-9, atol=1e-28 * float((s @ long**2).max()))
        np.testing.assert_allclose(data.shift + data.x_mean, (s / s.sum()) @ long, rtol=1e-14, atol=1e-16 * size)
        np.testing.assert_allclose(data.dot(W), (apart @ W).astype(float), atol=1e-10 * reach.max())
        np.testing.assert_allclose(data.t_dot(R), (apart.T @ R).astype(float), atol=1e-10 * reach.max())


def least_squares(X, y, penalty):
    """Minimum-norm least squares, columns scaled to one length, by a decomposition of all rows and penalties."""
    apart = X - X.mean(axis=0)
    scale = 1 / np.sqrt((apart**2).sum(axis=0) + penalty)
    stacked = np.vstack([apart * scale, np.diag(np.sqrt(penalty) * scale)])
    targets = np.concatenate([y - y.mean(), np.zeros(len(scale))])
    return scale * np.linalg.lstsq(stacked, targets, rcond=1e-12)[0]


@pytest.mark.parametrize("undropped", [0, 1, 5, 50, 58, 59, 60, 61, 100])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_wide_data_with_features_that_carry_no_penalty(undropped, form):
    rng = np.random.default_rng(undropped)
    X, y = rng.normal(size=(60, 100)), rng.normal(size=60)
    p = np.where(np.arange(100) < undropped, 0.0, 0.4)
    truth = least_squares(X, y, p / (1 - p) * (X**2).sum(axis=0))
    model = DropoutRidge(p).fit(form(X), y)
    np.testing.assert_allclose(model.coef_, truth, atol=1e-9 * np.abs(truth).max())


@pytest.mark.parametrize("faint", [1e-9, 1e-15, 1e-18])
def test_wide_data_with_hardly_any_penalty(faint):
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(20, 50)), rng.normal(size=20)
    model = DropoutRidge(faint).fit(X, y)
    # The limit: interpolation of least norm, columns measured by their second moments.
    root = np.sqrt((X**2).sum(axis=0))
    limit = np.linalg.pinv((X - X.mean(axis=0)) / root) @ (y - y.mean()) / root
    np.testing.assert_allclose(model.coef_, limit, atol=1e3 * faint + 1e-12)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_wide_data_whose_undropped_columns_are_nearly_collinear(form):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4, 5)), rng.normal(size=4)
    X[:, 0] += 7e6
    X[:, 4] = 0.25 * X[:, 0] + rng.normal(size=4)
    p = np.array([0.0, 0.9, 0.0, 0.99, 1e-6])
    model = DropoutRidge(p, alpha=1e-6, fit_intercept=False).fit(form(X), y)
    penalty = p / (1 - p) * (X**2).sum(axis=0) + 1e-6
    scale = 1 / np.sqrt((X**2).sum(axis=0) + penalty)
    stacked = np.vstack([X * scale, np.diag(np.sqrt(penalty) * scale)])
    truth = scale * np.linalg.lstsq(stacked, np.append(y, np.zeros(5)))[0]
    np.testing.assert_allclose(model.coef_, truth, rtol=1e-6)


def test_nothing_of_features_by_features_is_formed():
    X = sparse.random(40, 100_000, 0.001, random_state=0, format="csr")
    y = np.random.default_rng(6).normal(size=40)
    assert DropoutRidge(0.0).fit(X, y).objective_ < 1e-20
    mixed = DropoutRidge(np.where(np.arange(100_000) == X.indices[0], 0.0, 0.5)).fit(X, y)
    assert mixed.gradient_norm_ < 1e-10
    with pytest.raises(ValueError, match=r"at most 8192 features; X has 100000\. Select features, or fit all rows"):
        DropoutRidge(0.0).partial_fit(X, y)


def test_statistics_of_partitions_merge_without_cancellation():
    array = pytest.importorskip("dask.array")
    rng = np.random.default_rng(7)
    X, y = 1e9 + rng.normal(size=(90, 2)), 1e9 + rng.normal(size=90)
    lazy = Partitions.of(DropoutRidge(), array.from_array(X, chunks=(11, -1)), array.from_array(y, chunks=11))
    moments = Sufficient.of_partitions(lazy)
    apart = np.column_stack([X, y]).astype(np.longdouble)
    apart = apart - apart.mean(axis=0)
    np.testing.assert_allclose(moments.gram, (apart[:, :2].T @ apart[:, :2]).astype(float), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.cross, (apart[:, :2].T @ apart[:, 2:]).astype(float), rtol=1e-11, atol=1e-12)
