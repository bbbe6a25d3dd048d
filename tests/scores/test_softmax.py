"""Bounds of the softmax over all masks, against enumeration in extended precision.

`python tests/scores/test_softmax.py --cases 10000 --seed 1` draws as many problems of three rows.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from scipy import sparse

import allmasks as am
from allmasks.methods import Enumeration, Fourier, MonteCarlo, SoftmaxBounds
from allmasks.scores.class_scores import check_classes
from allmasks.scores.remainders import LOG, POWER, best_pair, central, expectation
from allmasks.scores.softmax import bounded_probabilities

LONG = np.longdouble
ROWS = 3
ANY = 1e300
"""A tolerance that takes every width."""

_PART = 250
"""Cases between two lines of the long run."""

needs_extended = pytest.mark.skipif(np.finfo(LONG).eps > 1e-18, reason="no extended precision on this platform")


@dataclass
class Case:
    weights: np.ndarray
    X: np.ndarray
    p: Any
    b: np.ndarray
    y: np.ndarray
    as_csr: bool

    @property
    def given(self):
        return sparse.csr_matrix(self.X) if self.as_csr else self.X


def truth(weights, x, p, b):
    """E log Σ e^S, E S, E π and E π² of one row, every mask listed, in extended precision."""
    p = np.broadcast_to(np.asarray(p, LONG), x.shape)
    s, chance = np.asarray(b, LONG)[:, None], np.ones(1, LONG)
    for j in np.flatnonzero(x):
        a = np.asarray(weights[:, j], LONG) * LONG(x[j]) / (1 - p[j])
        s = np.concatenate([s, s + a[:, None]], axis=1)
        chance = np.concatenate([chance * p[j], chance * (1 - p[j])])
    top = s.max(axis=0)
    e = np.exp(s - top)
    total = e.sum(axis=0)
    pi = e / total
    return (chance * (top + np.log(total))).sum(), (chance * s).sum(axis=1), pi @ chance, pi**2 @ chance


rates = st.one_of(st.floats(0, 0.999), st.sampled_from([0.0, 1e-9, 1e-3, 0.5, 0.9, 0.999]))


@st.composite
def cases(draw, most_classes=12, most_units=11) -> Case:
    classes, d = draw(st.integers(3, most_classes)), draw(st.integers(1, most_units))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = draw(st.one_of(rates, st.lists(rates, min_size=d, max_size=d).map(np.array)))
    spread = 10.0 ** draw(st.floats(-9, 3))
    weights = rng.standard_normal((classes, d)) * spread
    if draw(st.booleans()):
        weights *= 10.0 ** rng.uniform(-3, 0, d)
    b = rng.standard_normal(classes) * 10.0 ** draw(st.floats(-4, 2))
    if draw(st.booleans()):
        b[rng.integers(classes)] += 10.0 ** draw(st.floats(-1, 4))
    if draw(st.integers(0, 5)) == 0:
        weights[1:], b[:] = weights[:1], b[0]  # equal scores
    X = rng.standard_normal((ROWS, d)) if draw(st.booleans()) else rng.integers(-1, 2, (ROWS, d)).astype(float)
    X[0] = draw(st.lists(st.floats(-3, 3), min_size=d, max_size=d))
    return Case(weights, X, p, b, rng.integers(0, classes, ROWS), draw(st.booleans()))


def faults(case: Case, moments=None) -> list[str]:
    """What lies outside its interval, or is no number."""
    found = []
    rule = SoftmaxBounds(tol=ANY if moments else 1e-9, moments=moments)
    args = case.weights, case.given
    rules = (rule,) if moments else (SoftmaxBounds(tol=ANY, moments=4),)
    for rule in rules:
        loss = am.expected_score_loss(*args, case.y, case.p, loss="cross_entropy", intercept=case.b, method=rule)
        share = am.expected_score(*args, case.p, link="softmax", intercept=case.b, method=rule)
        ends = bounded_probabilities(check_classes(*args, case.p, case.b, None), rule)
        for i in range(ROWS):
            log_sum, mean, pi, square = truth(case.weights, case.X[i], case.p, case.b)
            value = log_sum - mean[case.y[i]]
            off, error = abs(loss.per_example[i] - value), loss.per_example_error[i]
            rounding = LONG(1e-17) * (1 + abs(log_sum) + abs(mean[case.y[i]]))  # the truth's own
            if not (off <= error + rounding and np.isfinite(error) and loss.guarantee == "bounded"):
                found.append(f"{rule}: loss of row {i} off by {float(off):.3g}, error {error:.3g}")
            variance = square - pi**2
            for name, own, wrong, exact in (
                ("mean", share.mean[i], share.mean_error[i], pi),
                ("variance", share.variance[i], share.variance_error[i], variance),
            ):
                if not (abs(own - exact) <= wrong + LONG(1e-17)).all():
                    found.append(f"{rule}: {name} of row {i} off by {float(abs(own - exact).max()):.3g}")
            low, high, low_square, high_square = (end[i] for end in ends)
            for name, below, above, exact in (("E π", low, high, pi), ("E π²", low_square, high_square, square)):
                if not ((below <= exact + LONG(1e-17)) & (exact <= above + LONG(1e-17))).all():
                    found.append(f"{rule}: {name} of row {i} outside its bounds")
    return found


def moment_bounds(case: Case) -> list[str]:
    return faults(case, 2) + faults(case, 4)


@needs_extended
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(most_units=8))
def test_every_truth_lies_in_its_interval(case):
    assert moment_bounds(case) == []


def laws(seed=0):
    """A law of Y ≥ 1 that is narrow, its moments to 64 bits, and E log Y."""
    rng = np.random.default_rng(seed)
    values = 1 + LONG(0.01) * np.asarray(rng.random(6), LONG)
    values[0] = 1
    chance = np.asarray(rng.random(6), LONG)
    chance /= chance.sum()
    return values, chance, np.array([float((chance * values**i).sum()) for i in range(5)])


def bounds(moments, pinned=0.0):
    """Lower and upper bound of E log Y from moments 0 … 4, Radau's node at 1 + pinned."""
    u, off, unused = np.empty(5), np.empty(5), np.empty(5)
    central(moments, 1e-15, u, off)
    a, b = best_pair(1.0, u[1], u[2], u[3])
    high, wrong_high = expectation(LOG, np.array([a, a, b, b]), u, off, unused)
    a, b = best_pair(u[1], u[2], u[3], u[4])
    low, wrong_low = expectation(LOG, np.array([pinned, a, a, b, b]), u, off, unused)
    return low - wrong_low, high + wrong_high


