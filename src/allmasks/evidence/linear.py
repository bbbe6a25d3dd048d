"""Linear problems made from the data sets: a bootstrap sample a seed, few features, inputs and targets standardized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allmasks.evidence.datasets import Dataset

__all__ = ["binary_problem", "linear_problem", "logistic_weights", "ridge_weights"]

Array = NDArray[np.float64]


def linear_problem(data: Dataset, seed: int, *, features: int, n: int = 200) -> tuple[Array, Array]:
    """X (n, features) and a real target: the seed's bootstrap rows and choice of columns, standardized."""
    rng = np.random.default_rng([seed, 11])
    rows = rng.integers(len(data.X), size=n)
    X = data.X[rows]
    varied = np.flatnonzero(X.std(axis=0) > 1e-8)
    columns = np.sort(rng.permutation(varied)[:features])
    X = X[:, columns]
    y = data.y[rows].astype(np.float64)
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


def binary_problem(data: Dataset, seed: int, *, features: int, n: int = 200) -> tuple[Array, Array]:
    """The same with targets 0 and 1: the larger half of the values (or classes) against the rest."""
    X, y = linear_problem(data, seed, features=features, n=n)
    # Two classes, standardized, lie on either side of 0.
    return X, (y > (0.0 if data.classes == 2 else np.median(y))).astype(np.float64)


def ridge_weights(X: Array, y: Array, p: float) -> Array:
    """The minimizer of E_m Σ (S − y)² without intercept (the columns are centered): (XᵀX + λD) w = Xᵀy."""
    penalty = p / (1 - p) * np.diag((X**2).sum(0)) + 1e-9 * np.eye(X.shape[1])
    return np.asarray(np.linalg.solve(X.T @ X + penalty, X.T @ y), np.float64)


def logistic_weights(X: Array, y: Array, l2: float = 1.0, steps: int = 50) -> Array:
    """Logistic regression without intercept, a little L2 so that separable data have a solution; Newton's method."""
    w = np.zeros(X.shape[1])
    for _ in range(steps):
        z = np.clip(X @ w, -30, 30)
        s = 1 / (1 + np.exp(-z))
        hessian = X.T @ (X * (s * (1 - s))[:, None]) + l2 * np.eye(len(w))
        step = np.linalg.solve(hessian, X.T @ (s - y) + l2 * w)
        w -= step
        if np.abs(step).max() < 1e-10:
            break
    return w
