"""The Fourier method over all rows, in parallel and in bounded memory. Compiled on first use."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from allmasks.scores.row_kernel import logistic_row, workspace
from allmasks.scores.tail_bounds import kearns_saul
from allmasks.scores.threads import parallel

__all__ = ["dense_rows", "row_units", "sparse_rows", "sub_gaussian_constants"]


@njit(cache=True)
def sub_gaussian_constants(rates):  # type: ignore[no-untyped-def]
    out = np.empty(len(rates))
    for j in range(len(rates)):
        same = j > 0 and rates[j] == rates[j - 1]
        out[j] = out[j - 1] if same else kearns_saul(rates[j])
    return out


@njit(cache=True)
def row_units(d):  # type: ignore[no-untyped-def]
    """Contributions, rates, sub-Gaussian constants and positions of one row's random units."""
    return np.empty(d), np.empty(d), np.empty(d), np.empty(d, np.int64)


@parallel()
def dense_rows(  # type: ignore[no-untyped-def]
    X, per_unit, weights, rates, b, coef, tol, max_nodes, share, y, grads, out, grad_w, grad_x
):
    """Rows of a dense X. Returns the first refused row, or -1.

    out (n, 5) : penalty, its error, E σ(S), E σ'(S), μ.
    coef : the cumulant terms of the rates' common value, or empty where they differ.
    grads : 0 none; 1 weights; 2 weights and X. grad_w (chunks, d) is summed by the caller; grad_x (n, d).
    """
    n, d = X.shape
    chunks = len(grad_w)
    refused = np.full(chunks, -1, np.int64)
    sub_gaussian = sub_gaussian_constants(rates)
    for chunk in prange(chunks):
        units = row_units(d)
        a, p, sub, column = units
        slopes = np.empty(d)
        work = workspace(max_nodes, d)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            shift, magnitude, m = b, abs(b), 0
            for j in range(d):
                contribution = X[i, j] * per_unit[j]
                magnitude += abs(contribution)
                if rates[j] == 0.0:
                    shift += contribution
                elif contribution != 0.0:
                    a[m], p[m], sub[m], column[m] = contribution, rates[j], sub_gaussian[j], j
                    m += 1
            if not logistic_row(units, m, shift, magnitude, d, coef, tol, max_nodes, grads > 0, work, out[i], slopes):
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


@parallel()
def sparse_rows(  # type: ignore[no-untyped-def]
    data, indices, indptr, per_unit, rates, b, coef, tol, max_nodes, share, y, grads, chunks, out, terms
):
    """The same for CSR rows; terms (stored entries,) are share · (E[σ(S) mⱼ] / qⱼ − y), of which both gradients are."""
    n = len(indptr) - 1
    refused = np.full(chunks, -1, np.int64)
    sub_gaussian = sub_gaussian_constants(rates)
    longest = 0
    for i in range(n):
        longest = max(longest, indptr[i + 1] - indptr[i])
    for chunk in prange(chunks):
        units = row_units(longest)
        a, p, sub, column = units
        slopes = np.empty(longest)
        work = workspace(max_nodes, longest)
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            first = indptr[i]
            length = indptr[i + 1] - first
            shift, magnitude, m = b, abs(b), 0
            for e in range(length):
                j = indices[first + e]
                contribution = data[first + e] * per_unit[j]
                magnitude += abs(contribution)
                if rates[j] == 0.0:
                    shift += contribution
                elif contribution != 0.0:
                    a[m], p[m], sub[m], column[m] = contribution, rates[j], sub_gaussian[j], e
                    m += 1
            if not logistic_row(
                units, m, shift, magnitude, length, coef, tol, max_nodes, grads > 0, work, out[i], slopes
            ):
                if refused[chunk] < 0:
                    refused[chunk] = i
                continue
            if grads > 0:
                for e in range(length):
                    j = indices[first + e]
                    g = out[i, 2]
                    if rates[j] != 0.0 and data[first + e] * per_unit[j] != 0.0:
                        g = slopes[e]
                    terms[first + e] = share[i] * (g - y[i])
    for chunk in range(chunks):
        if refused[chunk] >= 0:
            return refused[chunk]
    return -1