@needs_extended
@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slip_is_caught(seed):
    values, chance, moments = laws(seed)
    exact = (chance * np.log(values)).sum()
    low, high = bounds(moments)
    assert low <= exact <= high
    assert high - low < 1e-10
    for n in (1, 2, 3):
        for by in (1e-9, -1e-9):
            slipped = moments.copy()
            slipped[n] *= 1 + by
            low, high = bounds(slipped)
            assert not low <= exact <= high
    # A node below 1 keeps the sign of the remainder, and only widens; one above does not.
    low, high = bounds(moments, pinned=-0.001)
    assert low <= exact <= high
    values = np.array([1.0, 2.0], LONG)  # most of the law at 1 itself
    chance = np.array([1 - 1e-5, 1e-5], LONG)
    two = np.array([float((chance * values**i).sum()) for i in range(5)])
    exact = (chance * np.log(values)).sum()
    low, high = bounds(two)
    assert low <= exact <= high
    low, high = bounds(two, pinned=0.001)
    assert not low <= exact


def test_any_nodes_bound_the_powers_too():
    values, chance, moments = laws()
    u, off, unused = np.empty(5), np.empty(5), np.empty(5)
    central(moments, 1e-15, u, off)
    exact = (chance / values).sum()
    for a, b in ((0.001, 0.02), (0.3, 5.0)):
        low, wrong = expectation(POWER, np.array([a, a, b, b]), u, off, unused)
        assert low - wrong <= exact
        high, wrong = expectation(POWER, np.array([0.0, a, a]), u, off, unused)
        assert high + wrong >= exact


rng = np.random.default_rng(5)
W, X, B = rng.standard_normal((5, 12)) * 0.05, rng.standard_normal((7, 12)), rng.standard_normal(5)
Y, P = rng.integers(0, 5, 7), np.where(np.arange(12) % 4 == 0, 0.0, 0.3)


