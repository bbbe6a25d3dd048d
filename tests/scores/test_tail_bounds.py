"""The bounds behind the Fourier rule hold: each against what it bounds, found by listing or by quadrature."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad

from allmasks.scores import tail_bounds
from scores import truth

rates = st.floats(1e-6, 1 - 1e-6)
unhurried = settings(deadline=None, max_examples=200)


@unhurried
@given(rates, st.floats(-700, 700))
def test_kearns_saul_bounds_the_cumulant_function(p, lam):
    # log E e^{λ(B − q)} ≤ λ² v
    q = 1 - p
    a, b = math.log(p) - lam * q, math.log(q) + lam * p
    exact = max(a, b) + math.log1p(math.exp(-abs(a - b)))
    v = tail_bounds.kearns_saul(p)
    assert exact <= lam * lam * v * (1 + 1e-12) + 1e-15 * (1 + abs(lam))
    # And is the least such constant: it is attained at λ = 2 log(p / q).
    touching = 2 * math.log(p / q)
    if abs(touching) > 0.1:
        at = math.log(p * math.exp(-touching * q) + q * math.exp(touching * p))
        assert at == pytest.approx(touching**2 * v, rel=1e-5)


def test_kearns_saul_at_the_ends():
    assert tail_bounds.kearns_saul(0.0) == 0.0
    assert tail_bounds.kearns_saul(0.5) == pytest.approx(0.125, rel=1e-5)
    assert tail_bounds.kearns_saul(0.5) >= 0.125


units = st.integers(1, 10).flatmap(
    lambda d: st.tuples(
        arrays(np.float64, d, elements=st.floats(-50, 50)), arrays(np.float64, d, elements=st.floats(0.001, 0.999))
    )
)


def summary(a, p):
    sub = np.array([tail_bounds.kearns_saul(rate) for rate in p])
    return tail_bounds.statistics(a, p, sub, 0, len(a))


@unhurried
@given(units, st.floats(1e-4, 1.0))
def test_the_log_mgf_bound_holds_on_both_sides(case, lam):
    a, p = case
    bound = tail_bounds.log_mgf_bound(lam, *summary(a, p))
    for sign in (1, -1):
        z = sign * lam * a.astype(truth.LONG)
        exact = (np.log(p + (1 - p) * np.exp(z)) - (1 - p) * z).sum()
        assert float(exact) <= bound * (1 + 1e-12) + 1e-14


@unhurried
@given(units)
def test_statistics_are_those_of_the_score(case):
    a, p = case
    q = 1 - p
    _, var, largest, reach = summary(a, p)
    s = truth.scores(a.astype(truth.LONG))
    weight = truth.probabilities(p)
    mean = (weight * s).sum()
    assert var == pytest.approx(float((weight * (s - mean) ** 2).sum()), rel=1e-9, abs=1e-300)
    assert largest == pytest.approx(np.max(np.abs(a) * np.maximum(p, q)), rel=1e-12)
    # No deviation from the mean goes further.
    assert float(np.abs(s - mean).max()) <= reach * (1 + 1e-12) + 1e-14


@pytest.mark.parametrize("eps", [1e-2, 1e-6, 1e-10, 1e-14, 1e-18])
def test_nothing_is_left_beyond_the_last_node(eps):
    t = tail_bounds.last_node_at(eps)
    # 1 / sinh(πt) = 2 e^{−πt} / (1 − e^{−2πt})
    left, _ = quad(lambda u: 4 * max(1.0, u) * 2 * math.exp(-math.pi * u) / -math.expm1(-2 * math.pi * u), t, t + 15)
    assert left <= eps * (1 + 1e-6)
    assert t <= 1.0 + (math.log(1 / eps) + 6) / math.pi  # and not absurdly far out


@unhurried
@given(units, st.floats(0, 50))
def test_a_looser_tolerance_never_takes_more_nodes(case, centre):
    # What a proven bound costs must pay for itself: the nodes are period · last node / 2π.
    a, p = case
    of_row = summary(a, p)
    nodes = [
        tail_bounds.period_for(centre, eps, *of_row) * tail_bounds.last_node_at(eps)
        for eps in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12, 1e-14)
    ]
    assert (np.diff(nodes) > 0).all()


def softplus_by_nodes(a, p, period):
    """What the trapezoid rule with very many nodes gives for E log(1 + e^S): all that is off is the aliasing."""
    pi = 4 * np.arctan(truth.LONG(1))  # np.pi is a double
    h = 2 * pi / truth.LONG(period)
    t = h * np.arange(1, int(16 / h) + 2, dtype=truth.LONG)
    mu = ((1 - p) * a).sum()
    phi = np.ones(len(t), np.clongdouble)
    for unit, rate in zip(a, p, strict=True):
        phi = phi * (rate + (1 - rate) * np.exp(1j * unit * t))
    terms = np.real(np.exp(1j * mu * t) - phi) / (t * np.sinh(pi * t))
    variance = (p * (1 - p) * a**2).sum()
    top = max(mu, truth.LONG(0)) + np.log1p(np.exp(-abs(mu)))
    return top + h * (variance / (4 * pi) + terms.sum()), mu


@truth.needs_extended
@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 8).flatmap(
        lambda d: st.tuples(
            arrays(np.float64, d, elements=st.floats(-8, 8)), arrays(np.float64, d, elements=st.floats(0.01, 0.99))
        )
    ),
    st.sampled_from([1e-2, 1e-4, 1e-7, 1e-10]),
)
def test_the_aliasing_of_the_chosen_period_is_within_its_bound(case, eps):
    a, p = case
    a, p = a.astype(truth.LONG), p.astype(truth.LONG)
    centre = abs(float(((1 - p) * a).sum()))
    period = tail_bounds.period_for(centre, eps, *summary(a.astype(np.float64), p.astype(np.float64)))
    by_nodes, _ = softplus_by_nodes(a, p, period)
    s = truth.scores(a)
    exact = (truth.probabilities(p) * (np.maximum(s, 0) + np.log1p(np.exp(-np.abs(s))))).sum()
    aliasing = by_nodes - exact
    # Proven: never below the truth, and above it by no more than eps.
    assert -1e-16 * (1 + centre) <= float(aliasing) <= eps
