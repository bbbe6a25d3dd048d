"""Sufficient statistics of a least-squares problem: they add, so data can come in batches or from many machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from allmasks.linear_model.centered import Centered, centered_gram, exact_sum, is_constant
from allmasks.linear_model.checks import check_squares
from allmasks.linear_model.quadratic import LARGEST_GRAM, Solution

__all__ = ["Moments"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Weighted means and centered second moments of rows and targets. Two of them add up to those of all rows.

    n_rows : rows seen. weight : Σs. x_mean (d,), y_mean (k,), and what rounding took off them: x_rest, y_rest.
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
    x_rest: Array
    y_rest: Array

    @classmethod
    def of(cls, X: Any, y: Array, weight: Array) -> Moments:
        """The statistics of some rows: X (n, d) dense or CSR, y (n, k), weight (n,)."""
        if X.shape[1] > LARGEST_GRAM:
            raise ValueError(
                f"statistics that add up are a d × d matrix, kept for at most {LARGEST_GRAM} features; X has "
                f"{X.shape[1]}. Select features, or fit all rows at once: fit needs no such matrix"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            data = Centered.of(X, y, weight, center=True)
            total = float(weight.sum())
            squares = data.energy + total * exact_sum(data.shift, data.x_mean)[0] ** 2
        check_squares(squares, X)
        gram = centered_gram(data)
        gram[data.energy == 0.0] = 0.0
        gram[:, data.energy == 0.0] = 0.0
        targets = data.targets
        x_mean, x_rest = exact_sum(data.shift, data.x_mean)
        cross = np.where(data.energy[:, None] > 0.0, data.t_dot(targets), 0.0)
        y_gram = targets.T @ targets
        x_rest = x_rest + data.x_rest
        return cls(len(y), total, x_mean, data.y_mean, gram, cross, y_gram, squares, x_rest, data.y_rest)

    def __add__(self, other: Moments) -> Moments:
        # Chan, Golub & LeVeque 1983: centered sums merge without cancellation; their means differ by what is exact.
        total = self.weight + other.weight
        dx = (other.x_mean - self.x_mean) + (other.x_rest - self.x_rest)
        dy = (other.y_mean - self.y_mean) + (other.y_rest - self.y_rest)
        between, share = self.weight * (other.weight / total), other.weight / total
        x_mean, x_rest = exact_sum(self.x_mean, self.x_rest + dx * share)
        y_mean, y_rest = exact_sum(self.y_mean, self.y_rest + dy * share)
        return Moments(
            self.n_rows + other.n_rows,
            total,
            x_mean,
            y_mean,
            self.gram + other.gram + between * np.outer(dx, dx),
            self.cross + other.cross + between * np.outer(dx, dy),
            self.y_gram + other.y_gram + between * np.outer(dy, dy),
            self.squares + other.squares,
            x_rest,
            y_rest,
        )

    def raw(self) -> Moments:
        """The same without centering, for a fit without intercept."""
        zero_x, zero_y = np.zeros_like(self.x_mean), np.zeros_like(self.y_mean)
        return Moments(
            self.n_rows,
            self.weight,
            zero_x,
            zero_y,
            self.gram + self.weight * np.outer(self.x_mean, self.x_mean),
            self.cross + self.weight * np.outer(self.x_mean, self.y_mean),
            self.y_gram + self.weight * np.outer(self.y_mean, self.y_mean),
            self.squares,
            zero_x,
            zero_y,
        )

    def solve(self, penalty: Array) -> Solution:
        """The minimiser of Σ s (y − b − x·w)² + Σ penalty w², of least norm where it is not unique."""
        own = np.diag(self.gram)
        live = (own > 0) & ~is_constant(own, self.weight, self.x_mean) & np.isfinite(penalty)
        size = own + penalty
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
