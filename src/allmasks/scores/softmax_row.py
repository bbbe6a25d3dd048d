"""One row's bounds of E log Σ e^{S_k} and E π_k over all masks, S_k = b_k + Σⱼ a_kj Bⱼ. Compiled.

Take α on the simplex, H = −Σ α log α and Y = Σ e^{S_k − α·S − H}. By Jensen's inequality Y ≥ 1 under every mask, and
log Σ e^{S_k} = α·S + H + log Y, whose first part is linear. `multisets` has the moments of Y, `remainders` the bounds
of E log Y, E[x_k / Y] and E[x_k² / Y²] that follow.

Of many classes those that matter are kept, with α on them alone, so that their own sum is 1 or more; the others, R in
sum, then add between 0 and E R to E log Y, and take as much from π_k at most.

Round-off: each product is off by `_relative` of itself, a count of its roundings, which `remainders` carries on.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from allmasks.scores.multisets import add_up, log_means, multisets, parts_of, product_means, slopes_of
from allmasks.scores.remainders import LOG, POWER, SQUARE, best_pair, central, expectation

__all__ = ["loss_row", "probability_row"]

_EPS = 2.0**-52

_TEMPERATURES = (1.0, 1.3, 1.7)

_MOST_CLASSES = 24
"""Classes in products of four at most: 20 475 products."""

_LARGEST = 1e200
"""Moments beyond are not used."""


@njit(cache=True)
def _relative(degree, classes, units, m, reach, farthest, products):  # type: ignore[no-untyped-def]
    """By how much of itself a sum of products of this degree may be off.

    Of exponents: contributions, their centering over the classes and the start; of factors: powers, products and sums.
    """
    exponents = 4.0 * degree * (2.0 * classes + units + 24.0) * (1.0 + reach)
    return (exponents + m * (2.0 * degree + 8.0) + 8.0 * farthest + products + 64.0) * _EPS


@njit(cache=True)
def _log_sum(values):  # type: ignore[no-untyped-def]
    top = values.max()
    total = 0.0
    for value in values:
        total += math.exp(value - top)
    return top + math.log(total)


@njit(cache=True)
def _tilt(a, b, mu, temperature, member, alpha, c, start):  # type: ignore[no-untyped-def]
    """α on the members, c_kj = a_kj − Σ α a, start_k = b_k − α·b − H of every class. Returns α·μ + H."""
    classes, m = a.shape
    top = -np.inf
    for k in range(classes):
        if member[k]:
            top = max(top, mu[k])
    total = 0.0
    for k in range(classes):
        alpha[k] = math.exp((mu[k] - top) / temperature) if member[k] else 0.0
        total += alpha[k]
    log_total, entropy, level, mean = math.log(total), 0.0, 0.0, 0.0
    for k in range(classes):
        if alpha[k] > 0:
            entropy -= alpha[k] / total * ((mu[k] - top) / temperature - log_total)
        alpha[k] /= total
        level += alpha[k] * b[k]
        mean += alpha[k] * mu[k]
    middle = np.zeros(m)
    for k in range(classes):
        if alpha[k] > 0:
            for j in range(m):
                middle[j] += alpha[k] * a[k, j]
    for k in range(classes):
        start[k] = b[k] - level - entropy
        for j in range(m):
            c[k, j] = a[k, j] - middle[j]
    return mean + entropy


@njit(cache=True)
def _settled(a, b, p, q, mu, temperature, remainder, work):  # type: ignore[no-untyped-def]
    """The classes whose others add no more than `remainder`, α on them. Returns α·μ + H, E R and the largest |log|."""
    member, alpha, c, start, logs = work
    member[:] = True
    base = _tilt(a, b, mu, temperature, member, alpha, c, start)
    farthest = log_means(c, start, p, q, logs)
    order = np.argsort(logs)
    dropped, rest = 0, 0.0
    for k in order[:-1]:
        rest += math.exp(min(logs[k], 700.0))
        if rest > remainder:
            break
        member[k] = False
        dropped += 1
    if dropped == 0:
        return base, 0.0, farthest
    base = _tilt(a, b, mu, temperature, member, alpha, c, start)
    farthest = log_means(c, start, p, q, logs)
    rest = 0.0
    for k in range(len(logs)):
        if not member[k]:
            rest += math.exp(min(logs[k], 700.0))
    return base, rest, farthest


@njit(cache=True)
def _means(c, start, p, q, member, degree):  # type: ignore[no-untyped-def]
    """(kept classes, powers, multisets, ways, sizes, means, largest |log|); no means where products are no doubles."""
    kept = np.flatnonzero(member)
    sets, ways, sizes = multisets(len(kept), degree)
    own, power = start[kept], c[kept]
    ends = parts_of(power, degree)
    if len(ends) == 0:
        return kept, power, sets, ways, sizes, np.empty(0), 0.0
    for k in range(len(kept)):
        for j in range(power.shape[1]):
            power[k, j] = math.exp(power[k, j])
    means = np.empty(len(sets))
    farthest = product_means(power, own, p, q, ends, sets, sizes, means)
    return kept, power, sets, ways, sizes, means, farthest


@njit(cache=True)
def _log_bounds(moments, rel, below, above):  # type: ignore[no-untyped-def]
    """Bounds of E log Y from moments 0 … N, N = 2 or 4; the polynomials' coefficients go into `below` and `above`."""
    n = len(moments) - 1
    u, off = np.empty(n + 1), np.empty(n + 1)
    central(moments, rel, u, off)
    u[0], off[0] = 1.0, 0.0
    if n == 2:
        one = best_pair(u[0], u[1], u[1] * u[1], 0.0)[0]
        high, wrong_high = expectation(LOG, np.array([one, one]), u, off, above)
        two = best_pair(u[1], u[2], 0.0, 0.0)[0]
        low, wrong_low = expectation(LOG, np.array([0.0, two, two]), u, off, below)
    else:
        a, b = best_pair(u[0], u[1], u[2], u[3])
        high, wrong_high = expectation(LOG, np.array([a, a, b, b]), u, off, above)
        a, b = best_pair(u[1], u[2], u[3], u[4])
        low, wrong_low = expectation(LOG, np.array([0.0, a, a, b, b]), u, off, below)
    return low - wrong_low, high + wrong_high


