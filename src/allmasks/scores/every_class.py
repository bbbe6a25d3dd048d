"""The bounds of `softmax_row` over all rows, in parallel and in bounded memory. Compiled on first use."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from allmasks.scores.softmax_row import loss_row, probability_row
from allmasks.scores.threads import parallel

__all__ = ["loss_rows", "probability_rows"]


@njit(cache=True)
def _gathered(data, indices, first, end, weights, rates, b):  # type: ignore[no-untyped-def]
    """One row: (a (K, m), what no mask changes (K,), p, q, entries, largest sum of magnitudes) of its random units."""
    classes = len(weights)
    entries, m = np.empty(end - first, np.int64), 0
    fixed, size = b.copy(), np.abs(b)
    for e in range(first, end):
        j, x = indices[e], data[e]
        if x == 0.0:
            continue
        moves = False
        for k in range(classes):
            own = weights[k, j] * x / (1.0 - rates[j])
            size[k] += abs(own)
            moves = moves or own != 0.0
            if rates[j] == 0.0:
                fixed[k] += own
        if moves and rates[j] > 0.0:
            entries[m] = e
            m += 1
    a, p, q = np.empty((classes, m)), np.empty(m), np.empty(m)
    for i in range(m):
        j, x = indices[entries[i]], data[entries[i]]
        p[i], q[i] = rates[j], 1.0 - rates[j]
        for k in range(classes):
            a[k, i] = weights[k, j] * x / q[i]
    return a, fixed, p, q, entries[:m], size.max()


@parallel()
def loss_rows(  # type: ignore[no-untyped-def]
    data, indices, indptr, weights, rates, b, tol, most, share, targets, grads, out, to_weights, to_b, terms
):
    """out (n, 3): bounds of E log Σ e^{S_k}, and how many moments they took.

    grads : whether the gradient of Σ share · (Σ t · middle − t · E S) is wanted; to_weights (chunks, K, d) and
        to_b (chunks, K) are summed by the caller, terms (stored entries,) is that by X.
    """
    n, classes = len(indptr) - 1, len(weights)
    chunks = len(to_weights)
    for chunk in prange(chunks):
        slopes, to_bias = np.empty((1, 1)), np.empty(classes)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            first, end = indptr[i], indptr[i + 1]
            a, fixed, p, q, entries, size = _gathered(data, indices, first, end, weights, rates, b)
            if grads:
                slopes = np.empty(a.shape)
            low, high, order = loss_row(a, fixed, p, q, end - first, size, tol, most, grads, slopes, to_bias)
            out[i, 0], out[i, 1], out[i, 2] = low, high, order
            if not grads:
                continue
            mass, at = targets[i].sum(), 0
            for k in range(classes):
                to_b[chunk, k] += share[i] * (mass * to_bias[k] - targets[i, k])
            for e in range(first, end):
                j, x, total = indices[e], data[e], 0.0
                own = at < len(entries) and entries[at] == e
                for k in range(classes):
                    # A unit that no mask changes, or that moves no score, is independent of them.
                    slope = slopes[k, at] / (1.0 - rates[j]) if own else to_bias[k]
                    slope = mass * slope - targets[i, k]
                    to_weights[chunk, k, j] += share[i] * slope * x
                    total += slope * weights[k, j]
                terms[e] = share[i] * total
                at += own


@parallel()
def probability_rows(data, indices, indptr, weights, rates, b, tol, most, chunks, out):  # type: ignore[no-untyped-def]
    """out (n, K, 4): bounds of E π_k and E π_k²."""
    n = len(indptr) - 1
    for chunk in prange(chunks):
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            first, end = indptr[i], indptr[i + 1]
            a, fixed, p, q, _, size = _gathered(data, indices, first, end, weights, rates, b)
            probability_row(a, fixed, p, q, end - first, size, tol, most, out[i])
