"""Rows centered under weights without touching X: means that lose no digits, products, and both Gram matrices.

A column far from zero is all cancellation in Σ s x² − S x̄². Means are taken in two passes, squares are of differences
from the mean, and nearly full CSR columns far from zero are stored as such differences.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg.blas import dsyrk

from allmasks.linear_model.checks import check_squares

__all__ = [
    "Centered",
    "canonical",
    "centered_gram",
    "centered_kernel",
    "exact_sum",
    "is_constant",
    "row_blocks",
    "second_moments",
    "shares_of",
    "symmetric",
]

Array = NDArray[np.float64]

_BLOCK = 2**21
"""Elements of X that are centered and copied at a time: 16 MB."""

_FAR = 15.0
"""S x̄² over the centered sum of squares, from which a CSR column is stored as differences: it is then 15/16 full."""

_VERY_FAR = 1e4
"""The same, from which dense products are taken block by block of centered rows."""

_CONSTANT = (16.0 * float(np.finfo(np.float64).eps)) ** 2
"""The same ratio inverted, up to which a column is a constant and its rounding."""


@dataclass(frozen=True)
class Centered:
    """Rows, targets and weights with their weighted means: what is fitted is √s (y − ȳ) on √s (x − x̄).

    X : (n, d) dense as given, or CSR less `shift`. y : (n, k). root : (n,) √s.
    x_mean (d,) : means of X as it is here, and x_rest, y_rest what rounding took off the means; all are 0 where
        nothing is centered, as y_mean (k,) is. shift (d,) : what CSR columns were lowered by.
    energy : (d,) Σ sᵢ (xᵢⱼ − x̄ⱼ)², exactly 0 for a constant column.
    """

    X: Any
    y: Array
    root: Array
    x_mean: Array
    x_rest: Array
    y_mean: Array
    y_rest: Array
    shift: Array
    energy: Array
    centered: bool

    @classmethod
    def of(cls, X: Any, y: Array, weight: Array, *, center: bool) -> Centered:
        """Means under the weights; or zeros, where no intercept is fitted."""
        d, k = X.shape[1], y.shape[1]
        X, root, zero = canonical(X), np.sqrt(weight), np.zeros(d)
        if not center:
            energy = second_moments(X, weight)
            return cls(X, y, root, zero, zero, np.zeros(k), np.zeros(k), zero, energy, False)
        share = shares_of(weight)
        y_mean, y_rest = exact_sum(share @ y, share @ (y - share @ y))
        if sparse.issparse(X):
            X, mean, rest, shift, energy = _center_csr(X, weight, share)
        else:
            mean, rest, energy = _center_dense(X, weight, share)
            shift = zero
        return cls(X, y, root, mean, rest, y_mean, y_rest, shift, energy, True)

    @property
    def targets(self) -> Array:
        """√s (y − ȳ), (n, k)."""
        return self.root[:, None] * (self.y - self.y_mean)

    def intercept(self, coef: Array) -> Array:
        """The best b for these coef (d, k), of the rows as they were given; (k,)."""
        return np.asarray(self.y_mean - (self.x_mean + self.shift) @ coef)

    @cached_property
    def _by_blocks(self) -> bool:
        """Whether a product with dense X less that with its mean would lose digits."""
        if sparse.issparse(self.X) or not self.centered:
            return False
        with np.errstate(over="ignore"):  # infinity is farther than anything
            return bool((float((self.root**2).sum()) * self.x_mean**2 > _VERY_FAR * self.energy).any())

    def dot(self, W: Array) -> Array:
        """√s (X − x̄) W for W (d, k)."""
        if self._by_blocks:
            return np.concatenate([block @ W for _, block in self.blocks()])
        return self.root[:, None] * (np.asarray(_product(self.X, W)) - self.x_mean @ W)

    def t_dot(self, R: Array) -> Array:
        """((X − x̄) √s)ᵀ R for R (n, k)."""
        if self._by_blocks:
            return np.sum([block.T @ R[rows] for rows, block in self.blocks()], axis=0)
        scaled = self.root[:, None] * R
        return np.asarray(_t_product(self.X, scaled)) - np.outer(self.x_mean, scaled.sum(axis=0))

    def columns(self, which: NDArray[Any]) -> Array:
        """Some columns of √s (X − x̄), dense: (n, len(which))."""
        x = self.X[:, which]
        dense = x.toarray() if sparse.issparse(x) else x
        return self.root[:, None] * (np.subtract(dense, self.x_mean[which], dtype=np.float64) - self.x_rest[which])

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Dense blocks of √s (X − x̄), with their rows."""
        for rows in row_blocks(self.X):
            x = self.X[rows]
            dense = x.toarray() if sparse.issparse(x) else x
            block = np.subtract(dense, self.x_mean, dtype=np.float64)
            if self._by_blocks:
                block -= self.x_rest
            block *= self.root[rows, None]
            yield rows, block


