"""Curves over p: the closed form against refitting, and the race against a truth that is known."""

import json
from functools import partial
from threading import Lock

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import allmasks as am
from allmasks.diagnose import linear_rate_curve
from diagnose.fits import noisy

LOCK = Lock()


def test_leave_one_out_equals_refitting_without_each_row():
    """With D held fixed, as the docstring says; 30 refits of the normal equations a rate."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)) + 1, rng.normal(size=30)
    moment = np.diag((X**2).sum(0))
    curve = linear_rate_curve(X, y, p=[0.0, 0.3, 0.8], alpha=0.5)
    for k, p in enumerate(curve.p):
        errors = []
        for i in range(30):
            keep = np.arange(30) != i
            rows, target = X[keep], y[keep]
            centered = rows - rows.mean(0)
            w = np.linalg.solve(
                centered.T @ centered + p / (1 - p) * moment + 0.5 * np.eye(4), centered.T @ (target - target.mean())
            )
            errors.append((y[i] - target.mean() - (X[i] - rows.mean(0)) @ w) ** 2)
        assert curve.error[k] == pytest.approx(np.mean(errors), rel=1e-9)
    assert curve.degrees_of_freedom[0] < 5
    assert (np.diff(curve.degrees_of_freedom) < 0).all()


def test_an_example_that_alone_fixes_a_coefficient_is_really_left_out():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(12, 4)), rng.normal(size=12)
    X[:, 3] = np.arange(12) == 5
    curve = linear_rate_curve(X, y, p=[0.0, 1e-7, 0.5])
    assert np.isfinite(curve.error).all()
    assert curve.error[0] == pytest.approx(curve.error[1], rel=1e-4)
    alone = linear_rate_curve(X, y, p=[0.0])
    # One p or several are products of other shapes, which a BLAS may sum in another order.
    assert alone.error[0] == pytest.approx(curve.error[0], rel=1e-13)
    assert alone.one_se_p == 0.0


def test_an_error_that_is_not_known_is_infinite_and_never_the_best():
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(80, 6000)), rng.normal(size=80)
    curve = linear_rate_curve(X, y, p=[0.0, 0.5, 0.6])
    assert (curve.error[0], np.isnan(curve.error_se[0])) == (np.inf, True)
    assert curve.best_p > 0
    json.dumps(curve.to_dict(), allow_nan=False)
    assert linear_rate_curve(X, y, p=[0.0]).one_se_p == 0.0


def test_the_minimizer_is_the_dropout_minimizer():
    """The penalty's weights against a numerical minimum of the expected loss over all masks."""
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:40, :5] * 20, y[:40] / 100
    p, lam = 0.4, 0.4 / 0.6
    moment, centered = (X**2).sum(0), X - X.mean(0)
    w = np.linalg.solve(centered.T @ centered + lam * np.diag(moment), centered.T @ (y - y.mean()))
    b = y.mean() - X.mean(0) @ w
    at = am.expected_score_loss(w, X, y, p, loss="squared_error", intercept=b, return_grad=True)
    assert np.abs(at.grad["weights"]).max() < 1e-12
    assert linear_rate_curve(X, y, p=[p]).best_p == p


def test_ties_reach_as_far_as_one_standard_error():
    curve = linear_rate_curve(*load_diabetes(return_X_y=True), p=np.linspace(0, 0.9, 10))
    assert curve.one_se_p >= curve.best_p
    json.dumps(curve.to_dict(), allow_nan=False)
    with pytest.raises(ValueError, match=r"X must be \(n, d\) and y \(n,\), got \(3, 2\) and \(2,\)"):
        linear_rate_curve(np.ones((3, 2)), np.ones(2))


def test_pairing_finds_the_best_rate_through_shared_noise():
    curve = am.rate_curve(noisy, p=[0.1, 0.3, 0.5, 0.7], seeds=10, stop_early=False)
    assert (curve.best_p, curve.tied) == (0.3, (0.3,))
    assert curve.error.min() > 0.02  # what an unpaired comparison would have to see through
    assert curve.behind[0] == pytest.approx(0.04, abs=0.004)
    assert curve.behind_low[0] < 0.04 < curve.behind_high[0] + 0.004
    assert np.isfinite(curve.values).all()


def test_weak_rates_stop_early_and_the_best_survives():
    curve = am.rate_curve(noisy, p=[0.1, 0.3, 0.32, 0.7], seeds=12)
    assert curve.n_seeds.tolist() == [4, 12, 12, 4] or (curve.n_seeds[[0, 3]] < 12).all()
    assert curve.best_p in (0.3, 0.32)
    assert "stopped early" in repr(curve)


def test_the_best_rate_is_seldom_stopped():
    """Equal rates: none is worse, so stopping any is an error; over 200 races at most 5 % (+ 2.6 standard errors)."""
    stopped = 0
    for race in range(200):
        curve = am.rate_curve(
            lambda p, seed, race=race: float(np.random.default_rng([race, seed, int(100 * p)]).normal()),
            p=[0.1, 0.3, 0.5],
            seeds=8,
        )
        stopped += bool((curve.n_seeds < 8).any())
    assert stopped <= 18


