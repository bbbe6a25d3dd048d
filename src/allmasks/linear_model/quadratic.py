"""Least squares with a penalty of its own on each coefficient, solved the cheap way for the shape at hand.

    min over w, b:  Σᵢ sᵢ (yᵢ − b − xᵢ·w)² + Σⱼ λⱼ wⱼ²

Dense or CSR, n < d and d < n, one output or several. A direct solution goes through the smaller of the two Gram
matrices (d × d, or n × n by the kernel trick); where both are too large, LSMR runs on an operator that centers and
scales without touching X.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, lsmr

from allmasks.linear_model.centered import Centered, centered_gram, centered_kernel

__all__ = ["LARGEST_GRAM", "GramSolver", "LeastSquares", "in_units", "inverted", "solve_penalized"]

Array = NDArray[np.float64]

LARGEST_GRAM = 8192
"""Rows of the largest Gram matrix that is formed: 512 MB."""

_LARGEST_ROWS = 2**26
"""Numbers up to which rows are taken apart by their singular values: 512 MB."""

_FAINT = 1e12
"""Data over penalty in the kernel from which its Cholesky factor would be all rounding."""


@dataclass(frozen=True)
class LeastSquares:
    """coef (d, k), intercept (k,), and iterations (1 where solved directly)."""

    coef: Array
    intercept: Array
    n_iter: int
    converged: bool = True


def solve_penalized(data: Centered, penalty: Array, *, tol: float, max_iter: int | None) -> LeastSquares:
    """The minimiser; of least norm, columns scaled to one length, where coefficients without penalty are undetermined.

    Parameters
    ----------
    penalty : (d,) λ ≥ 0.
    tol, max_iter : of LSMR, where n and d are both beyond `LARGEST_GRAM`.

    Constant columns (where an intercept is fitted; else columns of zeros) and coefficients with an infinite penalty
    come out as 0.
    """
    n, d = data.X.shape
    energy = data.energy
    live = (energy > 0) & np.isfinite(penalty)
    scale, ridge = in_units(energy, penalty, live)
    if min(n, d) > LARGEST_GRAM:
        coef, n_iter, converged = _iterative(data, scale, ridge, tol, max_iter)
    else:
        n_iter, converged = 1, True
        coef = _by_kernel(data, scale, ridge) if d > n else _by_gram(data, penalty, scale, ridge)
    coef = np.where(live[:, None], coef, 0.0)
    return LeastSquares(coef, data.intercept(coef), n_iter, converged)


def in_units(energy: Array, penalty: Array, live: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Scales under which each live column and its penalty together have length 1, and the penalties under them.

    No solver then meets a scale. Columns that are not live have scale 0 and penalty 1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(live, 1.0 / np.sqrt(energy + penalty), 0.0)
    scale[~np.isfinite(scale)] = 0.0
    return scale, np.where(live, penalty * scale**2, 1.0)


def _by_gram(data: Centered, penalty: Array, scale: Array, ridge: Array) -> Array:
    solver = GramSolver(centered_gram(data), scale, ridge)
    coef = solver(data.t_dot(data.targets))
    # One step of refinement on the residuals of the data themselves: the normal equations square the condition.
    gradient = data.t_dot(data.targets - data.dot(coef)) - penalty[:, None] * coef
    return coef + solver(np.where(np.isfinite(gradient), gradient, 0.0))


class GramSolver:
    """(ZᵀZ + diag ridge)⁻¹ for Z = centered X · scale: Cholesky, or the pseudo-inverse where that fails."""

    def __init__(self, gram: Array, scale: Array, ridge: Array, *, factorize: bool = True) -> None:
        """gram : of the centered X; written over. factorize : whether to try Cholesky's way at all."""
        self.scale = scale
        gram *= scale
        gram *= scale[:, None]
        gram[np.diag_indices_from(gram)] += ridge
        self.factor: Any = None
        with suppress(linalg.LinAlgError):
            factor = linalg.cho_factor(gram, lower=True, check_finite=False) if factorize else None
            if factor is not None and np.abs(np.diag(factor[0])).min() > 1e-6:
                self.factor = factor
                return
        values, self.vectors = linalg.eigh(gram, driver="evd", check_finite=False)
        self.inverse = inverted(values, 0.0)

    def __call__(self, gradient: Array) -> Array:
        right = self.scale[:, None] * gradient
        if self.factor is not None:
            return self.scale[:, None] * linalg.cho_solve(self.factor, right, check_finite=False)
        rotated = self.inverse[:, None] * (self.vectors.T @ right)
        return self.scale[:, None] * (self.vectors @ rotated)


def _by_kernel(data: Centered, scale: Array, ridge: Array) -> Array:
    solver = _KernelSolver(data, scale, ridge)
    coef, dual = solver(data.targets)
    # At the solution the dual variables are the residuals: one step of refinement on the difference.
    return coef + solver(data.targets - data.dot(coef) - dual)[0]