@njit(cache=True)
def _spread(a, p, q, mu):  # type: ignore[no-untyped-def]
    """√ Σ_k Var(S_k − S_0), 0 the class of the largest mean: E log Σ e^{S_k} is within it of that at the mean mask."""
    top, total = np.argmax(mu), 0.0
    for k in range(len(a)):
        for j in range(a.shape[1]):
            total += p[j] * q[j] * (a[k, j] - a[top, j]) ** 2
    return math.sqrt(total)


@njit(cache=True)
def loss_row(a, b, p, q, units, reach, tol, most, want_grad, slopes, to_bias):  # type: ignore[no-untyped-def]
    """Bounds of E log Σ e^{S_k}, and how many moments they took: (low, high, N).

    Parameters
    ----------
    a, b : (K, m) contributions of kept units, (K,) what no mask changes. p, q : (m,), each above 0.
    units : how many products each score adds up. reach : the largest sum of their magnitudes, of all classes.
    tol : half of a width that is narrow enough. most : moments at most, 2 or 4.
    slopes, to_bias : (K, m) and (K,), filled with the gradient of their middle by a and b, where wanted.
    """
    classes, m = a.shape
    mu = b.copy()
    for k in range(classes):
        for j in range(m):
            mu[k] += q[j] * a[k, j]
    sure = 16.0 * (classes + units + 24.0) * (1.0 + reach) * _EPS
    plain = _log_sum(mu)
    low, high, order = plain - sure, plain + _spread(a, p, q, mu) * (1 + 64 * _EPS * m) + sure, 1
    weights = np.exp(mu - plain)
    if want_grad:
        for k in range(classes):
            to_bias[k] = weights[k]
            for j in range(m):
                slopes[k, j] = weights[k] * q[j]
    if classes == 1 or m == 0:
        return plain - sure, plain + sure, order
    member, alpha = np.empty(classes, np.bool_), np.empty(classes)
    c, start, logs = np.empty((classes, m)), np.empty(classes), np.empty(classes)
    work = member, alpha, c, start, logs
    below, above = np.zeros(5), np.zeros(5)
    best_below, best_above = np.zeros(5), np.zeros(5)
    best, best_temperature, degree = high - low, 1.0, 0
    nothing = np.empty((0, 5))
    for temperature in _TEMPERATURES:
        base, rest, farthest = _settled(a, b, p, q, mu, temperature, 0.05 * tol, work)
        kept, _, sets, ways, sizes, means, also = _means(c, start, p, q, member, 2)
        # Jensen: E log Y ≤ log E Y, in logs and of all classes.
        log_mean = _log_sum(logs)
        error = sure + _relative(1, classes, units, m, reach, farthest, classes) * (1.0 + abs(log_mean))
        own_low, own_high = base - sure, base + log_mean + error
        scale = math.exp(-min(log_mean, 600.0)) if log_mean > 0 else 1.0
        below[:], above[:] = 0.0, 0.0
        above[1] = scale
        if len(means) > 0:
            moments = np.zeros(3)
            add_up(means, sets, ways, sizes, moments, nothing, nothing)
            if moments[2] < _LARGEST:
                rel = _relative(2, classes, units, m, reach, max(farthest, also), len(sets))
                one, two = _log_bounds(moments, rel, below, above)
                own_low = max(own_low, base + one - sure)
                own_high = min(own_high, base + two + rest * (1 + rel) + sure)
        if own_high - own_low < best:
            best, best_temperature, degree = own_high - own_low, temperature, 2
            low, high, order = own_low, own_high, 2
            best_below[:], best_above[:] = below, above
        if best <= 2 * tol or len(kept) > 64:
            break
    if most >= 4 and best > 2 * tol:
        base, rest, farthest = _settled(a, b, p, q, mu, best_temperature, 0.2 * tol, work)
        if member.sum() <= _MOST_CLASSES:
            kept, _, sets, ways, sizes, means, also = _means(c, start, p, q, member, 4)
            if len(means) > 0:
                moments = np.zeros(5)
                add_up(means, sets, ways, sizes, moments, nothing, nothing)
                if moments[4] < _LARGEST:
                    rel = _relative(4, classes, units, m, reach, max(farthest, also), len(sets))
                    one, two = _log_bounds(moments, rel, below, above)
                    own_low, own_high = base + one - sure, base + two + rest * (1 + rel) + sure
                    if own_high - own_low < high - low:
                        degree, order = 4, 4
                        low, high = own_low, own_high
                        best_below[:], best_above[:] = below, above
    if want_grad and degree > 0:
        remainder = 0.05 * tol if degree == 2 else 0.2 * tol
        _settled(a, b, p, q, mu, best_temperature, remainder, work)
        powers = 0.5 * (best_below + best_above)
        _gradient(c, start, p, q, member, alpha, degree, powers, slopes, to_bias)
    return low, high, order


