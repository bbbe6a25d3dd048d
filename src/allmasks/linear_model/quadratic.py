"""Least squares with a penalty of its own on each coefficient, solved the cheap way for the shape at hand.

    min over w, b:  Σᵢ sᵢ (yᵢ − b − xᵢ·w)² + Σⱼ λⱼ wⱼ²

Dense or CSR, n < d and d < n, one output or several. A direct solution goes through the smaller of the two Gram
matrices (d × d, or n × n by the kernel trick); where both are too large, LSMR runs on an operator that centers and
scales without touching X.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.linalg.blas import dsyrk
from scipy.sparse.linalg import LinearOperator, lsmr

__all__ = ["Centered", "Solution", "centered_gram", "centered_kernel", "row_blocks", "solve_penalized", "symmetric"]

Array = NDArray[np.float64]

LARGEST_GRAM = 8192
"""Rows of the largest Gram matrix that is formed: 512 MB."""

_BLOCK = 2**21
"""Elements of X that are centered and copied at a time: 16 MB."""


@dataclass(frozen=True)
class Centered:
    """Rows, targets and weights with their weighted means: what is fitted is √s (y − ȳ) on √s (x − x̄).

    X : (n, d) dense or CSR, as given. y : (n, k). root : (n,) √s. x_mean (d,) and y_mean (k,) are 0 without intercept.
    """

    X: Any
    y: Array
    root: Array
    x_mean: Array
    y_mean: Array

    @classmethod
    def of(cls, X: Any, y: Array, weight: Array, *, center: bool) -> Centered:
        """Means under the weights; or zeros, where no intercept is fitted."""
        d, k = X.shape[1], y.shape[1]
        if not center:
            return cls(X, y, np.sqrt(weight), np.zeros(d), np.zeros(k))
        share = weight / weight.sum()
        x_mean = np.asarray(X.T @ share if sparse.issparse(X) else _left(share, X), np.float64).reshape(-1)
        return cls(X, y, np.sqrt(weight), x_mean, share @ y)

    @property
    def targets(self) -> Array:
        """√s (y − ȳ), (n, k)."""
        return self.root[:, None] * (self.y - self.y_mean)

    def dot(self, W: Array) -> Array:
        """√s (X − x̄) W for W (d, k)."""
        return self.root[:, None] * (np.asarray(_product(self.X, W)) - self.x_mean @ W)

    def t_dot(self, R: Array) -> Array:
        """((X − x̄) √s)ᵀ R for R (n, k)."""
        scaled = self.root[:, None] * R
        return np.asarray(_t_product(self.X, scaled)) - np.outer(self.x_mean, scaled.sum(axis=0))

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Dense blocks of √s (X − x̄), with their rows."""
        for rows in row_blocks(self.X):
            x = self.X[rows]
            dense = x.toarray() if sparse.issparse(x) else x
            block = np.subtract(dense, self.x_mean, dtype=np.float64)
            block *= self.root[rows, None]
            yield rows, block


@dataclass(frozen=True)
class Solution:
    """coef (d, k), intercept (k,), and iterations (1 where solved directly)."""

    coef: Array
    intercept: Array
    n_iter: int
    converged: bool = True


