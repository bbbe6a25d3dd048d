"""Factors tabulated by slot: the row kernel's answers, and every mask's, to the errors stated."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numba import njit
from scipy import sparse

import allmasks as am
from allmasks.methods import Fourier
from allmasks.scores import lanes, tail_bounds
from allmasks.scores.characteristic import logistic_moments
from allmasks.scores.score import ScoreProblem
from allmasks.scores.slots import find_slots
from scores import truth

unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def few_valued(draw, most_units, most_rows):
    """Binary rows or counts, one rate or one a feature, some of them 0, and weights of any size up to a few."""
    n, d = draw(st.integers(1, most_rows)), draw(st.integers(1, most_units))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.integers(0, draw(st.integers(2, 4)), (n, d)) * (rng.random((n, d)) < draw(st.floats(0.1, 1.0)))
    p = rng.uniform(0, 0.95, d) * (rng.random(d) < 0.8) if draw(st.booleans()) else draw(st.floats(0, 0.95))
    weights = rng.standard_normal(d) * draw(st.sampled_from([0.01, 0.3, 1.0, 4.0])) * (rng.random(d) < 0.9)
    share = rng.uniform(0, 2, n)
    rows = sparse.csr_matrix(X.astype(np.float64))
    return ScoreProblem(weights, rows, np.broadcast_to(p, d).astype(float), draw(st.floats(-5, 5)), share)


def moments(problem, slots, **kwargs):
    return logistic_moments(problem, Fourier(**kwargs), grads=1, slots=slots)


@truth.needs_extended
@unhurried
@given(few_valued(10, 12), st.sampled_from([1e-3, 1e-6, 1e-12]))
def test_every_mask_agrees(problem, tol):
    slots = find_slots(problem.X)
    if slots is None:
        return
    out, gradient, _ = moments(problem, slots, tol=tol)
    X = problem.X.toarray()
    exact = truth.logistic(problem.weights, X, problem.p, problem.intercept)
    mean = np.asarray(X, truth.LONG) @ np.asarray(problem.weights, truth.LONG) + problem.intercept
    error = out.error
    assert (error <= 2 * tol * (1 + exact.largest)).all()
    for mine, true in (
        (np.logaddexp(0, out.mu) + out.penalty, exact.softplus),
        (out.sigma, exact.sigma),
        (out.slope, exact.sigma * (1 - exact.sigma) - exact.variance),
        (out.mu, mean),
    ):
        assert (np.abs(mine - true) <= error + 1e-15).all()
    true = (problem.share[:, None] * X * exact.kept).sum(axis=0)
    # A slope is a mean over half of the masks: its error may be 1/q as large.
    allowed = (problem.share[:, None] * X * error[:, None]).sum(axis=0) / (1 - problem.p)
    assert (np.abs(gradient - true) <= 4 * allowed + 1e-12 * np.abs(true).max()).all()


@unhurried
@given(few_valued(150, 60), st.sampled_from([1e-3, 1e-5, 1e-9, 1e-12]))
def test_the_row_kernel_agrees(problem, tol):
    slots = find_slots(problem.X)
    if slots is None:
        return
    try:
        by_row, gradient, _ = moments(problem, None, tol=tol)
    except am.MethodNotApplicable:
        with pytest.raises(am.MethodNotApplicable, match="needs more than max_nodes=4096"):
            moments(problem, slots, tol=tol)
        return
    by_slot, other, _ = moments(problem, slots, tol=tol)
    allowed = by_row.error + by_slot.error
    for column in (0, 2, 3, 4):
        assert (np.abs(by_row[column] - by_slot[column]) <= allowed).all()
    slack = (problem.share * allowed) @ problem.X.toarray() / (1 - problem.p)
    assert (np.abs(gradient - other) <= 4 * slack + 1e-12 * np.abs(gradient).max(initial=0.0)).all()


def test_rows_that_spread_too_far_go_one_by_one():
    """A huge unit is enumerated, by the row kernel, and the refused row is named as it was numbered."""
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix((rng.random((30, 12)) < 0.5).astype(float))
    weights = np.r_[1e5, 0.3 * rng.standard_normal(11)]
    problem = ScoreProblem(weights, X, np.full(12, 0.4), 0.0, np.ones(30))
    slots = find_slots(X)
    a, b = moments(problem, None), moments(problem, slots)
    for one, other in zip(a[0], b[0], strict=True):
        assert (np.abs(one - other) <= a[0].error + b[0].error).all()
    np.testing.assert_allclose(a[1], b[1], rtol=1e-9)
    far = sparse.vstack([X[:, [1] * 40], np.ones((2, 40))], format="csr")
    spread = ScoreProblem(np.full(40, 1e4), far, np.full(40, 0.4), 0.0, np.ones(32))
    with pytest.raises(am.MethodNotApplicable) as by_row:
        moments(spread, None)
    with pytest.raises(am.MethodNotApplicable) as by_slot:
        moments(spread, find_slots(far))
    assert str(by_row.value) == str(by_slot.value)


@unhurried
@given(few_valued(20, 20))
def test_slots_are_the_repeated_entries(problem):
    X = problem.X
    slots = find_slots(X)
    pairs = list(zip(X.indices.tolist(), X.data.tolist(), strict=True))
    repeated = [pair for pair in pairs if pairs.count(pair) > 1]
    if slots is None:
        assert X.nnz == 0 or 2 * len(repeated) < len(pairs)
        return
    named = list(zip(slots.column.tolist(), slots.value.tolist(), strict=True))
    assert sorted(named) == sorted(set(repeated))
    counts = np.diff(slots.slot_start)
    assert (np.diff(counts) <= 0).all()
    for i in range(X.shape[0]):
        mine = [named[s] for s in slots.row_slot[slots.row_start[i] : slots.row_start[i + 1]]]
        mine += [pairs[e] for e in slots.single[slots.single_start[i] : slots.single_start[i + 1]]]
        assert sorted(mine) == sorted(pairs[X.indptr[i] : X.indptr[i + 1]])
        for s in range(len(named)):
            assert (i in slots.slot_row[slots.slot_start[s] : slots.slot_start[s + 1]]) == (named[s] in mine)


def test_a_feature_of_many_values_has_no_slots():
    X = sparse.csr_matrix(np.random.default_rng(0).standard_normal((50, 3)))
    assert find_slots(X) is None
    assert find_slots(sparse.csr_matrix((4, 3))) is None


@njit
def _loops(table, index, lo, hi, h, z, p, out):
    product, total, factor = np.empty(16), np.empty(16), out.copy()
    lanes.gathered_product(table, index, lo, hi, product)
    lanes.gathered_sum(table, index, lo, hi, total)
    lanes.times_factors(z, p, 1.0 - p, out)
    lanes.set_factors(z, p, 1.0 - p, factor)
    part = lanes.tilted_part(h, z, p, 1.0 - p)
    lanes.turn(z, 0.6, -0.8)
    return product, total, factor, part


@pytest.mark.parametrize("length", range(6))
def test_loops_in_vectors_are_complex_arithmetic(length):
    def number(pair):
        return pair[..., :8] + 1j * pair[..., 8:]

    rng = np.random.default_rng(length)
    table, h, z, out = rng.normal(size=(9, 16)), *rng.normal(size=(3, 16))
    index = rng.integers(0, 9, 10).astype(np.int32)
    z[0], z[8] = -1.0, 0.0  # at p = ½ the factor is 0
    rows, before, start = number(table[index[2 : 2 + length]]), number(out), number(z)
    product, total, factor, part = _loops(table, index, 2, 2 + length, h, z, 0.5, out)
    np.testing.assert_allclose(number(product), rows.prod(axis=0), rtol=1e-14)
    np.testing.assert_allclose(number(total), rows.sum(axis=0), atol=1e-14)
    f = 0.5 + 0.5 * start
    np.testing.assert_allclose(number(factor), f, atol=1e-15)
    np.testing.assert_allclose(number(out), before * f, atol=1e-14)
    assert part == pytest.approx((number(h) * start / np.where(f == 0, np.inf, f)).imag.sum(), rel=1e-12)
    np.testing.assert_allclose(number(z), start * (0.6 - 0.8j), atol=1e-15)


@unhurried
@given(st.floats(1e-3, 30), st.floats(1e-3, 1e3), st.floats(1e-3, 10), st.sampled_from([1e-4, 1e-8, 1e-14]))
def test_the_quick_period_is_no_smaller_and_hardly_larger(centre, var, largest, eps):
    sub, reach = var, 10 * (var + largest)
    best = tail_bounds.period_for(centre, eps, sub, var, largest, reach)
    quick = tail_bounds.quick_period_for(centre, eps, sub, var, largest, reach)
    # The same λ, 0.8ⁿ, is rounded another way.
    assert best * (1 - 1e-13) <= quick <= 1.25 * best


def test_units_that_are_never_dropped_are_factors_and_their_rounding_counts():
    n, w, a = 20000, 0.01, 3e-7
    weights = np.append(np.where(np.arange(n) % 2, a, -a), w)
    x = sparse.csr_matrix(np.ones((2, n + 1)))
    problem = ScoreProblem(weights, x, np.append(np.zeros(n), 0.5), 0.0, np.full(2, 0.5))
    out, _, _ = logistic_moments(problem, Fourier(tol=1e-12), grads=1, slots=find_slots(x))
    softplus = lambda s: np.log1p(np.exp(np.longdouble(s)))  # noqa: E731
    exact = (softplus(0.0) + softplus(2 * w)) / 2 - softplus(w)
    assert abs(out.penalty[0] - exact) <= out.error[0]


@pytest.mark.parametrize("size", [1e99, 1e101, 1e155, 1e200])
def test_scores_that_overflow_go_to_the_row_kernel(size):
    x = sparse.csr_matrix(np.tile([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], (3, 1)))
    weights = np.array([1.0, -1.0, 0.5]) * size
    problem = ScoreProblem(weights, x, np.array([0.5, 0.3, 0.2]), 0.0, np.full(9, 1 / 9))
    together, _, _ = logistic_moments(problem, Fourier(tol=1e-10), grads=1, slots=find_slots(x))
    by_row, _, _ = logistic_moments(problem, Fourier(tol=1e-10), grads=1)
    np.testing.assert_array_equal(together, by_row)
