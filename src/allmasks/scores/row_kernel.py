"""Logistic moments of one dropped-out score, the Fourier method's inner loop. Compiled on first use.

With contributions a, rates p and shift b, φ(t) = e^{ibt} Πⱼ (pⱼ + qⱼ e^{i aⱼ t}) and μ = E S:

    E log(1 + e^S) = log(1 + e^μ) + ∫₀^∞ Re(e^{iμt} − φ(t)) / (t sinh πt) dt
    E σ(S)         = σ(μ)         + ∫₀^∞ Im(φ(t) − e^{iμt}) / sinh(πt) dt
    E σ'(S)        = σ'(μ)        + ∫₀^∞ t Re(φ(t) − e^{iμt}) / sinh(πt) dt

by the trapezoid rule with step 2π/P and N nodes; `characteristic.py` bounds what that is off by. A few huge units are
enumerated and the others transformed, given each of their joint states; many small ones of a common p enter by their
power sums (`power_sums.py`), the rest node by node.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from allmasks.scores.power_sums import TERMS, WIDTH, power_sums, series_at, tilt_polynomial, tilted_values
from allmasks.scores.tail_bounds import last_node_at, log_mgf_bound, period_for, statistics
from allmasks.scores.unit_order import largest_to_front, small_to_back

__all__ = ["MAX_ENUMERATED", "lane_powers", "logistic_row", "sigmoid", "softplus", "workspace"]

LANES = 8
MAX_ENUMERATED = 16
_FEW = 24
"""Fewer small units than this are not worth a series."""
_DEAD = -41.0
"""log|φ| from which on a node counts as 0: an error of 1.6e-18 of something at most 1."""
_EPS = 2.220446049250313e-16


@njit(cache=True)
def workspace(max_nodes, d):  # type: ignore[no-untyped-def]
    """Scratch space of one thread: eight arrays by node, two of lanes, and those of the power sums."""
    n = max_nodes + LANES
    return (
        np.empty((8, n)),
        np.empty(LANES),
        np.empty(LANES),
        np.empty(d + WIDTH),
        np.empty(TERMS + 1),
        np.empty((TERMS + 1, WIDTH)),
        np.empty(WIDTH),
    )


@njit(cache=True)
def softplus(s):  # type: ignore[no-untyped-def]
    return max(s, 0.0) + math.log1p(math.exp(-abs(s)))


@njit(cache=True)
def sigmoid(s):  # type: ignore[no-untyped-def]
    if s >= 0:
        return 1.0 / (1.0 + math.exp(-s))
    e = math.exp(s)
    return e / (1.0 + e)


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def lane_powers(theta, zr, zi):  # type: ignore[no-untyped-def]
    """z = e^{iθ}: fills the lanes with z … z^LANES and returns z^LANES."""
    zr[0], zi[0] = math.cos(theta), math.sin(theta)
    for lane in range(1, LANES):
        half = (lane + 1) // 2 - 1
        other = lane - half - 1
        zr[lane] = zr[half] * zr[other] - zi[half] * zi[other]
        zi[lane] = zr[half] * zi[other] + zi[half] * zr[other]
    return zr[LANES - 1], zi[LANES - 1]


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _multiply_factors(a, p, lo, m, h, n_nodes, trim, phr, phi, zr, zi):  # type: ignore[no-untyped-def]
    """phr + i phi *= Πⱼ (pⱼ + qⱼ e^{i aⱼ k h}), k = 1 … n_nodes. Returns the nodes still alive.

    Every factor is at most 1 in size, so a node that has died (trim) stays dead and need not be carried on.
    """
    for j in range(lo, m):
        steps = (n_nodes + LANES - 1) // LANES
        pj = p[j]
        qj = 1.0 - pj
        sr, si = lane_powers(a[j] * h, zr, zi)
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
        if trim and j % 16 == 15:
            while n_nodes > 0 and phr[n_nodes - 1] ** 2 + phi[n_nodes - 1] ** 2 < 2.4e-36:
                n_nodes -= 1
    return n_nodes


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _tilted_sum(a, p, h, n_nodes, hr, hi, zr, zi):  # type: ignore[no-untyped-def]
    """Σ_k Im(H_k z_k / (p + q z_k)) with z_k = e^{iakh}: the factor divided out is the very one multiplied in."""
    steps = (n_nodes + LANES - 1) // LANES
    q = 1.0 - p
    sr, si = lane_powers(a * h, zr, zi)
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


@njit(cache=True, error_model="numpy")
def _characteristic_function(units, lo, m, coef, var, h, n_nodes, trim, work):  # type: ignore[no-untyped-def]
    """φ of the units lo … m − 1 into the first two rows of the workspace, a round-off bound into the third.

    Small units of a common p (coef) come in centered. Returns where they begin, the nodes that are alive, and the
    scale under which their power sums were taken.
    """
    nodes, zr, zi, theta, sums, lanes, power = work
    phr, phi, off, size = nodes[0], nodes[1], nodes[2], nodes[3]
    padded = (n_nodes + LANES - 1) // LANES * LANES
    phr[:padded], phi[:padded], off[:padded], size[:padded] = 1.0, 0.0, 0.0, 1.0
    a, p = units[0], units[1]
    first, alive, scale = m, n_nodes, 1.0
    if n_nodes > 0 and len(coef) > 0 and m - lo >= _FEW:
        covered = n_nodes
        if var > 0.0:
            covered = min(n_nodes, int(math.sqrt(90.0 / var) / h) + 1)
        while True:
            # Up to |a| t = 1 the series holds. Up to π each unit's |factor| falls with t, so that past a dead node
            # all are dead.
            scale = covered * h
            first = small_to_back(units, lo, m, min(1.0 / scale, 3.14 / (n_nodes * h)))
            count = m - first
            if count < _FEW:
                first = m
                break
            power_sums(a, first, m, scale, theta, sums, lanes, power)
            squares = sums[2]
            for n in range(2, TERMS + 1):
                sums[n] *= coef[n]
            if covered == n_nodes or series_at(1.0, sums)[0] < _DEAD:
                break
            covered = min(n_nodes, 2 * covered)
        if first < m:
            pq = p[first] * (1.0 - p[first])
            alive = covered
            for k in range(covered):
                tau = (k + 1) * h / scale
                log_size, angle = series_at(tau, sums)
                if log_size < _DEAD:
                    alive = k
                    break
                size[k] = math.exp(log_size)
                phr[k], phi[k] = size[k] * math.cos(angle), size[k] * math.sin(angle)
                # Σ_{n ≥ 3} |c_n| < 0.03, and no power sum exceeds the sum of squares.
                relative = (count / WIDTH + 44.0) * (0.5 * pq + 0.03) * squares * tau * tau + 6.0
                off[k] = size[k] * (_EPS * relative + 4e-18 * count)
    if first > lo:
        before = alive
        alive = _multiply_factors(a, p, lo, first, h, alive, trim, phr, phi, zr, zi)
        for k in range(before):
            # z^LANES is off by at most 20 units in the last place and its powers by 22 more a step. (Not relative
            # to φ: a factor near 0 loses its relative accuracy; but the product of the others is at most 1.)

            off[k] += _EPS * (first - lo) * (26.0 + 22.0 * (k // LANES + 1)) * size[k]
    for k in range(alive, padded):
        phr[k], phi[k] = 0.0, 0.0
        off[k] += 2e-18
    return first, alive, scale


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def logistic_row(  # type: ignore[no-untyped-def]
    units, m, b, magnitude, n_terms, coef, tol, max_nodes, want_grad, work, out, slopes
):
    """Moments of one row: out = penalty, its error, E σ(S), E σ'(S), μ. False where it needs too many nodes.

    slopes[column] = E[σ(S) mⱼ] / qⱼ where asked for. magnitude ≥ |S| is what round-off is relative to, and n_terms
    the number of terms of the longest sum. The arrays in `units` are put in another order.
    """
    a, p, sub_gaussian, column = units
    nodes, zr, zi, theta, sums, _, _ = work
    phr, phi, off, er, ei, cr, ci = nodes[0], nodes[1], nodes[2], nodes[4], nodes[5], nodes[6], nodes[7]
    mu, total = b, abs(b)
    for j in range(m):
        mu += a[j] * (1.0 - p[j])
        total += abs(a[j])
    eps = min(0.01 * tol * (1.0 + abs(mu)), 0.01)
    t_end = last_node_at(eps)

    # How many units to enumerate: none if the transform alone is cheap, else what costs least.
    sub, var, largest, reach = statistics(a, p, sub_gaussian, 0, m)
    variance = var
    chosen = -1
    period = 0.0
    if log_mgf_bound(1.0, sub, var, largest, reach) - abs(mu) <= math.log(eps):
        chosen = 0  # saturated: no node at all
    else:
        period = period_for(abs(mu), eps, sub, var, largest, reach)
        if period * t_end <= 2.0 * math.pi * min(max_nodes, 256):
            chosen = 0
    if chosen < 0:
        limit = min(m, MAX_ENUMERATED)
        largest_to_front(units, m, limit)
        best = math.inf
        for k in range(limit + 1):
            s, v, top, r = statistics(a, p, sub_gaussian, k, m)
            log_mgf = log_mgf_bound(1.0, s, v, top, r)
            centre = abs(mu)
            if k > 0:
                # States centred further out are saturated.
                centre = max(min(abs(mu) + total, log_mgf - math.log(eps)), 0.0)
            candidate = period_for(centre, eps, s, v, top, r) if k < m else 0.0
            n = candidate * t_end / (2.0 * math.pi) + 1.0
            if n > max_nodes:
                continue
            cost = 2.0**k * (n + 20.0) + (m - k) * (n + 20.0)
            if cost < best:
                best, chosen, period = cost, k, candidate
        if chosen < 0:
            return False
        sub, var, largest, reach = statistics(a, p, sub_gaussian, chosen, m)
    log_mgf = log_mgf_bound(1.0, sub, var, largest, reach)
    h = 0.0
    n_nodes = 0
    if period > 0.0:
        h = 2.0 * math.pi / period
        n_nodes = math.ceil(t_end / h)
        if n_nodes > max_nodes:
            return False
    padded = (n_nodes + LANES - 1) // LANES * LANES

    first_small, alive, scale = _characteristic_function(units, chosen, m, coef, var, h, n_nodes, not want_grad, work)
    # Units that come in by their factors bring their mean along; the small ones are centered already.
    factor_mean = rest_mean = 0.0
    for j in range(chosen, m):
        rest_mean += a[j] * (1.0 - p[j])
        if j < first_small:
            factor_mean += a[j] * (1.0 - p[j])

    # States of the enumerated units: their mean score adds to C(t) = Σ P e^{iμ_c t} unless it is saturated.
    for k in range(padded):
        cr[k], ci[k] = 0.0, 0.0
    value = lost = slope = curvature = transformed = error = 0.0
    n_transformed = 0
    for state in range(1 << chosen):
        weight, centre = 1.0, b + rest_mean
        for j in range(chosen):
            if state >> j & 1:
                weight *= 1.0 - p[j]
                centre += a[j]
            else:
                weight *= p[j]
        sigma = sigmoid(centre)
        # Compensated, so that the number of states does not show in the rounding.
        term = weight * softplus(centre) - lost
        new = value + term
        lost = (new - value) - term
        value = new
        slope += weight * sigma
        curvature += weight * sigma * (1.0 - sigma)
        if chosen == m:
            continue
        saturation = math.exp(min(log_mgf - abs(centre), 0.0)) + math.exp(-abs(centre))
        if saturation <= 2.0 * eps or n_nodes == 0:
            error += weight * saturation
            continue
        transformed += weight
        n_transformed += 1
        step_r, step_i = lane_powers(centre * h, zr, zi)
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
        n_nodes = alive = padded = 0

    # The three integrals, whose first node, t = 0, gives half of σ²/2π, 0 and 0.
    # A variance beyond the largest double is one of saturated scores.
    value_part = 0.25 * var / math.pi * transformed if transformed > 0.0 else 0.0
    slope_part = curvature_part = 0.0
    round_off = 16.0 * _EPS * value_part
    turn_r, turn_i = lane_powers(-factor_mean * h, zr, zi)
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
            inverse_sinh = -2.0 * math.exp(-math.pi * t) / math.expm1(-2.0 * math.pi * t)
            dr, di = cr[k] * x - ci[k] * y, cr[k] * y + ci[k] * x
            fr, fi = dr * phr[k] - di * phi[k], dr * phi[k] + di * phr[k]
            value_part += (cr[k] - fr) * inverse_sinh / t
            slope_part += (fi - ci[k]) * inverse_sinh
            curvature_part += t * (fr - cr[k]) * inverse_sinh
            # Rounding of C, of its turned copy and of φ; then of this term and of the sum it enters.
            apart = abs(cr[k] - fr) + abs(ci[k] - fi)
            powers = 3.0 * (26.0 + 22.0 * (s + 1.0)) + chosen + 0.5 * n_transformed
            off_here = transformed * (_EPS * powers + off[k]) + _EPS * (0.5 * n_nodes + 12.0) * apart
            round_off += off_here * inverse_sinh * max(1.0 / t, t)
            if want_grad:
                factor = h * inverse_sinh
                er[k] = factor * (dr * phr[k] - di * phi[k])
                ei[k] = factor * (dr * phi[k] + di * phr[k])
    penalty = h * value_part
    if chosen > 0:
        penalty = value - softplus(mu) + penalty
    if variance == 0.0:
        penalty = 0.0
    error += h * round_off
    error += _EPS * ((n_terms + 12.0) * magnitude + 16.0 + (4.0 + chosen) * abs(value))
    out[0] = penalty
    out[1] = error
    out[2] = slope + h * slope_part
    out[3] = max(curvature + h * curvature_part, 0.0)
    out[4] = mu
    if want_grad:
        shared = slope
        for k in range(n_nodes):
            t = (k + 1) * h
            shared += h * ci[k] * 2.0 * math.exp(-math.pi * t) / math.expm1(-2.0 * math.pi * t)
        at_zero = h * transformed / (2.0 * math.pi)
        for j in range(chosen, first_small):
            tilted = _tilted_sum(a[j], p[j], h, alive, er, ei, zr, zi) if n_nodes > 0 else 0.0
            slopes[column[j]] = shared + at_zero * p[j] * a[j] + tilted
        if first_small < m:
            tilt_polynomial(coef, 1.0 - p[first_small], h, scale, alive, er, ei, sums)
            tilted_values(a, first_small, m, scale, sums, theta)
            for j in range(first_small, m):
                slopes[column[j]] = shared + at_zero * p[j] * a[j] + theta[j - first_small]
        if chosen > 0:
            _enumerated_slopes(units, chosen, m, b + rest_mean, factor_mean, h, n_nodes, log_mgf, eps, phr, phi, slopes)
    return True


@njit(cache=True, error_model="numpy")
def _enumerated_slopes(  # type: ignore[no-untyped-def]
    units, n_enumerated, m, start, factor_mean, h, n_nodes, log_mgf, eps, phr, phi, slopes
):
    """E[σ(S) mⱼ] / qⱼ of the enumerated units: E[σ | state] summed over the states that keep them."""
    a, p, _, column = units
    for j in range(n_enumerated):
        slopes[column[j]] = 0.0
    for state in range(1 << n_enumerated):
        weight, centre = 1.0, start
        for j in range(n_enumerated):
            if state >> j & 1:
                weight *= 1.0 - p[j]
                centre += a[j]
            else:
                weight *= p[j]
        mean = sigmoid(centre)
        saturation = math.exp(min(log_mgf - abs(centre), 0.0)) + math.exp(-abs(centre))
        if n_enumerated < m and saturation > 2.0 * eps:
            for k in range(n_nodes):
                t = (k + 1) * h
                angle = (centre - factor_mean) * t
                part = math.cos(angle) * phi[k] + math.sin(angle) * phr[k] - math.sin(centre * t)
                mean -= h * part * 2.0 * math.exp(-math.pi * t) / math.expm1(-2.0 * math.pi * t)
        for j in range(n_enumerated):
            if state >> j & 1:
                slopes[column[j]] += weight * mean / (1.0 - p[j])