class _KernelSolver:
    """The same by n × n matrices, for n < d: nothing of d × d is formed, whichever columns carry no penalty.

    The penalised columns are integrated out (Woodbury): K = Z R⁻¹ Zᵀ + I over them, R = diag ridge. The others, Z₀,
    are then least squares in the metric K⁻¹, of least norm.
    """

    def __init__(self, data: Centered, scale: Array, ridge: Array) -> None:
        self.data = data
        free = (ridge == 0.0) & (scale > 0.0)
        self.inverse = np.where(free, 0.0, scale**2 / np.where(free, 1.0, ridge))
        self.factor: Any = None
        self.whiten: Any = None
        self.to_penalized: Any = None
        n = len(data.root)
        if (self.inverse > 0).any():
            kernel = centered_kernel(data, self.inverse)
            if float(np.trace(kernel)) < _FAINT:
                kernel[np.diag_indices_from(kernel)] += 1.0
                self.factor = linalg.cholesky(kernel, lower=True, check_finite=False, overwrite_a=True)
            elif n * len(scale) <= _LARGEST_ROWS:
                self._by_singular_values()
            else:
                values, vectors = linalg.eigh(kernel, driver="evd", check_finite=False)
                self.whiten = np.sqrt(inverted(values, 1.0))[:, None] * vectors.T
        self.free = np.flatnonzero(free)
        self.scale = scale
        if not len(self.free):
            return
        if len(self.free) <= n:
            left, values, right = linalg.svd(
                self._half(data.columns(self.free) * scale[self.free]), full_matrices=False, check_finite=False
            )
            fine = values > values[0] * n * np.finfo(np.float64).eps
            self.to_free = (right.T * np.where(fine, 1.0 / np.where(fine, values, 1.0), 0.0)) @ left.T
        else:
            inner = self._half(self._half(centered_kernel(data, np.where(free, scale**2, 0.0))).T)
            values, vectors = linalg.eigh(inner, driver="evd" if n > 1 else None, check_finite=False)
            self.back = (vectors * inverted(values, 0.0)) @ vectors.T
            self.to_free = None

    def _by_singular_values(self) -> None:
        """Of the rows themselves: their squares would lose what nearly collinear columns still say of each other."""
        which = np.flatnonzero(self.inverse)
        units, n = np.sqrt(self.inverse[which]), len(self.data.root)
        left, values, right = linalg.svd(
            self.data.columns(which) * units, full_matrices=len(which) < n, check_finite=False
        )
        values = np.where(values > values[0] * max(n, len(which)) * np.finfo(np.float64).eps, values, 0.0)
        roots = np.sqrt(values**2 + 1.0)
        self.whiten = left.T.copy()
        self.whiten[: len(values)] /= roots[:, None]
        self.to_penalized = which, (units[:, None] * right[: len(values)].T) * (values / roots)

    def _half(self, right: Array) -> Array:
        """H right, where HᵀH = K⁻¹."""
        if self.factor is not None:
            return np.asarray(linalg.solve_triangular(self.factor, right, lower=True, check_finite=False))
        return right if self.whiten is None else self.whiten @ right

    def _half_t(self, right: Array) -> Array:
        if self.factor is not None:
            return np.asarray(linalg.solve_triangular(self.factor, right, lower=True, trans="T", check_finite=False))
        return right if self.whiten is None else self.whiten.T @ right

    def __call__(self, targets: Array) -> tuple[Array, Array]:
        """Coefficients (d, k) and dual variables (n, k)."""
        data, coef = self.data, np.zeros((len(self.scale), targets.shape[1]))
        white = self._half(targets)
        if len(self.free):
            if self.to_free is not None:
                coef[self.free] = self.scale[self.free, None] * (self.to_free @ white)
            else:
                pulled = data.t_dot(self._half_t(self.back @ white))
                coef[self.free] = (self.scale[self.free] ** 2)[:, None] * pulled[self.free]
            white = white - self._half(data.dot(coef))
        dual = self._half_t(white)
        if self.to_penalized is not None:
            which, back = self.to_penalized
            coef[which] = back @ white[: back.shape[1]]
            return coef, dual
        if self.factor is None and self.whiten is None:
            return coef, dual
        return coef + self.inverse[:, None] * data.t_dot(dual), dual


def inverted(values: Array, more: float) -> Array:
    """1 / (values + more) for eigenvalues of a semidefinite matrix; 0 for those that are rounding alone."""
    cut = values[-1] * len(values) * np.finfo(np.float64).eps
    fine = values > cut if more <= cut else np.ones(len(values), bool)
    total = np.maximum(values, 0.0) + more
    return np.where(fine, 1.0 / np.where(fine, total, 1.0), 0.0)


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
