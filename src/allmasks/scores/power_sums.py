"""Many small units at once: the log of their characteristic function from power sums, without trigonometry.

For a common p, log(p + q e^{iθ}) = Σ_n c_n (iθ)^n with c_n = κ_n / n!, κ_n the cumulants of a Bernoulli(q). The
derivative has simple poles of residue 1 at log(p/q) + iπ(2k + 1), hence

    |c_n| ≤ (2 / n) Σ_{k ≥ 0} (π (2k + 1))^{−n} ≤ 2.2 / (n π^n)          for n ≥ 3,

and for |θ| ≤ 1 what 32 terms leave out is below 2.2 / 33 · π^{−33} / (1 − 1/π) < 4·10⁻¹⁸ a unit. So all such units of a
row need only Σ_j θ_j^n, n = 2 … 32: two operations a term and unit.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["TERMS", "WIDTH", "cumulant_terms", "power_sums", "series_at", "tilt_polynomial", "tilted_values"]

TERMS = 32
WIDTH = 32
"""Units summed side by side: enough independent chains to keep the processor's multipliers busy."""

_NEGLIGIBLE = 1e-8
"""Below this |θ| only the square counts, and higher powers would be denormal numbers, which are slow."""


def cumulant_terms(p: float) -> NDArray[np.float64]:
    """c_0 … c_TERMS of log(p + (1 − p) e^z) = Σ c_n z^n, correctly rounded (in rational arithmetic).

    >>> cumulant_terms(0.25)[:4]
    array([ 0.      ,  0.75    ,  0.09375 , -0.015625])
    """
    return np.array(_cumulant_terms(p))


@lru_cache(maxsize=64)
def _cumulant_terms(p: float) -> tuple[float, ...]:
    q = 1 - Fraction(p)
    g = [Fraction(1)] + [q / math.factorial(n) for n in range(1, TERMS + 1)]
    c = [Fraction(0)]
    for n in range(1, TERMS + 1):
        c.append(g[n] - sum((k * c[k] * g[n - k] for k in range(1, n)), Fraction(0)) / n)
    return tuple(float(v) for v in c)


@njit(cache=True, error_model="numpy")
def power_sums(a, lo, m, scale, theta, sums, lanes, power):  # type: ignore[no-untyped-def]
    """sums[n] = Σ_j θ_j^n over the units lo … m − 1, θ_j = scale a_j, n = 2 … TERMS."""
    count = m - lo
    padded = (count + WIDTH - 1) // WIDTH * WIDTH
    negligible = 0.0
    for j in range(count):
        value = scale * a[lo + j]
        if abs(value) < _NEGLIGIBLE:
            negligible += value * value
            value = 0.0
        theta[j] = value
    for j in range(count, padded):
        theta[j] = 0.0
    lanes[:] = 0.0
    for base in range(0, padded, WIDTH):
        part = theta[base : base + WIDTH]
        for i in range(WIDTH):
            power[i] = part[i]
        for n in range(2, TERMS + 1):
            row = lanes[n]
            for i in range(WIDTH):
                power[i] *= part[i]
                row[i] += power[i]
    for n in range(2, TERMS + 1):
        total = 0.0
        for i in range(WIDTH):
            total += lanes[n, i]
        sums[n] = total
    sums[2] += negligible


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def series_at(tau, weighted):  # type: ignore[no-untyped-def]
    """Real and imaginary part of Σ_{n=2}^{TERMS} weighted[n] (iτ)^n."""
    x = -tau * tau
    even, odd = weighted[TERMS], weighted[TERMS - 1]
    for n in range(TERMS - 2, 1, -2):
        even = even * x + weighted[n]
        if n > 2:
            odd = odd * x + weighted[n - 1]
    return even * x, odd * x * tau


@njit(cache=True, error_model="numpy")
def tilt_polynomial(coef, keep_prob, h, scale, n_nodes, hr, hi, polynomial):  # type: ignore[no-untyped-def]
    """Coefficients in θ of Im Σ_k H_k z_k / (p + q z_k), where z / (p + q z) = 1/q Σ_n n c_n (iθτ_k)^{n−1}."""
    polynomial[:] = 0.0
    for k in range(n_nodes):
        tau = (k + 1) * h / scale
        re, im = hr[k], hi[k]
        for n in range(1, TERMS + 1):
            polynomial[n - 1] += im
            # times iτ
            re, im = -im * tau, re * tau
    for n in range(1, TERMS + 1):
        polynomial[n - 1] *= n * coef[n] / keep_prob


@njit(cache=True, error_model="numpy", fastmath={"contract"})
def tilted_values(a, lo, m, scale, polynomial, theta):  # type: ignore[no-untyped-def]
    """theta[j] = the polynomial at scale · a of the units lo … m − 1."""
    for j in range(m - lo):
        x = scale * a[lo + j]
        total = polynomial[TERMS - 1]
        for n in range(TERMS - 2, -1, -1):
            total = total * x + polynomial[n]
        theta[j] = total
