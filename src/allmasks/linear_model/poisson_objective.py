"""The Poisson dropout objective, its gradient and its Hessian, all exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.linear_model.curvature import summed_squares
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.newton import Curvature
from allmasks.linear_model.separation import recedes
from allmasks.linear_model.stopping import AtRest
from allmasks.linear_model.unknowns import Unknowns
from allmasks.losses import power_less_line
from allmasks.scores.exponentials import log_mean_exp, tilt

__all__ = ["ExactPoisson", "check_counts", "log_of"]

Array = NDArray[np.float64]


class ExactPoisson(Unknowns):
    """f = Σ sᵢ (Mᵢ − yᵢ μᵢ) + α/2 ‖w‖², log Mᵢ = b + Σⱼ log(pⱼ + qⱼ e^{aᵢⱼ}), aᵢⱼ = wⱼ xᵢⱼ / qⱼ.

    With the tilt kᵢⱼ = e^{aᵢⱼ} / (pⱼ + qⱼ e^{aᵢⱼ}) ≤ 1/qⱼ of a kept unit and x̂ = k∘x, ∂Mᵢ/∂wⱼ = Mᵢ x̂ᵢⱼ, and the
    Hessian is Σ sᵢ Mᵢ (x̂ᵢx̂ᵢᵀ + diag(xᵢⱼ² kᵢⱼ (1/qⱼ − kᵢⱼ))) + α.
    """

    def __init__(
        self, rows: Rows, y: Array, weight: Array, p: Array, alpha: float, fit_intercept: bool, rest: float = 0.0
    ) -> None:
        """rest : the best intercept at weights 0 (over all rows, where these are a part of them)."""
        self.rows, self.y, self.weight, self.p = rows, y, weight, p
        self.alpha, self.fit_intercept, self.rest = alpha, fit_intercept, rest

    def at_rest(self) -> AtRest:
        """At weights 0 every mask gives e^rest."""
        mean, counted = self.weight * float(np.exp(self.rest)), self.weight * self.y
        return AtRest.of(self.rows, mean - counted, mean + counted, (mean, counted), self.fit_intercept)

    @property
    def nothing_counted(self) -> bool:
        """Whether y is 0 throughout."""
        return not self.y.any()

    def unbounded(self) -> NDArray[np.bool_]:
        """Features that occur, with one sign, only in rows of y = 0: their best weight is infinite at alpha = 0."""
        positive, negative = self.rows.signs(np.ones(self.rows.n), np.ones(self.rows.n, bool))
        return (positive ^ negative) & ~self.counted()

    def receding(self, w: Array) -> bool:
        """Whether a combination of undropped features is constant where y > 0 and falls elsewhere, at α = 0."""
        weights, b = self.split(w)
        nothing = self.y == 0.0
        mean = np.exp(np.minimum(self.rows.dot(weights) + b, 700.0))
        if not nothing.any() or mean[nothing].min() > 1e-3 * float(np.average(self.y, weights=self.weight)):
            return False
        undropped = np.flatnonzero(self.p == 0.0)
        return recedes(self.rows.X[:, undropped], np.where(nothing, -1.0, 1.0), ~nothing, self.fit_intercept)

    def counted(self) -> NDArray[np.bool_]:
        """Features that occur in a row of y > 0."""
        return np.asarray(abs(self.rows.X[self.y > 0]).sum(axis=0)).ravel() > 0

    def equivalent_penalty(self, w: Array) -> Array:
        """p/(1 − p) Σᵢ sᵢ e^{μᵢ} xᵢⱼ², (d,)."""
        weights, b = self.split(w)
        mean = np.exp(self.rows.dot(weights) + b)
        with np.errstate(over="ignore"):
            squares = self.rows.squares_transposed_dot(self.weight * mean)
        # A unit that is never dropped pays nothing, however large its inputs.
        return self.p / (1.0 - self.p) * np.where(self.p > 0, squares, 0.0)

    def _tilted(self, weights: Array, b: float) -> tuple[Array, Any, Array]:
        """log M (n,), x̂ on the pattern of X, and Σ-ready pieces xᵢⱼ² kᵢⱼ (1/qⱼ − kᵢⱼ) summed with sᵢMᵢ over rows."""
        X, q = self.rows.X, 1.0 - self.p
        if not self.p.any():
            return self.rows.dot(weights) + b, X, np.zeros(self.rows.d)
        per_unit = weights / q
        extra = np.zeros(self.rows.d)
        log_mean = np.full(self.rows.n, b)
        hat = np.empty_like(X.data if sparse.issparse(X) else X)
        for block in self.rows.blocks():
            if sparse.issparse(X):
                ends = X.indptr[block.start : block.stop + 1]
                part = slice(ends[0], ends[-1])
                columns, x = X.indices[part], X.data[part]
                row_of = np.repeat(np.arange(block.stop - block.start), np.diff(ends))
                a = per_unit[columns] * x
                log_kept = log_mean_exp(a, self.p[columns])
                log_mean[block] += np.bincount(row_of, log_kept, minlength=block.stop - block.start)
                k = tilt(a, self.p[columns])
                hat[part] = k * x
                size = (self.weight[block] * np.exp(log_mean[block]))[row_of]
                extra += np.bincount(columns, size * (x * k) * (x * np.maximum(1.0 / q[columns] - k, 0.0)), self.rows.d)
            else:
                x = X[block]
                a = per_unit * x
                log_kept = log_mean_exp(a, self.p)
                log_mean[block] += log_kept.sum(axis=1)
                k = tilt(a, self.p)
                hat[block] = k * x
                size = (self.weight[block] * np.exp(log_mean[block]))[:, None]
                extra += (size * (x * k) * (x * np.maximum(1.0 / q - k, 0.0))).sum(axis=0)
        if sparse.issparse(X):
            hat = sparse.csr_matrix((hat, X.indices, X.indptr), X.shape)
        return log_mean, hat, extra

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        weights, b = self.split(w)
        # A step too long may overflow: its value is then infinite and the line search shortens it.
        with np.errstate(over="ignore", invalid="ignore"):
            log_mean, hat, _ = self._tilted(weights, b)
            mean, mu = np.exp(log_mean), self.rows.dot(weights) + b
            value = float(self.weight @ power_less_line(log_mean, self.y, mu))
            value += 0.5 * self.alpha * float(weights @ weights)
            gradient = np.asarray(hat.T @ (self.weight * mean)) - self.rows.transposed_dot(self.weight * self.y)
            gradient = gradient + self.alpha * weights
            # Beyond all doubles, infinities of both signs may have met.
            value = np.inf if np.isnan(value) else value
            return value, self.join(gradient, float(self.weight @ (mean - self.y)))

    def rounding(self, w: Array) -> float:
        """Bound on the round-off of the value at w: of each row's log M and μ, and of the sum over rows."""
        weights, b = self.split(w)
        X = self.rows.X
        terms = int(np.diff(X.indptr).max(initial=0)) if sparse.issparse(X) else self.rows.d
        reach = np.abs(b) + np.asarray(abs(X) @ np.abs(weights / (1.0 - self.p)))
        mean = np.exp(self._tilted(weights, b)[0])
        sizes = self.weight * (mean + self.y * reach)
        with np.errstate(over="ignore"):
            rows = float(sizes @ ((terms + 16.0) * (reach + 4.0)))
        ridge = 0.5 * self.alpha * float(weights @ weights)
        eps = float(np.finfo(np.float64).eps)
        return eps * (rows + (self.rows.n + 4.0) * float(sizes.sum()) + (self.rows.d + 4.0) * ridge)

    def curvature(self, w: Array) -> Curvature:
        weights, b = self.split(w)
        log_mean, hat, extra = self._tilted(weights, b)
        size = self.weight * np.exp(log_mean)
        if sparse.issparse(hat):
            squares = np.asarray(hat.multiply(hat).T @ size)
        else:
            squares = np.einsum("ij,ij,i->j", hat, hat, size)
        return replace(summed_squares(self, hat, size, extra + self.alpha, squares), exact=True)


def check_counts(y: Array) -> Array:
    """y, refused where it is below 0."""
    if (y < 0).any():
        raise ValueError(f"y must be 0 or more for a Poisson loss, got {y.min():g} in row {int(np.argmin(y))}")
    return y


def log_of(mean: float, fit_intercept: bool) -> float:
    """The intercept that is best at weights 0 for this weighted mean of y; 0 where none is finite."""
    return float(np.log(mean)) if fit_intercept and 0.0 < mean < np.inf else 0.0