@njit(cache=True)
def _gradient(c, start, p, q, member, alpha, degree, powers, slopes, to_bias):  # type: ignore[no-untyped-def]
    """Of α·S + H + Σ powers_n E Yⁿ, α held: ∂ by a_kj is αₖ qⱼ + Σ_ν g_ν (ν_k − |ν| αₖ) r_νj, by b_k without r."""
    classes, m = slopes.shape
    kept, power, sets, ways, sizes, means, _ = _means(c, start, p, q, member, degree)
    for k in range(classes):
        to_bias[k] = alpha[k]
        for j in range(m):
            slopes[k, j] = alpha[k] * q[j]
    if len(means) == 0:
        return
    weights = np.empty(len(sets))
    for r in range(len(sets)):
        weights[r] = powers[sizes[r]] * ways[r] * means[r]
        for i in range(sizes[r]):
            to_bias[kept[sets[r, i]]] += weights[r]
        for k in kept:
            to_bias[k] -= alpha[k] * sizes[r] * weights[r]
    out, total = np.zeros((len(kept), m)), np.zeros(m)
    slopes_of(power, p, q, sets, sizes, weights, out, total)
    for i in range(len(kept)):
        for j in range(m):
            slopes[kept[i], j] += out[i, j] - alpha[kept[i]] * total[j]


