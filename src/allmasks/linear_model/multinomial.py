"""Several classes at once under dropout, to second order: the multinomial loss has no closed mean over masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.special import logsumexp, softmax

from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.logistic_solver import LogisticFit
from allmasks.linear_model.stopping import norm

__all__ = ["QuadraticMultinomial"]

Array = NDArray[np.float64]

_ROUNDING = float(np.finfo(np.float64).eps)

_STEPS = 50
"""Steps of L-BFGS for one of Newton's."""


@dataclass(frozen=True)
class QuadraticMultinomial:
    """Σᵢ ℓᵢ(zᵢ) + ½ Σᵢ tr(Hᵢ Cov zᵢ) + α/2 ‖W‖², the expected loss over masks to second order in the scores' spread.

    zᵢ = b + W xᵢ are the scores at the mean mask, Hᵢ = diag πᵢ − πᵢ πᵢᵀ their softmax's curvature, and dropout gives
    them Cov zᵢ = Σⱼ vⱼ xᵢⱼ² wⱼ wⱼᵀ, vⱼ = pⱼ/(1 − pⱼ). Not convex, but never below 0.

    Attributes
    ----------
    labels : (n, K) weight of each row's class, 0 elsewhere. noisy : (n,) weight of its second-order term.
    free : columns of scores that are fitted: the last alone for two classes, whose first score is then 0.
    """

    rows: Rows
    spread: Array
    alpha: float
    fit_intercept: bool
    labels: Array
    noisy: Array

    @property
    def free(self) -> slice:
        return slice(1, 2) if self.labels.shape[1] == 2 else slice(0, self.labels.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        k = self.labels.shape[1]
        return (1 if k == 2 else k), self.rows.d

    def split(self, theta: Array) -> tuple[Array, Array]:
        """W (K, d) and b (K,), fixed zeros included."""
        f, d = self.shape
        W, b = np.zeros((self.labels.shape[1], d)), np.zeros(self.labels.shape[1])
        W[self.free] = theta[: f * d].reshape(f, d)
        if self.fit_intercept:
            b[self.free] = theta[f * d :]
        return W, b

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        W, b = self.split(theta)
        weighted = self.spread * W
        value, to_w, to_b = 0.5 * self.alpha * float((W * W).sum()), self.alpha * W, np.zeros(len(b))
        for block in self.rows.blocks():
            X, squares = self._block(block)
            z = X @ W.T + b
            pi, labels, noisy = softmax(z, axis=1), self.labels[block], self.noisy[block, None]
            mixed = _times(squares, pi, W)
            across = np.asarray(mixed @ weighted.T)
            slope = 0.5 * np.asarray(squares @ (weighted * W).T) - across
            total = labels.sum(axis=1)
            value += float(total @ logsumexp(z, axis=1) - (labels * z).sum())
            value += float((noisy * pi * (slope + 0.5 * across)).sum())
            mean = (pi * slope).sum(axis=1, keepdims=True)
            to_z = pi * total[:, None] - labels + noisy * pi * (slope - mean)
            to_w += np.asarray(X.T @ to_z).T
            to_w += self.spread * (np.asarray(squares.T @ (noisy * pi)).T * W - np.asarray(mixed.T @ (noisy * pi)).T)
            to_b += to_z.sum(axis=0)
        parts = [to_w[self.free].ravel()]
        return value, np.concatenate([*parts, to_b[self.free]] if self.fit_intercept else parts)

    def _block(self, block: slice) -> tuple[Any, Any]:
        X = self.rows.X[block]
        if self.rows.squares is not None:
            return X, self.rows.squares[block]
        return X, np.square(X)

    def equivalent_penalty(self, theta: Array) -> Array:
        """λ of each free score and feature: vⱼ Σᵢ rᵢ πᵢₖ(1 − πᵢₖ) xᵢⱼ²."""
        W, b = self.split(theta)
        pi = softmax(self.rows.dot(W.T) + b, axis=1)
        curved = self.noisy[:, None] * pi * (1.0 - pi)
        return np.asarray(self.spread * self.rows.squares_transposed_dot(curved).T)[self.free]

    def solve(
        self, start: Array | None, tol: float, max_iter: int, report: Callable[[str], None] | None = None
    ) -> LogisticFit:
        """Descend by L-BFGS until ‖∇‖₂ ≤ tol times its value at 0; the value's error is not known (nan)."""
        f, d = self.shape
        rest = np.zeros(f * (d + self.fit_intercept))
        # In units of the rows' whole weight: L-BFGS knows sizes.
        unit = float(self.labels.sum())
        if self.fit_intercept:
            share = np.log(self.labels.sum(axis=0) / unit)
            rest[f * d :] = share[1] - share[0] if f == 1 else share
        scale = norm(self.value_and_gradient(np.zeros(len(rest)))[1])
        pile = unit * norm(np.asarray(self.rows.absolute_transposed_dot(self.labels.sum(axis=1) / unit)))
        floor = _ROUNDING * (8.0 + np.sqrt(self.rows.n)) * (pile + unit)
        target = max(tol * scale, floor)
        theta = rest if start is None else start
        taken = 0

        def per_weight(theta: Array) -> tuple[float, Array]:
            value, gradient = self.value_and_gradient(theta)
            return value / unit, gradient / unit

        def told(intermediate_result: optimize.OptimizeResult) -> None:  # SciPy looks at the name
            nonlocal taken
            taken += 1
            assert report is not None
            report(f"step {taken}: approximate objective {unit * intermediate_result.fun:.10g}")

        found = optimize.minimize(
            per_weight,
            theta,
            jac=True,
            method="L-BFGS-B",
            callback=told if report is not None else None,
            options={
                "maxiter": _STEPS * max_iter,
                "maxfun": 4 * _STEPS * max(max_iter, 1),
                "gtol": target / unit / np.sqrt(len(rest)),
                "ftol": 0.0,
                "maxcor": 20,
            },
        )
        value, gradient = self.value_and_gradient(found.x)
        size = norm(gradient)
        relative = 0.0 if size <= floor else size / scale
        return LogisticFit(found.x, value, np.nan, size, relative, int(found.nit), size <= target)


def _times(squares: Any, pi: Array, W: Array) -> Any:
    """squares ∘ (π W), on the pattern of squares."""
    if not sparse.issparse(squares):
        return squares * (pi @ W)
    row = np.repeat(np.arange(squares.shape[0]), np.diff(squares.indptr))
    mixed = np.zeros(squares.nnz)
    for k in range(len(W)):
        mixed += pi[row, k] * W[k, squares.indices]
    return sparse.csr_matrix((squares.data * mixed, squares.indices, squares.indptr), squares.shape)