def shares_of(weight: Array) -> Array:
    """Weights over their sum, whatever their size."""
    share = weight / weight.max()
    return np.asarray(share / share.sum())


def exact_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what rounding took off (Knuth)."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def is_constant(energy: Array, weight: float, mean: Array) -> NDArray[np.bool_]:
    """Whether a centered sum of squares is nothing but the rounding of a constant column."""
    return np.asarray(energy <= _CONSTANT * weight * mean**2)


def canonical(X: Any) -> Any:
    """X, a CSR matrix with each entry stored once; the caller's own is left alone."""
    if sparse.issparse(X) and not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def second_moments(X: Any, weight: Array | None = None) -> Array:
    """Σᵢ sᵢ xᵢⱼ², (d,), of the raw columns, in float64.

    Raises
    ------
    ValueError : a sum beyond the largest double.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = _second_moments(X, weight)
    check_squares(total, X)
    return total


def _second_moments(X: Any, weight: Array | None) -> Array:
    if sparse.issparse(X):
        ones = np.ones(X.shape[0]) if weight is None else weight
        total = np.zeros(X.shape[1])
        for column, x, row in _entries(canonical(X)):
            total += np.bincount(column, ones[row] * x * x, X.shape[1])
        return total
    x = np.asarray(X)
    share = np.ones(len(x)) if weight is None else weight
    moments: Array = np.einsum("i,ij,ij->j", share, x, x, dtype=np.float64, casting="unsafe", optimize=False)
    return moments


def _entries(X: Any) -> Iterator[tuple[Any, Array, Any]]:
    """Column, value in float64, and row of CSR entries, so many at a time."""
    bounds = np.searchsorted(X.indptr, np.arange(_BLOCK, X.nnz + _BLOCK, _BLOCK))
    for lo, hi in pairwise(np.unique(np.r_[0, np.minimum(bounds, X.shape[0]), X.shape[0]])):
        part = slice(X.indptr[lo], X.indptr[hi])
        rows = np.repeat(np.arange(lo, hi), np.diff(X.indptr[lo : hi + 1]))
        yield X.indices[part], X.data[part].astype(np.float64, copy=False), rows


def _center_dense(X: Any, weight: Array, share: Array) -> tuple[Array, Array, Array]:
    """Mean, what its rounding took, and centered sum of squares of each column."""
    first = np.sum([share[rows] @ X[rows].astype(np.float64, copy=False) for rows in row_blocks(X)], axis=0)
    apart = np.zeros(X.shape[1])
    for rows in row_blocks(X):
        apart += share[rows] @ np.subtract(X[rows], first, dtype=np.float64)
    mean, rest = exact_sum(first, apart)
    energy = np.zeros(X.shape[1])
    for rows in row_blocks(X):
        block = np.subtract(X[rows], mean, dtype=np.float64) - rest
        energy += np.einsum("i,ij,ij->j", weight[rows], block, block)
    return mean, rest, np.where(is_constant(energy, float(weight.sum()), mean), 0.0, energy)


def _center_csr(X: Any, weight: Array, share: Array) -> tuple[Any, Array, Array, Array, Array]:
    """The same, of X and the shift of its nearly full columns far from zero."""
    n, d = X.shape
    full = np.bincount(X.indices, minlength=d) == n
    first, stored = np.zeros(d), np.zeros(d)
    for column, x, row in _entries(X):
        first += np.bincount(column, share[row] * x, d)
        stored += np.bincount(column, share[row], d)
    # The share of rows without an entry; 0 and not its rounding where every row has one.
    empty = np.where(full, 0.0, np.maximum(1.0 - stored, 0.0))
    apart = -empty * first
    for column, x, row in _entries(X):
        apart += np.bincount(column, share[row] * (x - first[column]), d)
    mean, rest = exact_sum(first, apart)
    energy = empty * mean**2
    for column, x, row in _entries(X):
        energy += np.bincount(column, share[row] * (x - mean[column]) ** 2, d)
    energy = np.where(is_constant(energy, 1.0, mean), 0.0, energy)
    far = mean**2 > _FAR * energy
    energy *= float(weight.sum())
    shift = np.where(far, mean, 0.0)
    if far.any():
        X = _lowered(X, far, shift)
        mean, rest = np.where(far, rest, mean), np.where(far, 0.0, rest)
    return X, mean, rest, shift, energy


def _lowered(X: Any, far: NDArray[np.bool_], shift: Array) -> Any:
    """X less `shift`, the columns `far` then full."""
    row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    places = np.cumsum(far) - 1
    mine = far[X.indices]
    stored = np.zeros((X.shape[0], int(far.sum())), bool)
    stored[row[mine], places[X.indices[mine]]] = True
    at, place = np.nonzero(~stored)
    column = np.flatnonzero(far)[place]
    missing = sparse.csr_matrix((-shift[column], (at, column)), X.shape)
    return sparse.csr_matrix((X.data - shift[X.indices], X.indices, X.indptr), X.shape) + missing


def row_blocks(X: Any) -> Iterator[slice]:
    """Row ranges of bounded size."""
    n, d = X.shape
    step = max(1, _BLOCK // max(d, 1))
    for lo in range(0, n, step):
        yield slice(lo, min(lo + step, n))


def _product(X: Any, W: Array) -> Array:
    if sparse.issparse(X) or X.dtype == np.float64:
        return X @ W
    return np.concatenate([X[rows].astype(np.float64) @ W for rows in row_blocks(X)])


def _t_product(X: Any, R: Array) -> Array:
    if sparse.issparse(X) or X.dtype == np.float64:
        return X.T @ R
    return np.sum([X[rows].astype(np.float64).T @ R[rows] for rows in row_blocks(X)], axis=0)


def symmetric(lower: Array) -> Array:
    """A symmetric matrix from its lower triangle, in place."""
    upper = np.triu_indices(len(lower), 1)
    lower[upper] = lower.T[upper]
    return lower


def centered_gram(data: Centered) -> Array:
    """Σ sᵢ (xᵢ − x̄)(xᵢ − x̄)ᵀ, (d, d), Fortran order; sparse X is centered by a rank-one correction instead."""
    d = data.X.shape[1]
    if sparse.issparse(data.X):
        scaled = data.X.multiply(data.root[:, None]).tocsr()
        gram = np.asfortranarray((scaled.T @ scaled).toarray())
        gram -= float((data.root**2).sum()) * np.outer(data.x_mean, data.x_mean)
        return gram
    gram = np.zeros((d, d), order="F")
    for _, block in data.blocks():
        # Half the work of a general product: the result is symmetric.
        gram = dsyrk(1.0, block.T, beta=1.0, c=gram, overwrite_c=True, lower=1)
    return symmetric(gram)


def centered_kernel(data: Centered, inverse: Array) -> Array:
    """√s (X − x̄) diag(inverse) (X − x̄)ᵀ √s, (n, n)."""
    X, root = data.X, data.root
    if sparse.issparse(X):
        scaled = X.multiply(root[:, None]).tocsr()
        kernel = np.asarray((scaled.multiply(inverse) @ scaled.T).todense())
        side = root * np.asarray(X @ (inverse * data.x_mean)).reshape(-1)
        kernel -= np.outer(side, root) + np.outer(root, side)
        kernel += np.outer(root, root) * float(data.x_mean @ (inverse * data.x_mean))
        return kernel
    dense = np.concatenate([block for _, block in data.blocks()])
    dense *= np.sqrt(inverse)
    return symmetric(dsyrk(1.0, np.asfortranarray(dense), lower=1))
