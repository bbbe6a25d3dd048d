"""The Fourier method's inner loops, compiled on first use: logistic moments of one score at a time.

For a row with contributions a, rates p and shift b, with φ(t) = e^{ibt} Πⱼ (pⱼ + qⱼ e^{i aⱼ t}) and μ = E S:

    E log(1 + e^S) = log(1 + e^μ) + ∫₀^∞ Re(e^{iμt} − φ(t)) / (t sinh πt) dt
    E σ(S)         = σ(μ)         + ∫₀^∞ Im(φ(t) − e^{iμt}) / sinh(πt) dt
    E σ'(S)        = σ'(μ)        + ∫₀^∞ t Re(φ(t) − e^{iμt}) / sinh(πt) dt

by the trapezoid rule with step 2π/P and N nodes. What that is off by is bounded, not guessed (`fourier.py` has the
proof): aliasing by 2/λ² e^{−λP} / (1 − e^{−λP}) · E[e^{λS} + e^{−λS}] for any λ in (0, 1], where the moment
generating function is bounded by the smallest of three proven forms; the tail by ∫ of 2 max(1, t)/sinh(πt).

A few huge units are enumerated and the others transformed, given each of their joint states.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

__all__ = ["STATUS_REFUSED", "dense_rows", "sparse_rows"]

STATUS_REFUSED = 1
LANES = 8
_MAX_ENUMERATED = 16
_EPS = 2.220446049250313e-16


@njit(cache=True)
def _softplus(s):  # type: ignore[no-untyped-def]
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


@njit(cache=True)
def _sigmoid(s):  # type: ignore[no-untyped-def]
    if s >= 0:
        return 1.0 / (1.0 + math.exp(-s))
    e = math.exp(s)
    return e / (1.0 + e)


@njit(cache=True)
def _kearns_saul(p):  # type: ignore[no-untyped-def]
    """v with log E e^{λ(B − q)} ≤ λ² v for every λ: (1 − 2p) / (4 log((1 − p) / p)) (Kearns & Saul 1998)."""
    if abs(p - 0.5) < 1e-6:
        return 0.1250001
    return (1.0 - 2.0 * p) / (4.0 * math.log((1.0 - p) / p)) * (1.0 + 1e-12)


@njit(cache=True)
def _log_mgf_bound(lam, sub, var, largest, reach):  # type: ignore[no-untyped-def]
    """Bounds log E e^{±λ(S − μ)}: sub-Gaussian, Bennett's, and by the reach of S, whichever is least."""
    best = min(lam * lam * sub, lam * reach)
    z = lam * largest
    if z < 1e-4:
        return min(best, 0.5 * var * lam * lam * (1.0 + z))
    if z < 600.0:
        return min(best, var / (largest * largest) * (math.expm1(z) - z))
    return best


@njit(cache=True)
def _period(centre, eps, sub, var, largest, reach):  # type: ignore[no-untyped-def]
    """Smallest period P for which the aliasing bound is at most eps, for scores centred within ±centre."""
    best = math.inf
    lam = 1.0
    for _ in range(40):
        log_mgf = _log_mgf_bound(lam, sub, var, largest, reach)
        # 4.1 = 2 (two signs) · 2 / (1 − e^{−λP}), and λP > 30 here
        period = centre + (log_mgf + math.log(4.1 / (lam * lam * eps))) / lam
        best = min(best, period)
        lam *= 0.8
    return best


@njit(cache=True)
def _last_node_at(eps):  # type: ignore[no-untyped-def]
    """T with ∫_T^∞ 2 max(1, t)/sinh(πt) · 2 dt ≤ eps."""
    t = 1.0
    for _ in range(60):
        t = math.log(8.0 * (t + 1.0) / (math.pi * eps)) / math.pi
    return max(t, 1.0)


@njit(cache=True)
def _move_largest_first(a, p, column, m, k):  # type: ignore[no-untyped-def]
    """Swap the k units of largest |a| to the front, largest first."""
    for i in range(k):
        top = i
        for j in range(i + 1, m):
            if abs(a[j]) > abs(a[top]):
                top = j
        a[i], a[top] = a[top], a[i]
        p[i], p[top] = p[top], p[i]
        column[i], column[top] = column[top], column[i]


