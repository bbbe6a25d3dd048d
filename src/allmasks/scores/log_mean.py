"""Jensen's upper bound of E log Σ e^{S_k} over all rows, and its gradient: what a fit of many steps can afford.

With α = softmax μ, μ the scores at the mean mask, and c_kj = a_kj − Σ_l α_l a_lj,

    E log Σ e^{S_k}  =  α·(μ − b) + E log Σ e^{S_k − α·(S − b)}  ≤  α·(μ − b) + log Σ_k e^{L_k},
    L_k = b_k + Σⱼ log(pⱼ + qⱼ e^{c_kj}),

K exponentials a unit: the bound of `softmax_row` that takes one moment, at its first temperature. α moves with the
weights, and the gradient knows it, so a minimum of this is one of the bound itself. Compiled on first use.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from allmasks.scores.threads import parallel

__all__ = ["log_mean_rows"]


@njit(cache=True)
def _normalized(values, out):  # type: ignore[no-untyped-def]
    """softmax of `values` into `out`; the log of their sum is returned."""
    top, total = values.max(), 0.0
    for k in range(len(values)):
        out[k] = math.exp(values[k] - top)
        total += out[k]
    for k in range(len(values)):
        out[k] /= total
    return top + math.log(total)


@njit(cache=True)
def _log_means(a, p, b, alpha, logs, kept):  # type: ignore[no-untyped-def]
    """L of each class into `logs`; kept[e, k] is r = q e^c / (p + q e^c), the rate of keeping under e^c's weight."""
    classes = len(b)
    product = np.ones(classes)
    logs[:] = b
    for e in range(len(a)):
        middle = 0.0
        for k in range(classes):
            middle += alpha[k] * a[e, k]
        drop, keep = p[e], 1.0 - p[e]
        for k in range(classes):
            c = a[e, k] - middle
            if drop == 0.0 or c > 30.0:
                rest = drop * math.exp(-c) if drop > 0.0 else 0.0
                logs[k] += c
                product[k] *= keep + rest
                kept[e, k] = keep / (keep + rest)
            else:
                grown = keep * math.exp(c)
                product[k] *= drop + grown
                kept[e, k] = grown / (drop + grown)
            if product[k] < 1e-200 or product[k] > 1e200:
                logs[k] += math.log(product[k])
                product[k] = 1.0
    for k in range(classes):
        logs[k] += math.log(product[k])


@parallel()
def log_mean_rows(data, indices, indptr, weights, rates, b, mass, out, to_weights, to_b):  # type: ignore[no-untyped-def]
    """out (n,): the bound of each row. The gradient of Σ mass · bound is added in chunks, which the caller sums.

    weights : (d, K), a unit's together. to_weights : (chunks, d, K). to_b : (chunks, K).
    """
    n, classes, chunks = len(indptr) - 1, len(b), len(to_b)
    for chunk in prange(chunks):
        mu, alpha, logs = np.empty(classes), np.empty(classes), np.empty(classes)
        tilted, moved = np.empty(classes), np.empty(classes)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            first, m = indptr[i], indptr[i + 1] - indptr[i]
            a, kept, p = np.empty((m, classes)), np.empty((m, classes)), np.empty(m)
            mu[:] = b
            for e in range(m):
                j, x = indices[first + e], data[first + e]
                p[e] = rates[j]
                for k in range(classes):
                    mu[k] += weights[j, k] * x
                    a[e, k] = weights[j, k] * x / (1.0 - rates[j])
            _normalized(mu, alpha)
            _log_means(a, p, b, alpha, logs, kept)
            value = _normalized(logs, tilted)
            moved[:] = 0.0
            for e in range(m):
                gap = 1.0 - p[e]
                for k in range(classes):
                    gap -= tilted[k] * kept[e, k]
                p[e] = gap  # the rate is not needed again
                for k in range(classes):
                    moved[k] += a[e, k] * gap
            level = 0.0
            for k in range(classes):
                value += alpha[k] * (mu[k] - b[k])
                level += alpha[k] * moved[k]
            out[i] = value
            for k in range(classes):
                moved[k] = alpha[k] * (moved[k] - level)
                to_b[chunk, k] += mass[i] * (tilted[k] + moved[k])
            for e in range(m):
                j = indices[first + e]
                size = mass[i] * data[first + e]
                for k in range(classes):
                    slope = (alpha[k] * p[e] + tilted[k] * kept[e, k]) / (1.0 - rates[j]) + moved[k]
                    to_weights[chunk, j, k] += size * slope
