"""Sufficient statistics of a least-squares problem: they add, so data can come in batches or from many machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from allmasks.linear_model.quadratic import Centered, Solution, centered_gram

__all__ = ["Moments"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weighted means and centered second moments of rows and targets. Two of them add up to those of all rows.

    n_rows : rows seen. weight : Σs. x_mean (d,), y_mean (k,).
    gram (d, d), cross (d, k), y_gram (k, k) : Σ s (x − x̄)(x − x̄)ᵀ, Σ s (x − x̄)(y − ȳ)ᵀ, Σ s (y − ȳ)(y − ȳ)ᵀ.
    squares (d,) : Σ s x², of the raw columns.
    """

    n_rows: int
    weight: float
    x_mean: Array
    y_mean: Array
    gram: Array
    cross: Array
    y_gram: Array
    squares: Array

    @classmethod
    def of(cls, X: Any, y: Array, weight: Array) -> Moments:
        """The statistics of some rows: X (n, d) dense or CSR, y (n, k), weight (n,)."""
        data = Centered.of(X, y, weight, center=True)
        gram = centered_gram(data)
        total = float(weight.sum())
        targets = data.targets
        squares = np.diag(gram) + total * data.x_mean**2
        return cls(
            len(y), total, data.x_mean, data.y_mean, gram, data.t_dot(targets), targets.T @ targets, squares.copy()
        )

    def __add__(self, other: Moments) -> Moments:
        # Chan, Golub & LeVeque 1983: centered sums merge without cancellation.
        total = self.weight + other.weight
        dx, dy = other.x_mean - self.x_mean, other.y_mean - self.y_mean
        between = self.weight * other.weight / total
        return Moments(
            self.n_rows + other.n_rows,
            total,
            self.x_mean + dx * (other.weight / total),
            self.y_mean + dy * (other.weight / total),
            self.gram + other.gram + between * np.outer(dx, dx),
            self.cross + other.cross + between * np.outer(dx, dy),
            self.y_gram + other.y_gram + between * np.outer(dy, dy),
            self.squares + other.squares,
        )

    def raw(self) -> Moments:
        """The same without centering, for a fit without intercept."""
        return Moments(
            self.n_rows,
            self.weight,
            np.zeros_like(self.x_mean),
            np.zeros_like(self.y_mean),
            self.gram + self.weight * np.outer(self.x_mean, self.x_mean),
            self.cross + self.weight * np.outer(self.x_mean, self.y_mean),
            self.y_gram + self.weight * np.outer(self.y_mean, self.y_mean),
            self.squares,
        )

    def solve(self, penalty: Array) -> Solution:
        """The minimiser of Σ s (y − b − x·w)² + Σ penalty w², of least norm where it is not unique."""
        live = (self.squares > 0) & np.isfinite(penalty)
        size = np.diag(self.gram) + penalty
        scale = np.where(live & (size > 0), 1.0 / np.sqrt(np.where(size > 0, size, 1.0)), 0.0)
        matrix = self.gram * scale * scale[:, None]
        matrix[np.diag_indices_from(matrix)] += np.where(live, penalty * scale**2, 1.0)
        values, vectors = linalg.eigh(matrix, driver="evd", check_finite=False)
        cut = values[-1] * len(values) * np.finfo(np.float64).eps
        inverse = np.where(values > cut, 1.0 / np.where(values > cut, values, 1.0), 0.0)

        def apply(right: Array) -> Array:
            rotated = inverse[:, None] * (vectors.T @ (scale[:, None] * right))
            return scale[:, None] * (vectors @ rotated)

        finite = np.where(live, penalty, 0.0)[:, None]
        coef = apply(self.cross)
        coef = coef + apply(self.cross - self.gram @ coef - finite * coef)
        return Solution(coef, self.y_mean - self.x_mean @ coef, 1)

    def residual(self, coef: Array) -> float:
        """Σ s (y − b − x·w)² over rows and outputs, b the best one for these w (d, k)."""
        parts = self.y_gram - coef.T @ self.cross - self.cross.T @ coef + coef.T @ self.gram @ coef
        return max(float(np.trace(parts)), 0.0)