def asked(method, weights=W, x=X, y=Y, p=P, **more):
    return am.expected_score_loss(weights, x, y, p, loss="cross_entropy", intercept=B, method=method, **more)


@pytest.mark.parametrize("rows", [X, sparse.csr_matrix(np.where(abs(X) > 0.5, X, 0))], ids=["dense", "csr"])
def test_gradients_are_those_of_every_mask(rows):
    weighted = rng.random(7)
    ours = asked(SoftmaxBounds(tol=1e-9), x=rows, sample_weight=weighted, return_grad=True)
    every = asked(Enumeration(), x=rows, sample_weight=weighted, return_grad=True)
    assert ours.error < 1e-7
    for name in ("weights", "intercept"):
        assert np.allclose(ours.grad[name], every.grad[name], rtol=1e-6, atol=1e-8)
    difference = ours.grad["X"] - every.grad["X"]
    assert abs(difference).max() < 1e-8
    assert type(ours.grad["X"]) is type(every.grad["X"])
    # Enumeration's against finite differences of its own value.
    step = np.zeros_like(W)
    step[2, 1] = 1e-5
    ends = [asked(Enumeration(), weights=W + s * step, x=rows, sample_weight=weighted).value for s in (1, -1)]
    assert every.grad["weights"][2, 1] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-10)


def test_wide_rows_are_refused_by_name_or_sampled():
    wide = W * 40
    with pytest.raises(am.MethodNotApplicable, match=r"the bounds of \d of 7 rows are wider than tol=0.001: rows 0 \("):
        asked(SoftmaxBounds(), weights=wide)
    mixed = am.expected_score_loss(
        np.tile(wide, 2), np.tile(X, 2) * np.array([[1], [0.02], [1], [1], [1], [1], [0]]), Y, 0.4,
        loss="cross_entropy", intercept=B, return_grad=True,
    )  # fmt: skip
    assert mixed.guarantee == "statistical"
    assert mixed.n_masks == 256
    assert "rows were sampled" in mixed.notes[0]
    assert 0 < mixed.bound < mixed.error
    low, high = mixed.interval(0.95)
    from allmasks.replicates import student

    half = student(0.95, mixed.n_replicates) * (mixed.error - mixed.bound) + mixed.bound
    assert (high - low) / 2 == pytest.approx(half, rel=1e-12)
    assert mixed.value == pytest.approx(mixed.per_example.mean(), rel=1e-12)
    # A row's masks are its own, whichever others are sampled with it.
    alone = am.expected_score_loss(
        np.tile(wide, 2), np.tile(X, 2) * np.array([[1], [0.02], [1], [1], [1], [1], [0]]), Y, 0.4,
        loss="cross_entropy", intercept=B, method=MonteCarlo(),
    )  # fmt: skip
    assert mixed.per_example[0] == pytest.approx(alone.per_example[0], rel=1e-12)


def test_sampling_and_listing_agree():
    drawn, every = asked(MonteCarlo(n_masks=4096), return_grad=True), asked(Enumeration(), return_grad=True)
    assert every.guarantee == "exact"
    assert abs(drawn.value - every.value) < 4.5 * drawn.error
    assert np.allclose(drawn.grad["weights"], every.grad["weights"], atol=0.02)
    assert asked(None).method == Enumeration()


def test_many_classes_by_those_that_matter():
    big = np.random.default_rng(1)
    weights, rows = big.standard_normal((1000, 512)) * 0.004, big.standard_normal((2, 512))
    b = np.where(np.arange(1000) < 4, 12.0, 0.0)
    ours = am.expected_score_loss(
        weights, rows, [0, 999], 0.5, loss="cross_entropy", intercept=b, method=SoftmaxBounds(tol=1e-4)
    )
    assert ours.error < 1e-4
    drawn = am.expected_score_loss(
        weights, rows, [0, 999], 0.5, loss="cross_entropy", intercept=b, method=MonteCarlo(n_masks=64)
    )
    assert abs(ours.value - drawn.value) < 5 * drawn.error + ours.error


