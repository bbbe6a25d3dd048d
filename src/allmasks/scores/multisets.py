"""Moments of Y = Σ x_k, x_k = e^{S_k − α·S − H}, as sums of exact products over the units of one row. Compiled.

E Π x_k^{ν_k} = e^{ν·b̃} Πⱼ (pⱼ + qⱼ e^{ν·cⱼ}), ν a multiset of classes; E Yⁿ adds those of n classes up, n!/ν! times.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["FAR", "add_up", "log_means", "multisets", "parts_of", "product_means", "slopes_of"]

FAR = 600.0
"""|exponent| up to which products of factors are taken before their log is."""


@njit(cache=True)
def multisets(classes, degree):  # type: ignore[no-untyped-def]
    """All of 1 … `degree` of so many classes: (count, 5), sorted, −1 where there is none; then n!/ν! and the sizes."""
    count, own = 0, 1
    for n in range(1, degree + 1):
        own = own * (classes + n - 1) // n
        count += own
    sets = np.full((count, 4), -1, np.int32)
    ways, sizes = np.empty(count), np.empty(count, np.int32)
    at = 0
    for n in range(1, degree + 1):
        digits = np.zeros(n, np.int32)
        while True:
            ways[at], sizes[at] = 1.0, n
            run = 0
            for i in range(n):
                sets[at, i] = digits[i]
                run = run + 1 if i > 0 and digits[i] == digits[i - 1] else 1
                ways[at] *= (i + 1) / run
            ways[at] = round(ways[at])
            at += 1
            i = n - 1
            while i >= 0 and digits[i] == classes - 1:
                i -= 1
            if i < 0:
                break
            up = digits[i] + 1
            for l in range(i, n):
                digits[l] = up
    return sets, ways, sizes


@njit(cache=True)
def log_means(c, b, p, q, out):  # type: ignore[no-untyped-def]
    """log E x_k = b̃_k + Σⱼ log(pⱼ + qⱼ e^{c_kj}) of every class, at any magnitude; the largest |log| is returned."""
    farthest = 0.0
    for k in range(len(c)):
        total, product = b[k], 1.0
        for j in range(c.shape[1]):
            step = c[k, j]
            if step > 30.0:
                total += step
                product *= q[j] + p[j] * math.exp(-step)
            else:
                product *= p[j] + q[j] * math.exp(step)
            if product < 1e-200 or product > 1e200:
                total += math.log(product)
                product = 1.0
        out[k] = total + math.log(product)
        farthest = max(farthest, abs(out[k]))
    return farthest


@njit(cache=True)
def parts_of(c, degree):  # type: ignore[no-untyped-def]
    """Where the units are parted so that the products of each part are doubles; empty where one alone may not be."""
    m = c.shape[1]
    ends = np.empty(m + 1, np.int64)
    count, reach = 0, 0.0
    for j in range(m):
        most = 0.0
        for k in range(len(c)):
            most = max(most, abs(c[k, j]))
        most *= degree
        if most > FAR:
            return ends[:0]
        if reach + most > FAR:
            ends[count] = j
            count, reach = count + 1, 0.0
        reach += most
    ends[count] = m
    return ends[: count + 1]


@njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def _product(p, q, before, x, first, end):  # type: ignore[no-untyped-def]
    product = 1.0
    for j in range(first, end):
        product *= p[j] + q[j] * (before[j] * x[j])
    return product


@njit(cache=True)
def _before(power, row, size, pair, last, before):  # type: ignore[no-untyped-def]
    """Π of the powers of all classes of a multiset but its last, kept from the row before where they are the same."""
    m = power.shape[1]
    if size == 1:
        for j in range(m):
            before[j] = 1.0
    elif size == 2:
        before[:] = power[row[0]]
    else:
        if last[0] != row[0] or last[1] != row[1]:
            for j in range(m):
                pair[j] = power[row[0], j] * power[row[1], j]
            last[0], last[1] = row[0], row[1]
        if size == 3:
            before[:] = pair
        else:
            for j in range(m):
                before[j] = pair[j] * power[row[2], j]


@njit(cache=True)
def product_means(power, b, p, q, ends, sets, sizes, out):  # type: ignore[no-untyped-def]
    """E Π x_k^{ν_k} of every multiset, from power = e^{c_kj}; the largest |log| is returned."""
    m = power.shape[1]
    pair, before, last = np.empty(m), np.ones(m), np.full(2, -1, np.int32)
    farthest = 0.0
    for r in range(len(sets)):
        row, size = sets[r], sizes[r]
        if r == 0 or size != sizes[r - 1] or (row[: size - 1] != sets[r - 1, : size - 1]).any():
            _before(power, row, size, pair, last, before)
        log = 0.0
        for i in range(size):
            log += b[row[i]]
        farthest = max(farthest, abs(log))
        first = 0
        for end in ends:
            log += math.log(_product(p, q, before, power[row[size - 1]], first, end))
            farthest = max(farthest, abs(log))
            first = end
        out[r] = math.exp(min(log, 700.0)) if log < 700.0 else np.inf
    return farthest


@njit(cache=True)
def add_up(means, sets, ways, sizes, plain, tilted, twice):  # type: ignore[no-untyped-def]
    """E Yⁿ into plain[n]; E[x_k Yⁿ] into tilted[k, n] and E[x_k² Yⁿ] into twice[k, n], where they have room."""
    plain[:] = 0.0
    plain[0] = 1.0
    tilted[:] = 0.0
    twice[:] = 0.0
    for r in range(len(sets)):
        n, value = sizes[r], ways[r] * means[r]
        plain[n] += value
        if len(tilted) == 0:
            continue
        i = 0
        while i < n:
            k, many = sets[r, i], 1
            while i + many < n and sets[r, i + many] == k:
                many += 1
            tilted[k, n - 1] += value * many / n
            if n > 1:
                twice[k, n - 2] += value * many * (many - 1) / (n * (n - 1))
            i += many


@njit(cache=True)
def slopes_of(power, p, q, sets, sizes, weights, out, total):  # type: ignore[no-untyped-def]
    """out[k, j] = Σ_ν g_ν ν_k r_νj and total[j] = Σ_ν g_ν |ν| r_νj, r_νj = qⱼ e^{ν·cⱼ} / (pⱼ + qⱼ e^{ν·cⱼ})."""
    m = power.shape[1]
    pair, before, last, part = np.empty(m), np.ones(m), np.full(2, -1, np.int32), np.empty(m)
    for r in range(len(sets)):
        row, size = sets[r], sizes[r]
        if r == 0 or size != sizes[r - 1] or (row[: size - 1] != sets[r - 1, : size - 1]).any():
            _before(power, row, size, pair, last, before)
        own = power[row[size - 1]]
        for j in range(m):
            kept = q[j] * (before[j] * own[j])
            part[j] = weights[r] * kept / (p[j] + kept)
        for i in range(size):
            into = out[row[i]]
            for j in range(m):
                into[j] += part[j]
        for j in range(m):
            total[j] += size * part[j]
