"""Several classes at once under dropout: the multinomial loss, whose mean over masks has no closed form.

To second order in the scores' spread (`QuadraticMultinomial`), or from above (`BoundedMultinomial`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.special import logsumexp, softmax

from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.logistic_solver import LogisticFit
from allmasks.linear_model.newton import Curvature, minimize, solver_of
from allmasks.linear_model.stopping import norm
from allmasks.scores.class_scores import ClassProblem
from allmasks.scores.softmax import bounded_losses, jensen_bounds

__all__ = ["BoundedMultinomial", "Multinomial", "QuadraticMultinomial"]

Array = NDArray[np.float64]

_ROUNDING = float(np.finfo(np.float64).eps)

_KEEP = 0.2
"""A step that divides the gradient by five shows a curvature good enough for the next step too."""

_BEYOND = 1e-5
"""Of few unknowns Newton's steps go on to this share of the target: rows repeated and rows weighted then agree."""

_FEW = 256
"""Unknowns up to which the curvature is factorized."""

_NARROW = 1e-6
"""Half of a row's width, in nats, at which its bounds need no further moments."""

_CLOSE = 0.1
"""How far apart the bounds may be, beside what Jensen's leaves, for their middle to be minimized."""

_PAIRED = 24
"""Classes up to which each unit's curvature is taken across them, too."""

_STEPS = 50
"""Steps of L-BFGS for one of Newton's."""


@dataclass(frozen=True)
class Multinomial(ABC):
    """One softmax of all classes, and how its loss is descended.

    Attributes
    ----------
    labels : (n, K) weight of each row's class, 0 elsewhere. noisy : (n,) weight of what dropout adds to its loss.
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

    @abstractmethod
    def value_and_gradient(self, theta: Array) -> tuple[float, Array]: ...

    @abstractmethod
    def _descend(
        self, theta: Array, unit: float, target: float, max_iter: int, report: Callable[[str], None] | None
    ) -> tuple[Array, int]:
        """Where the gradient is no longer than `target`, and the steps there. unit : the rows' whole weight."""

    def _block(self, block: slice) -> tuple[Any, Any]:
        X = self.rows.X[block]
        if self.rows.squares is not None:
            return X, self.rows.squares[block]
        return X, np.square(X)

    def _joined(self, to_w: Array, to_b: Array) -> Array:
        parts = [to_w[self.free].ravel()]
        return np.concatenate([*parts, to_b[self.free]] if self.fit_intercept else parts)

    def equivalent_penalty(self, theta: Array) -> Array:
        """λ of each free score and feature: vⱼ Σᵢ rᵢ πᵢₖ(1 − πᵢₖ) xᵢⱼ²."""
        W, b = self.split(theta)
        pi = softmax(self.rows.dot(W.T) + b, axis=1)
        curved = self.noisy[:, None] * pi * (1.0 - pi)
        return np.asarray(self.spread * self.rows.squares_transposed_dot(curved).T)[self.free]

    def solve(
        self, start: Array | None, tol: float, max_iter: int, report: Callable[[str], None] | None = None
    ) -> LogisticFit:
        """Descend until ‖∇‖₂ ≤ tol times its value at 0; the value's error is not known (nan)."""
        f, d = self.shape
        rest = np.zeros(f * (d + self.fit_intercept))
        unit = float(self.labels.sum())
        if self.fit_intercept:
            share = np.log(self.labels.sum(axis=0) / unit)
            rest[f * d :] = share[1] - share[0] if f == 1 else share
        scale = norm(self.value_and_gradient(np.zeros(len(rest)))[1])
        pile = unit * norm(np.asarray(self.rows.absolute_transposed_dot(self.labels.sum(axis=1) / unit)))
        floor = _ROUNDING * (8.0 + np.sqrt(self.rows.n)) * (pile + unit)
        target = max(tol * scale, floor)
        found, taken = self._descend(rest if start is None else start, unit, target, max_iter, report)
        value, gradient = self.value_and_gradient(found)
        size = norm(gradient)
        relative = 0.0 if size <= floor else size / scale
        return LogisticFit(found, value, np.nan, size, relative, taken, size <= target)


@dataclass(frozen=True)
class QuadraticMultinomial(Multinomial):
    """Σᵢ ℓᵢ(zᵢ) + ½ Σᵢ tr(Hᵢ Cov zᵢ) + α/2 ‖W‖², the expected loss over masks to second order in the scores' spread.

    zᵢ = b + W xᵢ are the scores at the mean mask, Hᵢ = diag πᵢ − πᵢ πᵢᵀ their softmax's curvature, and dropout gives
    them Cov zᵢ = Σⱼ vⱼ xᵢⱼ² wⱼ wⱼᵀ, vⱼ = pⱼ/(1 − pⱼ). Not convex, but never below 0.
    """

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
        return value, self._joined(to_w, to_b)

    def _descend(
        self, theta: Array, unit: float, target: float, max_iter: int, report: Callable[[str], None] | None
    ) -> tuple[Array, int]:
        """By L-BFGS, in units of the rows' whole weight: it knows sizes."""
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
                "gtol": target / unit / np.sqrt(len(theta)),
                "ftol": 0.0,
                "maxcor": 20,
            },
        )
        return np.asarray(found.x), int(found.nit)