def test_two_classes_are_the_logistic_row():
    two, rows = np.random.default_rng(2).standard_normal((2, 12)), X * 3
    classes = np.arange(7) % 2
    ours = am.expected_score_loss(
        two,
        rows,
        classes,
        0.4,
        loss="cross_entropy",
        intercept=[0.2, -1.0],
        method=SoftmaxBounds(1e-9),
        return_grad=True,
    )
    row = am.expected_score_loss(two[1] - two[0], rows, classes, 0.4, intercept=-1.2, return_grad=True)
    assert np.abs(ours.per_example - row.per_example).max() <= 1e-13
    assert ours.error < 1e-11
    assert np.allclose(ours.grad["weights"], np.stack([-row.grad["weights"], row.grad["weights"]]), atol=1e-14)
    assert np.allclose(ours.grad["X"], row.grad["X"], atol=1e-14)
    share = am.expected_score(two, rows, 0.4, link="softmax", intercept=[0.2, -1.0], method=SoftmaxBounds())
    sigma = am.expected_score(two[1] - two[0], rows, 0.4, intercept=-1.2)
    assert np.abs(share.mean[:, 1] - sigma.mean).max() < 1e-13
    assert np.abs(share.variance - sigma.variance[:, None]).max() < 1e-12


def test_extremes():
    assert am.expected_score_loss([[1.0, -2.0]], [[3.0, 1.0]], [0], 0.5, loss="cross_entropy").value == 0.0
    one = am.expected_score([[1.0, -2.0]], [[3.0, 1.0]], 0.5, link="softmax", method=SoftmaxBounds())
    assert abs(one.mean - 1).max() <= one.mean_error.max() < 1e-14
    far = am.expected_score_loss(
        np.array([[1e4], [-1e4], [0.0]]),
        [[1.0], [0.0]],
        [0, 1],
        0.5,
        loss="cross_entropy",
        method=SoftmaxBounds(tol=1e9),
    )
    assert np.isfinite(far.per_example_error).all()
    assert abs(far.per_example[0] - (np.log(3) / 2)) <= far.per_example_error[0]
    empty = sparse.csr_matrix((3, 12))
    blank = asked(SoftmaxBounds(tol=1e-12), x=empty, y=Y[:3])
    assert np.allclose(blank.per_example, np.log(np.exp(B).sum()) - B[Y[:3]], rtol=1e-14)
    single = asked(SoftmaxBounds(), weights=W.astype(np.float32), x=X.astype(np.float32), y=Y.astype(np.float32))
    assert single.error < 1e-3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weights": W[0]}, r"weights of shape \(classes, d\), got \(12,\)"),
        ({"weights": W.T}, r"weights of shape \(12, 5\) do not fit X with 12 columns"),
        ({"y": Y + 4}, r"class numbers must lie in 0 … 4, got"),
        ({"y": Y + 0.5}, "class numbers must be whole numbers"),
        ({"y": Y[:3]}, r"y must be class numbers \(7,\) or shares \(7, 5\), got shape \(3,\)"),
        ({"y": -np.ones((7, 5))}, "must be finite and 0 or more"),
        ({"p": 1.0}, "p"),
        ({"x": np.full((7, 12), np.nan)}, "X contains NaN"),
        ({"weights": np.full((5, 12), 1e308)}, "can exceed the largest double"),
    ],
)
def test_bad_input_says_what_is_wrong(change, says):
    with pytest.raises(ValueError, match=says):
        asked(SoftmaxBounds(), **change)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="tol must be positive"):
        SoftmaxBounds(tol=0)
    with pytest.raises(ValueError, match="moments must be 2, 4 or None"):
        SoftmaxBounds(moments=3)
    with pytest.raises(am.MethodNotApplicable, match=r"no formula for the cross-entropy of several classes\. Try Soft"):
        asked(Fourier(), p=np.full(12, 0.5))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0, help="runs of other seeds add up")
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop there, whatever the number of cases")
    options = parser.parse_args()
    begun, done, wrong, part = time.monotonic(), 0, 0, 0
    while done < options.cases and time.monotonic() - begun < 60 * options.minutes:

        @seed(1_000_000 * options.seed + part)
        @settings(
            max_examples=min(_PART, options.cases - done),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],
        )
        @given(cases(most_units=options.units))
        def go(case):
            nonlocal done, wrong
            done += 1
            found = moment_bounds(case)
            wrong += bool(found)
            if found:
                print(case, *found, sep="\n")

        go()
        part += 1
        spent = time.monotonic() - begun
        print(f"{done} problems of {ROWS} rows, {wrong} with a truth outside its interval, {spent:.0f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
