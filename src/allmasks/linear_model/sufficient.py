"""Sufficient statistics of a least-squares problem: they add, so data can come in batches or from many machines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from allmasks.linear_model.centered import Centered, centered_gram, exact_sum, is_constant, second_moments
from allmasks.linear_model.checks import check_squares
from allmasks.linear_model.partitions import Part, Partitions
from allmasks.linear_model.quadratic import LARGEST_GRAM, GramSolver, LeastSquares, in_units

__all__ = ["Sufficient", "squares_over_partitions"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sufficient:
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
    def of(cls, X: Any, y: Array, weight: Array) -> Sufficient:
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

    @classmethod
    def of_partitions(cls, data: Partitions) -> Sufficient:
        """Those of all rows, each partition centered by itself and merged."""
        if data.n_features > LARGEST_GRAM:
            raise ValueError(
                f"DropoutRidge on Dask data adds up d × d statistics, for at most {LARGEST_GRAM} features; X has "
                f"{data.n_features}. Select features, or fit in memory, where an iterative solver takes over"
            )
        total: Sufficient | None = data.sum(_of_part)
        if total is None:
            raise ValueError("X has no row of positive sample_weight; at least one is needed")
        return total

    def __add__(self, other: Sufficient) -> Sufficient:
        # Chan, Golub & LeVeque 1983: centered sums merge without cancellation; their means differ by what is exact.
        total = self.weight + other.weight
        dx = (other.x_mean - self.x_mean) + (other.x_rest - self.x_rest)
        dy = (other.y_mean - self.y_mean) + (other.y_rest - self.y_rest)
        between, share = self.weight * (other.weight / total), other.weight / total
        x_mean, x_rest = exact_sum(self.x_mean, self.x_rest + dx * share)
        y_mean, y_rest = exact_sum(self.y_mean, self.y_rest + dy * share)
        return Sufficient(
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

    def raw(self) -> Sufficient:
        """The same without centering, for a fit without intercept."""
        zero_x, zero_y = np.zeros_like(self.x_mean), np.zeros_like(self.y_mean)
        return replace(
            self,
            gram=self.gram + self.weight * np.outer(self.x_mean, self.x_mean),
            cross=self.cross + self.weight * np.outer(self.x_mean, self.y_mean),
            y_gram=self.y_gram + self.weight * np.outer(self.y_mean, self.y_mean),
            x_mean=zero_x,
            x_rest=zero_x,
            y_mean=zero_y,
            y_rest=zero_y,
        )

    def solve(self, penalty: Array) -> LeastSquares:
        """The minimiser of Σ s (y − b − x·w)² + Σ penalty w², of least norm where it is not unique."""
        own = np.diag(self.gram)
        live = (own > 0) & ~is_constant(own, self.weight, self.x_mean) & np.isfinite(penalty)
        solver = GramSolver(self.gram.copy(), *in_units(own, penalty, live), factorize=False)
        finite = np.where(live, penalty, 0.0)[:, None]
        coef = solver(self.cross)
        coef = coef + solver(self.cross - self.gram @ coef - finite * coef)
        return LeastSquares(coef, self.y_mean - self.x_mean @ coef, 1)

    def residual(self, coef: Array) -> float:
        """Σ s (y − b − x·w)² over rows and outputs, b the best one for these w (d, k)."""
        parts = self.y_gram - coef.T @ self.cross - self.cross.T @ coef + coef.T @ self.gram @ coef
        return max(float(np.trace(parts)), 0.0)


def squares_over_partitions(data: Partitions) -> tuple[Array, int]:
    """Σᵢ xᵢⱼ² and the number of rows."""
    squares, n = data.sum(_squares) or (np.zeros(data.n_features), 0)
    return squares, n


def _of_part(part: Part) -> Sufficient | None:
    y = check_array(part.y, ensure_2d=False, dtype=np.float64, input_name="y").reshape(part.X.shape[0], -1)
    used = part.used()
    return None if used is None else Sufficient.of(used.X, y[part.weight > 0], used.weight)


def _squares(part: Part) -> tuple[Array, int]:
    return second_moments(part.X), part.X.shape[0]