@dataclass(frozen=True)
class BoundedMultinomial(Multinomial):
    """Σᵢ sᵢ E ℓᵢ + α/2 ‖W‖² from above, E log Σ e^S by Jensen's inequality around the softmax at the mean mask.

    Rows without a class (`labels` 0, `noisy` > 0) add what dropout adds to their log Σ e^z.
    """

    p: Array

    def _problem(self, theta: Array) -> ClassProblem:
        W, b = self.split(theta)
        return ClassProblem(W, self.rows.X, self.p, b, np.full(self.rows.n, 1.0 / self.rows.n))

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        problem = self._problem(theta)
        bounds, to_w, to_b = jensen_bounds(problem, self.noisy)
        value, own, to_z = self._beside(problem)
        to_w += self.alpha * problem.weights + np.asarray(self.rows.transposed_dot(to_z)).T
        return value + own + float(self.noisy @ bounds), self._joined(to_w, to_b + to_z.sum(axis=0))

    def curvature(self, theta: Array) -> Curvature:
        """The Hessian to second order in the spread, each row's softmax held: Hᵢ ⊗ (xᵢ xᵢᵀ + diag v∘xᵢ²), and α."""
        problem = self._problem(theta)
        classes, d = problem.weights.shape
        pi, whole = softmax(problem.mean(), axis=1), self.labels.sum(axis=1)[:, None]
        pairs = classes <= _PAIRED
        by_unit = np.zeros((d, classes, classes) if pairs else (d, classes))
        for block in self.rows.blocks():
            part, weighted = pi[block], self.noisy[block, None] * pi[block]
            bend = weighted * (1.0 - part)
            if pairs:
                bend = -weighted[:, :, None] * part[:, None, :]
                bend[:, range(classes), range(classes)] += weighted
            squares = self._block(block)[1]
            by_unit += np.asarray(squares.T @ bend.reshape(len(part), -1)).reshape(by_unit.shape)
        by_unit *= self.spread.reshape(-1, *[1] * (by_unit.ndim - 1))

        def product(u: Array) -> Array:
            V, c = self.split(u)
            moved = pi * (np.asarray(self.rows.dot(V.T)) + c)
            moved = whole * (moved - pi * moved.sum(axis=1, keepdims=True))
            noise = np.einsum("jkl,lj->kj", by_unit, V) if pairs else by_unit.T * V
            out = np.asarray(self.rows.transposed_dot(moved)).T + self.alpha * V + noise
            return self._joined(out, moved.sum(axis=0))

        own = whole * pi * (1.0 - pi)
        noise = np.einsum("jkk->kj", by_unit) if pairs else by_unit.T
        of_weights = self.alpha + noise + np.asarray(self.rows.squares_transposed_dot(own)).T
        diagonal = self._joined(of_weights, own.sum(axis=0))
        if len(theta) > _FEW:
            return Curvature(product, diagonal)
        # Of few unknowns directly; intercepts that all move alike bend nothing, and are held.
        H = np.array([product(e) for e in np.eye(len(theta))])
        H[classes * d :, classes * d :] += diagonal.mean()
        return Curvature(product, diagonal, solve=solver_of(H))

    def _descend(
        self, theta: Array, unit: float, target: float, max_iter: int, report: Callable[[str], None] | None
    ) -> tuple[Array, int]:
        def told(step: int, value: float, size: float) -> None:
            if report is not None:
                report(f"step {step}: upper bound {value:.10g}, gradient {size:.1e}")

        noise = 16.0 * _ROUNDING * unit * float(np.log(self.labels.shape[1]) + 1.0)
        best = minimize(self, theta, _beyond(theta) * target, max_iter, keep_below=_KEEP, noise=noise, report=told)
        return self._centered(best.w), best.n_iter

    def _beside(self, problem: ClassProblem) -> tuple[float, float, Array]:
        """The penalty; then what is sure of each row beside noisy · E log Σ e^S, in sum, and its slopes by z (n, K)."""
        W, z = problem.weights, problem.mean()
        plain = self.labels.sum(axis=1) - self.noisy
        value, to_z = -float((self.labels * z).sum()), -self.labels
        if plain.any():
            value += float(plain @ logsumexp(z, axis=1))
            to_z = to_z + plain[:, None] * softmax(z, axis=1)
        return 0.5 * self.alpha * float((W * W).sum()), value, to_z

    def proven(self, theta: Array, tol: float = _NARROW) -> tuple[float, float]:
        """Lower and upper bound of the objective, by as many moments as a row takes to half a width of `tol`."""
        middle, half, _ = self._bounds(theta, tol, want_grad=False)
        return middle - half, middle + half

    def refined(self, fit: LogisticFit, tol: float, max_iter: int) -> LogisticFit:
        """The minimum of Jensen's bound with both bounds of the objective there, or that of their middle.

        The middle is what is minimized where the bounds are far closer to each other than Jensen's is to them, so that
        what it gains is proven: elsewhere it costs a hundred times as much for nothing.
        """
        low, high = self.proven(fit.w)
        there = replace(fit, value=high, error=high - low)
        if not fit.converged or high - low > _CLOSE * (fit.value - high):
            return there
        scale = fit.gradient_norm / fit.relative_gradient if fit.relative_gradient > 0 else 0.0
        target = max(_beyond(fit.w) * tol * scale, fit.gradient_norm)
        noise = 0.5 * (high - low)
        best = minimize(_Middle(self, _NARROW), fit.w, target, max_iter, keep_below=_KEEP, noise=noise)
        w = self._centered(best.w)
        low, high = self.proven(w)
        if high >= there.value:
            return there
        size, n_iter = norm(best.gradient), fit.n_iter + best.n_iter
        return LogisticFit(w, high, high - low, size, size / scale if scale > 0 else 0.0, n_iter, fit.converged)

    def _bounds(self, theta: Array, tol: float, want_grad: bool) -> tuple[float, float, Array]:
        """Middle of the objective's bounds, half their width, round-off included, and the gradient of the middle."""
        problem = replace(self._problem(theta), share=np.ones(self.rows.n))
        classes, total = len(problem.weights), self.labels.sum(axis=1)
        # The row's own class where it has one, so that the linear part stays small beside the log of the sum.
        own = self.labels / np.where(total > 0, total, 1.0)[:, None]
        targets = self.noisy[:, None] * np.where(total[:, None] > 0, own, 1.0 / classes)
        # A row of weight 2 is a row twice: the width is one row's.
        width = _Width(tol * max(1.0, float(self.noisy.max())))
        found = bounded_losses(problem, targets, width, want_grad)
        penalty, plain, moved = self._beside(problem)[0], total - self.noisy, self.labels - targets
        z, rest, off, to_z = problem.mean(), 0.0, 0.0, -moved
        if plain.any():
            top = logsumexp(z, axis=1)
            rest = float(plain @ top) - float((moved * z).sum())
            size = float(np.abs(plain) @ (np.abs(top) + 1.0) + (np.abs(moved) * np.abs(z)).sum())
            off = float((np.abs(moved) * problem.mean_error()).sum() + np.abs(plain) @ problem.mean_error().max(axis=1))
            off += (self.rows.n + classes + 32) * _ROUNDING * size
            to_z = plain[:, None] * softmax(z, axis=1) - moved
        sizes = float((np.abs(found.low) + np.abs(found.high)).sum())
        off += _ROUNDING * ((self.rows.n + 8) * sizes + (problem.weights.size + 16) * penalty)
        gradient = theta
        if found.gradient is not None:
            to_w = found.gradient.weights + self.alpha * problem.weights + np.asarray(self.rows.transposed_dot(to_z)).T
            gradient = self._joined(to_w, found.gradient.intercept + to_z.sum(axis=0))
        return float(found.value.sum()) + rest + penalty, float(found.error.sum()) + off, gradient

    def _centered(self, theta: Array) -> Array:
        """Intercepts of sum 0: the same added to all of them changes nothing, and rounding adds up along it."""
        W, b = self.split(theta)
        return self._joined(W, b - b.mean())


@dataclass(frozen=True)
class _Middle:
    """The middle of the narrowest bounds, as something to minimize."""

    bounded: BoundedMultinomial
    tol: float

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        middle, _, gradient = self.bounded._bounds(w, self.tol, want_grad=True)
        return middle, gradient

    def curvature(self, w: Array) -> Curvature:
        return self.bounded.curvature(w)


def _beyond(theta: Array) -> float:
    return _BEYOND if len(theta) <= _FEW else 1.0


@dataclass(frozen=True)
class _Width:
    """Half of a row's width at which its bounds stop."""

    tol: float
    moments: int | None = None


def _times(squares: Any, pi: Array, W: Array) -> Any:
    """squares ∘ (π W), on the pattern of squares."""
    if not sparse.issparse(squares):
        return squares * (pi @ W)
    row = np.repeat(np.arange(squares.shape[0]), np.diff(squares.indptr))
    mixed = np.zeros(squares.nnz)
    for k in range(len(W)):
        mixed += pi[row, k] * W[k, squares.indices]
    return sparse.csr_matrix((squares.data * mixed, squares.indices, squares.indptr), squares.shape)