def test_a_race_resumes_and_runs_in_parallel(tmp_path):
    calls = []

    def fit(p, seed):
        calls.append((p, seed))
        if len(calls) == 9:
            raise KeyboardInterrupt
        return noisy(p, seed)

    def fit_whole(p, seed):
        return noisy(p, seed)

    fit_whole.__qualname__ = fit.__qualname__
    with pytest.raises(KeyboardInterrupt):
        am.rate_curve(fit, p=[0.1, 0.3], seeds=6, cache=tmp_path, stop_early=False)
    first, calls[:] = list(calls), []
    resumed = am.rate_curve(fit, p=[0.1, 0.3], seeds=6, cache=tmp_path, stop_early=False)
    assert len(calls) == 12 - 8
    assert not set(calls) & set(first[:8])
    np.testing.assert_array_equal(
        resumed.values, am.rate_curve(fit_whole, p=[0.1, 0.3], seeds=6, stop_early=False).values
    )


@pytest.mark.slow
def test_joblib_gives_the_same():
    one = am.rate_curve(noisy, p=[0.1, 0.3], seeds=6)
    two = am.rate_curve(noisy, p=[0.1, 0.3], seeds=6, n_jobs=2)
    np.testing.assert_array_equal(one.values, two.values)


def test_a_cache_answers_only_for_the_same_function(tmp_path):
    class Fit:
        def __init__(self, level):
            self.level = level

        def fit(self, p, seed):
            return self.level + p + 1e-3 * seed

        __call__ = fit

    def plain(level, p, seed):
        return level + p + 1e-3 * seed

    def best(function):
        return am.rate_curve(function, p=[0.1, 0.2], seeds=2, cache=tmp_path).mean[0]

    for kind in (
        lambda level: partial(plain, level),
        Fit,
        lambda level: Fit(level).fit,
        lambda level: lambda p, seed: plain(level, p, seed),
    ):
        assert best(kind(1.0)) == pytest.approx(1.1005)
        assert best(kind(2.0)) == pytest.approx(2.1005)
        assert best(kind(1.0)) == pytest.approx(1.1005)
    with pytest.raises(ValueError, match=r"the cache cannot tell this fit from others: .*Pass name="):
        best(lambda p, seed, lock=LOCK: p)
    one = am.rate_curve(lambda p, seed, lock=LOCK: p + seed, p=[0.1], seeds=2, cache=tmp_path, name="locked, v1")
    two = am.rate_curve(lambda p, seed, lock=LOCK: 9.0, p=[0.1], seeds=2, cache=tmp_path, name="locked, v1")
    assert one.mean[0] == two.mean[0] == pytest.approx(0.6)


def test_a_fit_that_raises_is_named(tmp_path):
    def breaks(p, seed):
        if p == 0.3 and seed == 1:
            raise ZeroDivisionError("no data")
        return p

    with pytest.raises(ZeroDivisionError, match="no data") as caught:
        am.rate_curve(breaks, p=[0.1, 0.3], seeds=3, cache=tmp_path, stop_early=False)
    assert caught.value.__notes__ == [
        "raised by fit(p=0.3, seed=1)",
        f"3 of these 6 trials are kept in {tmp_path}; the same call goes on there",
    ]


def test_bad_requests():
    with pytest.raises(ValueError, match=r"p must be one or more rates in \[0, 1\), got none"):
        am.rate_curve(noisy, p=[])
    for p in ("0.5", ["0.5"], [0.1, None], [[0.1], [0.2, 0.3]]):
        with pytest.raises((TypeError, ValueError), match=r"p must be a number or an array of numbers in \[0, 1\)"):
            am.rate_curve(noisy, p=p)
    with pytest.raises(TypeError, match=r"fit\(p=0.5, seed=0\) returned NoneType: it must return one number"):
        am.rate_curve(lambda p, seed: None, p=[0.5])
    with pytest.raises(ValueError, match="n_jobs must be the number of processes, or -1 for all cores, got 0"):
        am.rate_curve(noisy, p=[0.5], n_jobs=0)
    for seeds in (2.5, "3", [0.1, 0.2], None):
        with pytest.raises(ValueError, match="seeds must be whole numbers, or how many"):
            am.rate_curve(noisy, seeds=seeds)
    with pytest.raises(ValueError, match=r"returned nan: it must return a finite validation loss"):
        am.rate_curve(lambda p, seed: float("nan"), p=[0.5])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1.0"):
        am.rate_curve(noisy, p=[1.0])
    with pytest.raises(ValueError, match="seeds must be at least 2 different seeds"):
        am.rate_curve(noisy, seeds=1)
    with pytest.raises(ValueError, match="first_look must be a whole number of at least 3 seeds, got 1"):
        am.rate_curve(noisy, first_look=1)


@pytest.mark.parametrize("unit", [1e200, 1e-200, 2.0**500])
def test_a_linear_curve_in_other_units_is_the_same(unit):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    plain, other = linear_rate_curve(X, y), linear_rate_curve(X * unit, y)
    np.testing.assert_allclose(other.error, plain.error, rtol=1e-12)
    assert other.best_p == plain.best_p
    if unit < 1e100:
        other = linear_rate_curve(X * 1e100, y, alpha=3e200)
        np.testing.assert_allclose(other.error, linear_rate_curve(X, y, alpha=3.0).error, rtol=1e-12)


def test_a_linear_curve_that_cannot_be():
    with pytest.raises(ValueError, match="leaving one out needs another: give at least 2 rows, got 1"):
        linear_rate_curve([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match=r"y reaches 1e\+200: its squared errors overflow; give it in other units"):
        linear_rate_curve([[1.0], [2.0]], [1.0, 1e200])
