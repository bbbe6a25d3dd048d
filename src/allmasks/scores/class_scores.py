"""Dropped-out linear scores of several classes that share each mask, checked: S_k = b_k + Σⱼ w_kj xⱼ mⱼ / (1 − pⱼ)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import logsumexp

from allmasks.scores.score import EPS, Gradient, ScoreProblem, check_inputs

__all__ = ["ClassProblem", "Stored", "check_classes", "check_targets", "over_classes"]

Array = NDArray[np.float64]

_BLOCK_ENTRIES = 2**20


@dataclass(frozen=True)
class Stored:
    """Some rows by their stored entries, as CSR has them; a dense row stores all of its own."""

    data: Array
    indices: NDArray[np.int32]
    indptr: NDArray[np.int64]


@dataclass(frozen=True)
class ClassProblem:
    """Weights (K, d), rows, rates and intercepts (K,). `share` (n,) are the rows' weights in the mean, summing to 1."""

    weights: Array
    X: Any
    p: Array
    intercept: Array
    share: Array

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    @property
    def classes(self) -> int:
        return len(self.weights)

    @property
    def is_sparse(self) -> bool:
        return sparse.issparse(self.X)

    @cached_property
    def each(self) -> list[ScoreProblem]:
        """The score of each class by itself."""
        return [self.of(w, b) for w, b in zip(self.weights, self.intercept, strict=True)]

    def of(self, weights: Array, intercept: float) -> ScoreProblem:
        """Another score of the same rows under the same masks: any sum of those of the classes."""
        return ScoreProblem(np.ascontiguousarray(weights), self.X, self.p, float(intercept), self.share)

    def where(self, rows: NDArray[Any]) -> ClassProblem:
        """Some of the rows."""
        return replace(self, X=self.X[rows], share=self.share[rows])

    def blocks(self) -> Iterator[slice]:
        """Row ranges of bounded size."""
        step = max(1, _BLOCK_ENTRIES // max(self.d, 1))
        for lo in range(0, self.n, step):
            yield slice(lo, min(lo + step, self.n))

    def stored(self, rows: slice) -> Stored:
        """Entries of some rows."""
        x = self.X[rows]
        if sparse.issparse(x):
            return Stored(x.data, x.indices.astype(np.int32), x.indptr.astype(np.int64))
        columns = np.tile(np.arange(self.d, dtype=np.int32), len(x))
        return Stored(np.ascontiguousarray(x).reshape(-1), columns, np.arange(len(x) + 1) * self.d)

    def mean(self) -> Array:
        """E S, (n, K)."""
        return np.asarray(self.X @ self.weights.T) + self.intercept

    def mean_error(self) -> Array:
        """Round-off bound of each of `mean`, (n, K)."""
        size = np.asarray(abs(self.X) @ np.abs(self.weights).T) + np.abs(self.intercept)
        return (self.d + 8) * EPS * size + (2 * self.d + 16) * np.finfo(np.float64).tiny

    def at_mean(self, targets: Array) -> tuple[Array, Array]:
        """The cross-entropy at the mean mask, (n,), and its round-off."""
        mu, off, mass = self.mean(), self.mean_error(), np.abs(targets).sum(axis=1)
        top = logsumexp(mu, axis=1)
        value = targets.sum(axis=1) * top - (targets * mu).sum(axis=1)
        error = 2 * mass * off.max(axis=1) + (self.classes + 16) * EPS * mass * (1 + np.abs(mu).max(axis=1))
        return value, error

    def check_reach(self) -> None:
        """ValueError where a score could be so large that it overflows."""
        for problem in self.each:
            problem.check_reach()


def check_classes(
    weights: ArrayLike, X: Any, p: ArrayLike, intercept: ArrayLike, sample_weight: ArrayLike | None
) -> ClassProblem:
    """The problem, or an error that says what is wrong."""
    given = np.shape(weights)
    if len(given) != 2:
        raise ValueError(f"the scores of classes take weights of shape (classes, d), got {given}")
    columns = np.shape(X)[1] if len(np.shape(X)) == 2 else None
    if columns is not None and given[1] != columns:
        raise ValueError(
            f"weights of shape {given} do not fit X with {columns} columns: classes share a mask and take weights of "
            f"shape (classes, {columns})"
        )
    if given[0] == 0:
        raise ValueError("weights of shape (classes, d) need at least one class")
    w, rows, rates, b, _, share = check_inputs(np.transpose(weights), X, p, intercept, None, sample_weight)
    problem = ClassProblem(np.ascontiguousarray(w.T), rows, rates, np.array(b, np.float64), share)
    problem.check_reach()
    return problem


def check_targets(y: ArrayLike, n: int, classes: int) -> Array:
    """Shares (n, K) of class numbers (n,) or of shares."""
    given = np.asarray(y)
    if given.ndim == 2 and given.shape == (n, classes) and classes > 1:
        try:
            shares = given.astype(np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"y must be numbers, got {given.dtype}") from None
        if not np.isfinite(shares).all() or (shares < 0).any():
            raise ValueError("the shares of classes must be finite and 0 or more")
        return shares
    if given.shape not in ((n,), (n, 1)):
        raise ValueError(f"y must be class numbers ({n},) or shares ({n}, {classes}), got shape {given.shape}")
    numbers = given.reshape(-1)
    if numbers.dtype.kind not in "iuf" or (numbers != np.floor(numbers)).any():
        raise ValueError(f"class numbers must be whole numbers from 0 to {classes - 1}, got {numbers.dtype} {y!r:.60}")
    bad = ~((numbers >= 0) & (numbers < classes))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(f"class numbers must lie in 0 … {classes - 1}, got {numbers[row]:g} at row {row}")
    shares = np.zeros((n, classes))
    shares[np.arange(n), numbers.astype(np.int64)] = 1.0
    return shares


def over_classes(parts: tuple[Gradient, ...]) -> Gradient:
    """The gradients by each class's score together: weights (K, d), intercept (K,), and their sum by X."""
    X = parts[0].X
    for part in parts[1:]:
        X = X + part.X
    return Gradient(np.stack([g.weights for g in parts]), np.array([g.intercept for g in parts]), X)