@njit(cache=True)
def _statistics(a, p, lo, m):  # type: ignore[no-untyped-def]
    """Of the units lo … m − 1: sub-Gaussian constant, variance, largest deviation of one, reach of the sum."""
    sub = var = largest = up = down = 0.0
    for j in range(lo, m):
        q = 1.0 - p[j]
        sq = a[j] * a[j]
        sub += sq * _kearns_saul(p[j])
        var += sq * p[j] * q
        largest = max(largest, abs(a[j]) * max(p[j], q))
        if a[j] > 0:
            up += a[j] * p[j]
            down += a[j] * q
        else:
            up -= a[j] * q
            down -= a[j] * p[j]
    return sub, var, largest, max(up, down)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _multiply_factors(a, p, lo, m, h, n_nodes, phr, phi, zr, zi):  # type: ignore[no-untyped-def]
    """phr + i phi *= Πⱼ (pⱼ + qⱼ e^{i aⱼ k h}), k = 1 … n_nodes (padded to whole lanes)."""
    steps = (n_nodes + LANES - 1) // LANES
    for j in range(lo, m):
        pj = p[j]
        qj = 1.0 - pj
        sr, si = _powers(a[j] * h, zr, zi)
        for s in range(steps):
            base = s * LANES
            for lane in range(LANES):
                x, y = zr[lane], zi[lane]
                fr, fi = pj + qj * x, qj * y
                r, i = phr[base + lane], phi[base + lane]
                phr[base + lane] = r * fr - i * fi
                phi[base + lane] = r * fi + i * fr
                zr[lane] = x * sr - y * si
                zi[lane] = x * si + y * sr


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _powers(theta, zr, zi):  # type: ignore[no-untyped-def]
    """z = e^{iθ}: fills the lanes with z … z^LANES and returns z^LANES."""
    zr[0], zi[0] = math.cos(theta), math.sin(theta)
    for lane in range(1, LANES):
        half = (lane + 1) // 2 - 1
        other = lane - half - 1
        zr[lane] = zr[half] * zr[other] - zi[half] * zi[other]
        zi[lane] = zr[half] * zi[other] + zi[half] * zr[other]
    return zr[LANES - 1], zi[LANES - 1]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _tilted_sum(a, p, h, n_nodes, hr, hi, zr, zi):  # type: ignore[no-untyped-def]
    """Σ_k Im(H_k z_k / (p + q z_k)) with z_k = e^{iakh}: the factor divided out is the very one multiplied in."""
    steps = (n_nodes + LANES - 1) // LANES
    q = 1.0 - p
    sr, si = _powers(a * h, zr, zi)
    total = 0.0
    for s in range(steps):
        base = s * LANES
        for lane in range(LANES):
            x, y = zr[lane], zi[lane]
            fr, fi = p + q * x, q * y
            square = fr * fr + fi * fi
            # z conj(f), imaginary part of its product with H
            ur, ui = x * fr + y * fi, y * fr - x * fi
            term = hr[base + lane] * ui + hi[base + lane] * ur
            total += term / square if square > 0.0 else 0.0
            zr[lane] = x * sr - y * si
            zi[lane] = x * si + y * sr
    return total


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _row(a, p, column, m, b, tol, max_nodes, want_grad, work, out, slopes):  # type: ignore[no-untyped-def]
    """Moments of one row; see `dense_rows` for `out`. slopes[column] = E[σ(S) mⱼ] / qⱼ where asked for."""
    phr, phi, er, ei, cr, ci, zr, zi = work
    mean_random = 0.0
    total = abs(b)
    for j in range(m):
        mean_random += a[j] * (1.0 - p[j])
        total += abs(a[j])
    mu = b + mean_random
    eps = 0.01 * tol * (1.0 + abs(mu))
    t_end = _last_node_at(eps)

    # How many units to enumerate: none if the transform alone is cheap, else what costs least.
    sub, var, largest, reach = _statistics(a, p, 0, m)
    variance = var
    n_enumerated = 0
    chosen = -1
    period = 0.0
    if _log_mgf_bound(1.0, sub, var, largest, reach) - abs(mu) <= math.log(eps):
        chosen = 0  # saturated: no node at all
    else:
        period = _period(abs(mu), eps, sub, var, largest, reach)
        if period * t_end <= 2.0 * math.pi * min(max_nodes, 256):
            chosen = 0
    if chosen < 0:
        limit = min(m, _MAX_ENUMERATED)
        _move_largest_first(a, p, column, m, limit)
        best = math.inf
        for k in range(limit + 1):
            s, v, top, r = _statistics(a, p, k, m)
            log_mgf = _log_mgf_bound(1.0, s, v, top, r)
            centre = min(abs(mu) + (0.0 if k == 0 else total), log_mgf - math.log(eps))
            if k == 0:
                centre = abs(mu)
            candidate = _period(max(centre, 0.0), eps, s, v, top, r) if k < m else 0.0
            nodes = candidate * t_end / (2.0 * math.pi)
            if nodes > max_nodes:
                continue
            cost = 2.0**k * (nodes + 20.0) + (m - k) * (nodes + 20.0)
            if cost < best:
                best, chosen, period = cost, k, candidate
        if chosen < 0:
            return STATUS_REFUSED
    n_enumerated = chosen
    sub, var, largest, reach = _statistics(a, p, n_enumerated, m)
    log_mgf = _log_mgf_bound(1.0, sub, var, largest, reach)
    rest_mean = 0.0
    for j in range(n_enumerated, m):
        rest_mean += a[j] * (1.0 - p[j])
    h = 0.0
    n_nodes = 0
    if period > 0.0:
        h = 2.0 * math.pi / period
        n_nodes = math.ceil(t_end / h)
        if n_nodes > max_nodes:
            return STATUS_REFUSED
    padded = (n_nodes + LANES - 1) // LANES * LANES

    # φ of the transformed units, without any shift.
    for k in range(padded):
        phr[k], phi[k] = 1.0, 0.0
        cr[k], ci[k] = 0.0, 0.0
    _multiply_factors(a, p, n_enumerated, m, h, n_nodes, phr, phi, zr, zi)

    # States of the enumerated units: their mean score adds to C(t) = Σ P e^{iμ_c t} unless it is saturated.
    value = slope = curvature = transformed = error = 0.0
    states = 1 << n_enumerated
    for state in range(states):
        weight, centre = 1.0, b + rest_mean
        for j in range(n_enumerated):
            if state >> j & 1:
                weight *= 1.0 - p[j]
                centre += a[j]
            else:
                weight *= p[j]
        sigma = _sigmoid(centre)
        value += weight * _softplus(centre)
        slope += weight * sigma
        curvature += weight * sigma * (1.0 - sigma)
        if n_enumerated == m:
            continue
        saturation = math.exp(min(log_mgf - abs(centre), 0.0)) + math.exp(-abs(centre))
        if saturation <= 2.0 * eps or n_nodes == 0:
            error += weight * saturation
            continue
        transformed += weight
        step_r, step_i = _powers(centre * h, zr, zi)
        for s in range(padded // LANES):
            for lane in range(LANES):
                x, y = zr[lane], zi[lane]
                cr[s * LANES + lane] += weight * x
                ci[s * LANES + lane] += weight * y
                zr[lane] = x * step_r - y * step_i
                zi[lane] = x * step_i + y * step_r
    if transformed > 0.0:
        error += 3.0 * eps
    elif n_nodes > 0:
        n_nodes = 0

    # The three integrals. Turning C by the transformed units' mean puts φ's shift back.
    round_off = 0.0
    value_part = 0.5 * var / (2.0 * math.pi) * transformed
    slope_part = 0.0
    curvature_part = 0.0  # the integrands of E σ and E σ' vanish at t = 0
    turn_r, turn_i = _powers(-rest_mean * h, zr, zi)
    units = m - n_enumerated + 1
    if n_nodes > 0:
        for s in range(padded // LANES):
            for lane in range(LANES):
                k = s * LANES + lane
                x, y = zr[lane], zi[lane]
                zr[lane] = x * turn_r - y * turn_i
                zi[lane] = x * turn_i + y * turn_r
                er[k], ei[k] = 0.0, 0.0
                if k >= n_nodes:
                    continue
                t = (k + 1) * h
                decay = math.exp(-math.pi * t)
                inverse_sinh = 2.0 * decay / (1.0 - decay * decay)
                dr, di = cr[k] * x - ci[k] * y, cr[k] * y + ci[k] * x
                fr, fi = dr * phr[k] - di * phi[k], dr * phi[k] + di * phr[k]
                value_part += (cr[k] - fr) * inverse_sinh / t
                slope_part += (fi - ci[k]) * inverse_sinh
                curvature_part += t * (fr - cr[k]) * inverse_sinh
                size = math.sqrt(fr * fr + fi * fi)
                # Each factor carries the error of its power of z: a few units in the last place for each step.
                relative = _EPS * (units * (4.0 + 3.0 * (s + 3.0)) * size + 4.0 * (s + 4.0) * transformed)
                round_off += relative * inverse_sinh * max(1.0 / t, t)
                er[k], ei[k] = h * inverse_sinh * dr * phr[k], h * inverse_sinh * dr * phi[k]
                er[k] -= h * inverse_sinh * di * phi[k]
                ei[k] += h * inverse_sinh * di * phr[k]
    penalty = value - _softplus(mu) + h * value_part
    error += h * round_off + _EPS * ((m + 12.0) * total + 16.0 + 4.0 * abs(value) + n_enumerated)
    if n_enumerated == 0:
        penalty = h * value_part
        if n_nodes == 0:
            penalty = 0.0
    if variance == 0.0:
        penalty = 0.0
    out[0] = penalty
    out[1] = error
    out[2] = slope + h * slope_part
    out[3] = max(curvature + h * curvature_part, 0.0)
    out[4] = mu
    if want_grad:
        shared = slope
        for k in range(n_nodes):
            shared -= (
                h * ci[k] * 2.0 * math.exp(-math.pi * (k + 1) * h) / (1.0 - math.exp(-2.0 * math.pi * (k + 1) * h))
            )
        for j in range(n_enumerated, m):
            g = shared
            if n_nodes > 0:
                g += h * p[j] * a[j] * transformed / (2.0 * math.pi)
                g += _tilted_sum(a[j], p[j], h, n_nodes, er, ei, zr, zi)
            slopes[column[j]] = g
        for j in range(n_enumerated):
            slopes[column[j]] = 0.0
        if n_enumerated:
            _enumerated_slopes(
                a, p, column, n_enumerated, m, b + rest_mean, rest_mean, h, n_nodes, phr, phi, log_mgf, eps, slopes
            )
    return 0


@njit(cache=True, error_model="numpy")
def _enumerated_slopes(  # type: ignore[no-untyped-def]
    a, p, column, n_enumerated, m, start, rest_mean, h, n_nodes, phr, phi, log_mgf, eps, slopes
):
    """E[σ(S) mⱼ] / qⱼ of the enumerated units: E[σ | state] summed over the states that keep them."""
    for state in range(1 << n_enumerated):
        weight, centre = 1.0, start
        for j in range(n_enumerated):
            if state >> j & 1:
                weight *= 1.0 - p[j]
                centre += a[j]
            else:
                weight *= p[j]
        mean = _sigmoid(centre)
        saturation = math.exp(min(log_mgf - abs(centre), 0.0)) + math.exp(-abs(centre))
        if n_enumerated < m and saturation > 2.0 * eps:
            for k in range(n_nodes):
                t = (k + 1) * h
                decay = math.exp(-math.pi * t)
                angle = (centre - rest_mean) * t
                c, s = math.cos(angle), math.sin(angle)
                part = c * phi[k] + s * phr[k] - math.sin(centre * t)
                mean += h * part * 2.0 * decay / (1.0 - decay * decay)
        for j in range(n_enumerated):
            if state >> j & 1:
                slopes[column[j]] += weight * mean / (1.0 - p[j])


@njit(cache=True)
def _workspace(max_nodes):  # type: ignore[no-untyped-def]
    n = max_nodes + LANES
    return (
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(n),
        np.empty(LANES),
        np.empty(LANES),
    )


@njit(cache=True, parallel=True)
def dense_rows(X, per_unit, weights, rates, b, tol, max_nodes, share, y, grads, out, grad_w, grad_x):  # type: ignore[no-untyped-def]
    """Rows of a dense X. Returns the first refused row, or -1.

    out (n, 5) : penalty, its error, E σ(S), E σ'(S), μ.
    grads : 0 none; 1 weights; 2 weights and X. grad_w (chunks, d) is summed by the caller; grad_x (n, d).
    """
    n, d = X.shape
    chunks = len(grad_w)
    refused = np.full(chunks, -1, np.int64)
    for chunk in prange(chunks):
        a, p, column = np.empty(d), np.empty(d), np.empty(d, np.int64)
        slopes = np.empty(d)
        work = _workspace(max_nodes)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            shift, m = b, 0
            for j in range(d):
                contribution = X[i, j] * per_unit[j]
                if rates[j] == 0.0:
                    shift += contribution
                elif contribution != 0.0:
                    a[m], p[m], column[m] = contribution, rates[j], j
                    m += 1
            status = _row(a, p, column, m, shift, tol, max_nodes, grads > 0, work, out[i], slopes)
            if status == STATUS_REFUSED:
                if refused[chunk] < 0:
                    refused[chunk] = i
                continue
            if grads > 0:
                # A unit that adds nothing to the score is independent of it.
                for j in range(d):
                    g = out[i, 2]
                    if rates[j] != 0.0 and X[i, j] * per_unit[j] != 0.0:
                        g = slopes[j]
                    g -= y[i]
                    grad_w[chunk, j] += share[i] * X[i, j] * g
                    if grads > 1:
                        grad_x[i, j] = share[i] * weights[j] * g
    for chunk in range(chunks):
        if refused[chunk] >= 0:
            return refused[chunk]
    return -1


@njit(cache=True, parallel=True)
def sparse_rows(  # type: ignore[no-untyped-def]
    data, indices, indptr, per_unit, weights, rates, b, tol, max_nodes, share, y, grads, out, grad_w, grad_x
):
    """The same for CSR rows; grad_x (stored entries,) follows their pattern."""
    n = len(indptr) - 1
    chunks = len(grad_w)
    refused = np.full(chunks, -1, np.int64)
    longest = 0
    for i in range(n):
        longest = max(longest, indptr[i + 1] - indptr[i])
    for chunk in prange(chunks):
        a, p, column = np.empty(longest), np.empty(longest), np.empty(longest, np.int64)
        slopes = np.empty(longest)
        work = _workspace(max_nodes)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            first = indptr[i]
            length = indptr[i + 1] - first
            shift, m = b, 0
            for e in range(length):
                j = indices[first + e]
                contribution = data[first + e] * per_unit[j]
                if rates[j] == 0.0:
                    shift += contribution
                elif contribution != 0.0:
                    a[m], p[m], column[m] = contribution, rates[j], e
                    m += 1
            status = _row(a, p, column, m, shift, tol, max_nodes, grads > 0, work, out[i], slopes)
            if status == STATUS_REFUSED:
                if refused[chunk] < 0:
                    refused[chunk] = i
                continue
            if grads > 0:
                for e in range(length):
                    j = indices[first + e]
                    g = out[i, 2]
                    if rates[j] != 0.0 and data[first + e] * per_unit[j] != 0.0:
                        g = slopes[e]
                    g -= y[i]
                    grad_w[chunk, j] += share[i] * data[first + e] * g
                    if grads > 1:
                        grad_x[first + e] = share[i] * weights[j] * g
    for chunk in range(chunks):
        if refused[chunk] >= 0:
            return refused[chunk]
    return -1
