"""Bounds of E f(Y), Y ≥ 1, from the moments of Y: polynomials whose distance from f has a known sign. Compiled.

f is log y, 1/y or 1/y². With u = y − 1 ≥ 0 and Hermite's interpolation of f at nodes u₀ … u_k,

    f − P = f^(k+1)(ξ) / (k+1)! · Π (u − uᵢ),

where every node but 0 is taken twice: the product is then 0 or more for all u ≥ 0, and the sign is that of the
derivative. So E P(Y), a sum of moments, bounds E f(Y) on one side **whatever the nodes are**; Gauss's and Radau's only
make it the best. Nothing is lost by nodes that round-off has moved, and all that is to be allowed for is that of E P
itself: it is added up here, term by term.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["LOG", "POWER", "SQUARE", "best_pair", "central", "expectation"]

LOG, POWER, SQUARE = 0, 1, 2
"""log y, 1/y and 1/y²."""

_EPS = 2.0**-52

_APART = 1e-4
"""Relative distance of nodes at least: divided differences of closer ones lose their digits, and gain nothing."""

_FAR = 1e60
"""Nodes beyond are no better than this one."""


@njit(cache=True)
def central(moments, rel, out, off):  # type: ignore[no-untyped-def]
    """E[w (Y − 1)ⁱ] and their errors from E[w Yⁱ], which are off by `rel` of themselves."""
    for i in range(len(moments)):
        total, size, choose = 0.0, 0.0, 1.0
        for l in range(i + 1):
            term = choose * moments[l]
            total += term if (i - l) % 2 == 0 else -term
            size += term
            choose = choose * (i - l) / (l + 1)
        out[i] = total
        off[i] = (rel + 8 * _EPS) * size + 1e-290


@njit(cache=True)
def best_pair(m0, m1, m2, m3):  # type: ignore[no-untyped-def]
    """Gauss's two nodes of a measure on u ≥ 0 with these moments; any two where they are none."""
    a = b = m1 / m0 if m0 > 0 else 0.0
    if m0 > 0:
        mean = m1 / m0
        variance = m2 / m0 - mean * mean
        if variance > 0:
            root = math.sqrt(variance)
            third = m3 / m0 - 3 * mean * (m2 / m0) + 2 * mean * mean * mean
            skew = third / (variance * root)
            half = 0.5 * (abs(skew) + math.sqrt(skew * skew + 4.0))
            below, above = (1.0 / half, half) if skew > 0 else (half, 1.0 / half)
            a, b = mean - root * below, mean + root * above
    return apart(a, 0.0), apart(b, apart(a, 0.0))


@njit(cache=True)
def apart(node, least):  # type: ignore[no-untyped-def]
    """The node, or the next one that is far enough from `least`; never what is no number."""
    nearest = least + _APART * (1.0 + least)
    return min(node, max(_FAR, 2.0 * nearest)) if node > nearest else nearest


@njit(cache=True)
def expectation(kind, nodes, moments, off, powers):  # type: ignore[no-untyped-def]
    """E P(Y) and its round-off, where P interpolates at the nodes u₀ …, two in a row where they are equal.

    moments, off : E[w uⁱ] and their errors, as `central` gives them. powers is filled with P's coefficients in yⁱ.
    """
    k = len(nodes)
    table, wrong = np.empty((k, k)), np.empty((k, k))
    for i in range(k):
        y = 1.0 + nodes[i]
        if kind == LOG:
            table[0, i] = math.log1p(nodes[i])
        elif kind == POWER:
            table[0, i] = 1.0 / y
        else:
            table[0, i] = 1.0 / (y * y)
        wrong[0, i] = 4 * _EPS * table[0, i]
    for level in range(1, k):
        for i in range(k - level):
            step = nodes[i + level] - nodes[i]
            if kind != LOG:
                # (−1)ⁿ Π 1/yᵢ, and times Σ 1/yᵢ: nothing cancels.
                product, total = 1.0, 0.0
                for l in range(i, i + level + 1):
                    product /= -(1.0 + nodes[l])
                    total += 1.0 / (1.0 + nodes[l])
                value = -product if kind == POWER else -product * total
                table[level, i] = value
                wrong[level, i] = 16 * (level + 2) * _EPS * abs(value)
            elif level == 1:
                value = 1.0 / (1.0 + nodes[i])
                if step > 0:
                    value = math.log1p(step / (1.0 + nodes[i])) / step
                table[1, i], wrong[1, i] = value, 8 * _EPS * value
            else:
                value = (table[level - 1, i + 1] - table[level - 1, i]) / step
                table[level, i] = value
                wrong[level, i] = (wrong[level - 1, i + 1] + wrong[level - 1, i]) / step + 4 * _EPS * abs(value)
    # Newton's form: coefficients of Π (u − u_l) in powers of u, and the same with every sign plus.
    basis, size = np.zeros(k + 1), np.zeros(k + 1)
    basis[0] = size[0] = 1.0
    in_u = np.zeros(k)
    total, error = 0.0, 0.0
    for n in range(k):
        value, most, moved = 0.0, 0.0, 0.0
        for i in range(n + 1):
            value += basis[i] * moments[i]
            most += size[i] * (abs(moments[i]) + off[i])
            moved += size[i] * (off[i] + 32 * _EPS * abs(moments[i]))
            in_u[i] += table[n, 0] * basis[i]
        total += table[n, 0] * value
        error += abs(table[n, 0]) * moved + wrong[n, 0] * most
        error += 16 * _EPS * abs(table[n, 0] * value)
        for i in range(n + 1, 0, -1):
            basis[i] = basis[i - 1] - nodes[n] * basis[i]
            size[i] = size[i - 1] + nodes[n] * size[i]
        basis[0] *= -nodes[n]
        size[0] *= nodes[n]
    for i in range(len(powers)):
        powers[i] = 0.0
    for i in range(k):  # (y − 1)ⁱ
        choose = 1.0
        for l in range(i + 1):
            powers[l] += in_u[i] * choose * (1.0 if (i - l) % 2 == 0 else -1.0)
            choose = choose * (i - l) / (l + 1)
    return total, error
