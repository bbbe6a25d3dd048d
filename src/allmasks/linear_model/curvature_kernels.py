"""The entries of `curvature.kept_curvature` over CSR rows. Compiled on first use."""

from __future__ import annotations

import math

from numba import njit, prange

from allmasks.scores.threads import parallel

__all__ = ["kept_entries"]


@njit(cache=True)
def _density(mean, variance, shares, widths):  # type: ignore[no-untyped-def]
    """`curvature.logistic_density`: shares / √2π and scales⁻² in place of shares and scales."""
    square = -0.5 * mean * mean
    total = 1e-12
    for k in range(len(shares)):
        inverse = 1.0 / (variance + widths[k])
        total += shares[k] * math.sqrt(inverse) * math.exp(square * inverse)
    return total


@parallel()
def kept_entries(  # type: ignore[no-untyped-def]
    data, indices, indptr, shift, shrink, keep_prob, mu, variance, r, slope, shares, widths, chunks, hat, extra
):
    """By stored entry: √slope h x, and slope x² h (1/q − h), where slope = r E σ'."""
    n = len(indptr) - 1
    for chunk in prange(chunks):
        for i in range(n * chunk // chunks, n * (chunk + 1) // chunks):
            root, whole = math.sqrt(slope[i]), r[i] / max(slope[i], 1e-300)
            for e in range(indptr[i], indptr[i + 1]):
                j, x = indices[e], data[e]
                left = max(variance[i] - x * x * shrink[j], 0.0)
                inverse = 1.0 / keep_prob[j]
                h = min(_density(mu[i] + x * shift[j], left, shares, widths) * whole, inverse)
                hat[e] = root * h * x
                extra[e] = slope[i] * x * x * h * (inverse - h)