def row_blocks(X: Any) -> Iterator[slice]:
    """Row ranges of bounded size."""
    n, d = X.shape
    step = max(1, _BLOCK // max(d, 1))
    for lo in range(0, n, step):
        yield slice(lo, min(lo + step, n))


def _left(share: Array, X: Any) -> Array:
    """share @ X in float64, without a float64 copy of X."""
    return np.sum([share[rows] @ X[rows].astype(np.float64, copy=False) for rows in row_blocks(X)], axis=0)


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


def solve_penalized(data: Centered, penalty: Array, *, tol: float, max_iter: int | None) -> Solution:
    """The minimiser; of least norm where coefficients without penalty are not determined.

    Parameters
    ----------
    penalty : (d,) λ ≥ 0.
    tol, max_iter : of LSMR, where n and d are both beyond `LARGEST_GRAM`.

    Columns of zeros and coefficients with an infinite penalty come out as 0.
    """
    n, d = data.X.shape
    energy = _energy(data)
    live = (energy > 0) & np.isfinite(penalty)
    # In units in which each column and its penalty together have length 1, no solver meets a scale.
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(live, 1.0 / np.sqrt(energy + penalty), 0.0)
    scale[~np.isfinite(scale)] = 0.0
    ridge = np.where(live, penalty * scale**2, 1.0)
    if min(n, d) > LARGEST_GRAM:
        coef, n_iter, converged = _iterative(data, scale, ridge, tol, max_iter)
    else:
        n_iter, converged = 1, True
        coef = _direct(data, penalty, scale, ridge)
    coef = np.where(live[:, None], coef, 0.0)
    return Solution(coef, data.y_mean - data.x_mean @ coef, n_iter, converged)


def _energy(data: Centered) -> Array:
    """Σ sᵢ (xᵢⱼ − x̄ⱼ)², rounded up to 0 only where the column is constant."""
    if sparse.issparse(data.X):
        weight = data.root**2
        squares = np.asarray(data.X.multiply(data.X).T @ weight).reshape(-1)
        return np.where(squares > 0, np.maximum(squares - weight.sum() * data.x_mean**2, 1e-14 * squares), 0.0)
    return np.sum([np.einsum("ij,ij->j", block, block) for _, block in data.blocks()], axis=0)


def _direct(data: Centered, penalty: Array, scale: Array, ridge: Array) -> Array:
    n, d = data.X.shape
    by_kernel = d > n and bool((ridge > 0).all())
    step = _KernelSolver(data, scale, ridge) if by_kernel else _GramSolver(data, scale, ridge)
    coef = step(data.targets)
    # One step of refinement on the residuals of the data themselves: the normal equations square the condition.
    residual = data.targets - data.dot(coef)
    gradient = data.t_dot(residual) - penalty[:, None] * coef
    finite = np.where(np.isfinite(gradient), gradient, 0.0)
    return coef + step.of_gradient(finite)


class _GramSolver:
    """(Z ᵀZ + diag ridge)⁻¹ for Z = centered X · scale: Cholesky, or the pseudo-inverse where that fails."""

    def __init__(self, data: Centered, scale: Array, ridge: Array) -> None:
        self.data, self.scale = data, scale
        gram = centered_gram(data)
        gram *= scale
        gram *= scale[:, None]
        gram[np.diag_indices_from(gram)] += ridge
        self.factor: Any = None
        try:
            factor = linalg.cho_factor(gram, lower=True, overwrite_a=False, check_finite=False)
            if np.abs(np.diag(factor[0])).min() > 1e-6:
                self.factor = factor
                return
        except linalg.LinAlgError:
            pass
        values, vectors = linalg.eigh(gram, driver="evd", check_finite=False)
        cut = values[-1] * len(values) * np.finfo(np.float64).eps
        self.inverse = np.where(values > cut, 1.0 / np.where(values > cut, values, 1.0), 0.0)
        self.vectors = vectors

    def of_gradient(self, gradient: Array) -> Array:
        right = self.scale[:, None] * gradient
        if self.factor is not None:
            return self.scale[:, None] * linalg.cho_solve(self.factor, right, check_finite=False)
        rotated = self.inverse[:, None] * (self.vectors.T @ right)
        return self.scale[:, None] * (self.vectors @ rotated)

    def __call__(self, targets: Array) -> Array:
        return self.of_gradient(self.data.t_dot(targets))


class _KernelSolver:
    """The same by the n × n matrix Z R⁻¹ Zᵀ + I, R = diag ridge > 0 (Woodbury)."""

    def __init__(self, data: Centered, scale: Array, ridge: Array) -> None:
        self.data = data
        self.inverse = scale**2 / ridge
        kernel = centered_kernel(data, self.inverse)
        kernel[np.diag_indices_from(kernel)] += 1.0
        self.factor = linalg.cho_factor(kernel, lower=True, check_finite=False)

    def __call__(self, targets: Array) -> Array:
        dual = linalg.cho_solve(self.factor, targets, check_finite=False)
        return self.inverse[:, None] * self.data.t_dot(dual)

    def of_gradient(self, gradient: Array) -> Array:
        first = self.inverse[:, None] * gradient
        inner = linalg.cho_solve(self.factor, self.data.dot(first), check_finite=False)
        return first - self.inverse[:, None] * self.data.t_dot(inner)


def _iterative(data: Centered, scale: Array, ridge: Array, tol: float, max_iter: int | None) -> tuple[Array, int, bool]:
    n, d = data.X.shape
    damping = np.sqrt(ridge)

    def forward(v: Array) -> Array:
        v = v.reshape(-1, 1)
        return np.concatenate([data.dot(scale[:, None] * v)[:, 0], damping * v[:, 0]])

    def backward(u: Array) -> Array:
        return scale * data.t_dot(u[:n, None])[:, 0] + damping * u[n:]

    operator = LinearOperator((n + d, d), matvec=forward, rmatvec=backward, dtype=np.float64)
    columns, most, converged = [], 0, True
    for target in data.targets.T:
        right = np.concatenate([target, np.zeros(d)])
        answer = lsmr(operator, right, atol=tol, btol=tol, conlim=0.0, maxiter=max_iter or 10 * d)
        columns.append(scale * answer[0])
        most, converged = max(most, int(answer[2])), converged and answer[1] != 7
    return np.stack(columns, axis=1), max(most, 1), converged