@njit(cache=True)
def _power_bounds(kind, moments, rel, unused):  # type: ignore[no-untyped-def]
    """Bounds of E[w / Y] or E[w / Y²] from E[w Yⁱ], i = 0 … n, w ≥ 0."""
    n = len(moments) - 1
    u, off = np.empty(n + 1), np.empty(n + 1)
    central(moments, rel, u, off)
    most = moments[0] * (1 + rel) + 1e-290
    if n == 0:
        return 0.0, most
    if n >= 3:
        a, b = best_pair(u[0], u[1], u[2], u[3])
        low, wrong_low = expectation(kind, np.array([a, a, b, b]), u, off, unused)
    else:
        a = best_pair(u[0], u[1], 0.0, 0.0)[0]
        low, wrong_low = expectation(kind, np.array([a, a]), u, off, unused)
    if n >= 2:
        a = best_pair(u[1], u[2], 0.0, 0.0)[0]
        high, wrong_high = expectation(kind, np.array([0.0, a, a]), u, off, unused)
    else:
        high, wrong_high = most, 0.0
    return max(0.0, low - wrong_low), min(most, high + wrong_high)


@njit(cache=True)
def probability_row(a, b, p, q, units, reach, tol, most, out):  # type: ignore[no-untyped-def]
    """out (K, 4): bounds of E π_k, then of E π_k². Returns how many moments they took."""
    classes, m = a.shape
    mu = b.copy()
    for k in range(classes):
        for j in range(m):
            mu[k] += q[j] * a[k, j]
        out[k, 0], out[k, 1], out[k, 2], out[k, 3] = 0.0, 1.0, 0.0, 1.0
    if classes == 1:
        out[0, 0] = out[0, 2] = 1.0
        return 1
    if m == 0:
        top = _log_sum(mu)
        error = min(1.0, 16.0 * (classes + units + 24.0) * (1.0 + reach) * _EPS)
        for k in range(classes):
            share = math.exp(mu[k] - top)
            out[k, 0], out[k, 1] = max(0.0, share - error), min(1.0, share + error)
            out[k, 2], out[k, 3] = out[k, 0] ** 2, out[k, 1] ** 2
        return 1
    member, alpha = np.empty(classes, np.bool_), np.empty(classes)
    c, start, logs = np.empty((classes, m)), np.empty(classes), np.empty(classes)
    _, rest, farthest = _settled(a, b, p, q, mu, 1.0, 0.05 * tol, (member, alpha, c, start, logs))
    degree = most if member.sum() <= _MOST_CLASSES else 2
    kept, _, sets, ways, sizes, means, also = _means(c, start, p, q, member, degree)
    first = _relative(1, classes, units, m, reach, farthest, classes)
    for k in range(classes):  # Y ≥ 1: π_k ≤ x_k
        out[k, 1] = min(1.0, math.exp(min(logs[k], 1.0)) * (1 + first) + 1e-290)
        out[k, 3] = out[k, 1]
    rel = _relative(degree, classes, units, m, reach, max(farthest, also), len(sets))
    rest = rest * (1 + rel)
    if len(means) > 0 and means.max() < _LARGEST and rel < 1:
        moments, unused = np.zeros(degree + 1), np.zeros(5)
        tilted, twice = np.zeros((len(kept), degree)), np.zeros((len(kept), degree - 1))
        add_up(means, sets, ways, sizes, moments, tilted, twice)
        for i in range(len(kept)):
            k = kept[i]
            low, high = _power_bounds(POWER, tilted[i], rel, unused)
            out[k, 0], out[k, 1] = max(0.0, low - rest), min(out[k, 1], high)
            low, high = _power_bounds(SQUARE, twice[i], rel, unused)
            out[k, 2], out[k, 3] = max(0.0, low - 2 * rest), min(out[k, 3], high)
    _sum_to_one(out)
    return degree


@njit(cache=True)
def _sum_to_one(out):  # type: ignore[no-untyped-def]
    """What follows from Σ π_k = 1, (E π)² ≤ E π² ≤ E π and, for one class, E π² ≥ 2 E π − 1."""
    below, above = out[:, 0].sum(), out[:, 1].sum()
    slack = 8 * (len(out) + 2) * _EPS
    for k in range(len(out)):
        low, high = out[k, 0], out[k, 1]
        out[k, 0] = max(low, 1.0 - (above - high) - slack * (1 + above))
        out[k, 1] = min(high, 1.0 - (below - low) + slack * (1 + below))
    for k in range(len(out)):
        low, high = out[k, 0], out[k, 1]
        out[k, 2] = max(out[k, 2], low * low * (1 - slack), 2 * low - 1.0 - slack)
        out[k, 3] = min(out[k, 3], high)
