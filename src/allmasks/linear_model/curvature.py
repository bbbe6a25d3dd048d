"""The Hessian E[σ'(S) x̃x̃ᵀ] of the logistic dropout objective, positive semidefinite and nearly right.

With cᵢ = E σ'(S) and hᵢⱼ = E[σ'(S) | unit j kept] / cᵢ, where S counts as Gaussian given unit j, and units as if two of
them acted one by one:

    H = Σᵢ rᵢ cᵢ (x̂ᵢ x̂ᵢᵀ + diag(xᵢⱼ² hᵢⱼ (1/qⱼ − hᵢⱼ))),   x̂ᵢⱼ = hᵢⱼ xᵢⱼ.

Its diagonal is Σᵢ rᵢ xᵢⱼ²/qⱼ E[σ' | j kept]: right even where one unit decides a row (a word seen once), where a
Gaussian S, or h = 1, is off by orders of magnitude. hᵢⱼ ≤ 1/qⱼ because σ' ≥ 0, hence no negative term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.newton import Curvature
from allmasks.linear_model.unknowns import Unknowns

__all__ = ["gram", "kept_curvature", "logistic_density", "summed_squares"]

Array = NDArray[np.float64]

# σ(s) ≈ Σ shares Φ(scale s), to 5e-5 (Monahan & Stefanski 1992), so that its Gaussian means are closed form.
_SHARES = (0.25220, 0.58523, 0.16257)
_SCALES = (0.90793, 0.57778, 0.36403)


def logistic_density(mean: Array, variance: Array) -> Array:
    """E σ'(N(mean, variance)), to about 1.5e-4; never 0.

    >>> logistic_density(np.array([0.0]), np.array([0.0])).round(3)
    array([0.25])
    """
    total = np.full(np.shape(mean), 1e-12)
    square = -0.5 * np.square(mean)
    for share, scale in zip(_SHARES, _SCALES, strict=True):
        inverse = 1.0 / (variance + scale**-2)
        total += share / np.sqrt(2.0 * np.pi) * np.sqrt(inverse) * np.exp(square * inverse)
    return total


def gram(A: Any, weight: Array, B: Any) -> Array:
    """Aᵀ diag(weight) B, (d, d), both dense or both CSR.

    >>> gram(np.eye(2), np.array([1.0, 2.0]), np.ones((2, 2)))
    array([[1., 1.],
           [2., 2.]])
    """
    if sparse.issparse(A):
        return np.asarray((A.T @ sparse.diags(weight) @ B).toarray())
    return np.asarray(A.T @ (weight[:, None] * B))


def summed_squares(
    of: Unknowns, A: Any, weight: Array, ridge: Array | float, squares: Array, border: Array | None = None
) -> Curvature:
    """Σᵢ sᵢ (aᵢ, cᵢ)(aᵢ, cᵢ)ᵀ + diag(ridge, 0), in the unknowns.

    A : (n, d), dense or CSR. weight : (n,) the sᵢ. border : (n,) the cᵢ, 1 by default. squares : (d,) Σᵢ sᵢ aᵢⱼ².
    """
    pull = weight if border is None else weight * border
    corner = float(pull.sum() if border is None else pull @ border)

    def product(u: Array) -> Array:
        direction, db = of.split(u)
        moved = weight * (np.asarray(A @ direction) + (db if border is None else border * db))
        out = np.asarray(A.T @ moved) + ridge * direction
        return of.join(out, float(moved.sum() if border is None else border @ moved))

    def matrix() -> Array:
        out = gram(A, weight, A)
        out[np.diag_indices_from(out)] += ridge
        return of.bordered(out, np.asarray(A.T @ pull), corner)

    return Curvature(product, of.join(squares + ridge, corner), matrix)


def kept_curvature(rows: Rows, weights: Array, p: Array, mu: Array, variance: Array, r: Array) -> tuple[Any, Array]:
    """x̂ scaled by √(rᵢ cᵢ), on the pattern of X, and the diagonal that is added to x̂ᵀx̂."""
    keep_prob = 1.0 - p
    slope = r * logistic_density(mu, variance)
    shift, shrink = weights * p / keep_prob, weights**2 * p / keep_prob
    X = rows.X
    if sparse.issparse(X):
        from allmasks.linear_model.curvature_kernels import kept_entries

        data, terms = np.empty_like(X.data), np.empty_like(X.data)
        shares, widths = np.array(_SHARES) / np.sqrt(2.0 * np.pi), np.array(_SCALES) ** -2.0
        kept_entries(
            X.data, X.indices, X.indptr, shift, shrink, keep_prob, mu, variance, r, slope, shares, widths,
            max(1, min(64, rows.n)), data, terms
        )  # fmt: skip
        extra = np.bincount(X.indices, terms, rows.d).astype(np.float64, copy=False)
        return sparse.csr_matrix((data, X.indices, X.indptr), X.shape), extra
    scale, extra = np.sqrt(slope), np.zeros(rows.d)
    hat = np.empty_like(X)
    for block in rows.blocks():
        x = X[block]
        h = _kept(x, shift, shrink, keep_prob, mu[block, None], variance[block, None])
        h *= (r[block] / np.maximum(slope[block], 1e-300))[:, None]
        np.minimum(h, 1.0 / keep_prob, out=h)
        hat[block] = scale[block, None] * h * x
        extra += (slope[block, None] * x * x * h * (1.0 / keep_prob - h)).sum(axis=0)
    return hat, extra


def _kept(x: Array, shift: Array, shrink: Array, keep_prob: Array, mu: Array, variance: Array) -> Array:
    """E[σ'(S) | unit kept]: it moves the mean by w x p/q and takes its own p/q w²x² out of the variance."""
    return logistic_density(mu + x * shift, np.maximum(variance - x * x * shrink, 0.0))
