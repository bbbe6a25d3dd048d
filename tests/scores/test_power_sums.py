"""The series of log(p + q e^{iθ}): its coefficients, its remainder, and what the row kernel takes from it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allmasks.scores import power_sums
from scores import truth

rates = st.floats(1e-6, 1 - 1e-6)


@settings(deadline=None)
@given(rates)
def test_coefficients_are_cumulants_and_within_their_bound(p):
    c = power_sums.cumulant_terms(p)
    q = 1 - p
    cumulants = [0, q, p * q, p * q * (p - q), p * q * (1 - 6 * p * q)]
    for n in range(1, 5):
        assert c[n] * math.factorial(n) == pytest.approx(cumulants[n], rel=1e-9, abs=1e-15)
    for n in range(3, power_sums.TERMS + 1):
        assert abs(c[n]) <= 2.2 / (n * math.pi**n) * (1 + 1e-12)


@truth.needs_extended
@settings(deadline=None)
@given(rates, st.floats(-1, 1))
def test_what_the_series_leaves_out_is_below_4e_18(p, theta):
    c = [truth.LONG(v) for v in power_sums.cumulant_terms(p)]
    z = 1j * np.clongdouble(theta)
    series = sum((c[n] * z**n for n in range(1, power_sums.TERMS + 1)), np.clongdouble(0))
    exact = np.log(truth.LONG(p) + (1 - truth.LONG(p)) * np.exp(z))
    # Coefficients are rounded to double: 1e-16 of Σ |cₙ θⁿ|, which is about |θ| at most.
    assert abs(series - exact) <= 4e-18 + 2.3e-16 * abs(theta)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_power_sums_are_power_sums(m, seed):
    rng = np.random.default_rng(seed)
    a = rng.uniform(-1, 1, m) * 10.0 ** rng.uniform(-12, 0, m)
    lo = m // 3
    sums = np.zeros(power_sums.TERMS + 1)
    lanes = np.zeros((power_sums.TERMS + 1, power_sums.WIDTH))
    power_sums.power_sums(a, lo, m, 0.9, np.empty(m + power_sums.WIDTH), sums, lanes, np.empty(power_sums.WIDTH))
    for n in range(2, power_sums.TERMS + 1):
        exact = float(((0.9 * a[lo:].astype(truth.LONG)) ** n).sum())
        size = float((np.abs(0.9 * a[lo:].astype(truth.LONG)) ** n).sum())
        assert abs(sums[n] - exact) <= 1e-14 * size + 1e-24


@settings(deadline=None)
@given(st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_series_is_evaluated_as_written(tau, seed):
    weighted = np.random.default_rng(seed).standard_normal(power_sums.TERMS + 1)
    exact = sum(weighted[n] * (1j * tau) ** n for n in range(2, power_sums.TERMS + 1))
    assert power_sums.series_at(tau, weighted) == pytest.approx((exact.real, exact.imag), rel=1e-12, abs=1e-12)
