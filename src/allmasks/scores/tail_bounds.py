"""Where the Fourier rule may stop, proven: its period against aliasing, its last node, and the bounds behind them.

Compiled on first use; `characteristic.py` has the proofs.
"""

from __future__ import annotations

import math

from numba import njit

__all__ = ["kearns_saul", "last_node_at", "log_mgf_bound", "period_for", "quick_period_for", "statistics"]


@njit(cache=True)
def kearns_saul(p):  # type: ignore[no-untyped-def]
    """v with log E e^{λ(B − q)} ≤ λ² v for every λ: (1 − 2p) / (4 log((1 − p) / p)) (Kearns & Saul 1998)."""
    if p == 0.0:
        return 0.0
    if abs(p - 0.5) < 1e-6:
        return 0.1250001
    return (1.0 - 2.0 * p) / (4.0 * math.log((1.0 - p) / p)) * (1.0 + 1e-9)


@njit(cache=True)
def log_mgf_bound(lam, sub, var, largest, reach):  # type: ignore[no-untyped-def]
    """Bounds log E e^{±λ(S − μ)}: sub-Gaussian, Bennett's, and by the reach of S, whichever is least."""
    best = min(lam * lam * sub, lam * reach)
    z = lam * largest
    if z < 1e-4:
        best = min(best, 0.5 * var * lam * lam * (1.0 + z))
    elif z < 600.0:
        best = min(best, var / (largest * largest) * (math.expm1(z) - z))
    # Sums of up to millions of rounded numbers, rounded up: this is a bound.
    return best * (1.0 + 1e-9)


@njit(cache=True)
def period_for(centre, eps, sub, var, largest, reach):  # type: ignore[no-untyped-def]
    """Smallest period P for which the aliasing bound is at most eps ≤ 0.01, for scores centred within ±centre."""
    best = math.inf
    lam = 1.0
    for _ in range(40):
        log_mgf = log_mgf_bound(lam, sub, var, largest, reach)
        # 4.1 ≥ 2 (two signs) · 2 / (1 − e^{−λP}), since λP ≥ log(4.1 / eps) > 6.
        best = min(best, centre + (log_mgf + math.log(4.1 / (lam * lam * eps))) / lam)
        lam *= 0.8
    return best


@njit(cache=True)
def quick_period_for(centre, eps, sub, var, largest, reach):  # type: ignore[no-untyped-def]
    """As `period_for`, for three values of λ around the best for a Gaussian of that variance: every λ gives a bound."""
    best = math.inf
    size = math.log(4.1 / eps)
    exponent = 0.0
    if var > 2.0 * size:
        exponent = math.ceil(0.5 * math.log(2.0 * size / var) / math.log(0.8)) - 1.0
    lam = 0.8 ** max(exponent, 0.0)
    for _ in range(3 if var > size else 1):
        log_mgf = log_mgf_bound(lam, sub, var, largest, reach)
        best = min(best, centre + (log_mgf + math.log(4.1 / (lam * lam * eps))) / lam)
        lam *= 0.8
    return best


@njit(cache=True)
def last_node_at(eps):  # type: ignore[no-untyped-def]
    """T with ∫_T^∞ 2 max(1, t)/sinh(πt) · 2 dt ≤ eps."""
    t = 1.0
    for _ in range(60):
        t = math.log(8.0 * (t + 1.0) / (math.pi * eps)) / math.pi
    return max(t, 1.0)


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def statistics(a, p, sub_gaussian, lo, m):  # type: ignore[no-untyped-def]
    """Of the units lo … m − 1: sub-Gaussian constant, variance, largest deviation of one, reach of the sum."""
    sub = var = largest = up = down = 0.0
    for j in range(lo, m):
        q = 1.0 - p[j]
        square = a[j] * a[j]
        sub += square * sub_gaussian[j]
        var += square * p[j] * q
        largest = max(largest, abs(a[j]) * max(p[j], q))
        positive, negative = max(a[j], 0.0), max(-a[j], 0.0)
        up += positive * p[j] + negative * q
        down += positive * q + negative * p[j]
    return sub, var, largest, max(up, down)
