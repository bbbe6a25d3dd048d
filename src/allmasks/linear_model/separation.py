"""Whether weights that are never dropped can run away: along a direction in which no loss rises and some loss falls.

Dropped features run away one by one, since a mask keeps each of them alone: `Rows.signs` finds those. Undropped ones
can do so together. That is a linear program: maximize Σ uᵢ, uᵢ = ±(b + xᵢ·d) ≥ 0, −1 ≤ d, b ≤ 1; above 0, they do
(Albert & Anderson 1984; Konis 2007).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from allmasks.linear_model.feature_rows import Rows

__all__ = ["recedes", "separates"]

Array = NDArray[np.float64]

_LARGEST = 5_000_000
"""Stored entries up to which the program is set up; beyond, only the iterate is looked at."""

_SECONDS = 20.0
_NEARLY_CERTAIN = 4.0
"""A fit whose largest margin is below this (σ = .98) has no row that runs away."""


def separates(rows: Rows, sign: Array, weights: Array, b: float, undropped: NDArray[np.bool_], intercept: bool) -> bool:
    """Whether undropped features (and the intercept) separate rows of sign +1 from those of −1, ties allowed.

    weights, b : where a fit at α = 0 stopped. If they have every row on its side, they are the proof.
    """
    if not undropped.any():
        return False
    margin = sign * (rows.dot(np.where(undropped, weights, 0.0)) + b)
    if margin.min() > 0.0:
        return True
    if (sign * (rows.dot(weights) + b)).max() < _NEARLY_CERTAIN:
        return False
    return recedes(rows.X[:, np.flatnonzero(undropped)], sign, np.zeros(rows.n, bool), intercept)


def recedes(X: Any, sign: Array, fixed: NDArray[np.bool_], intercept: bool) -> bool:
    """Whether sign ∘ (b + X d) is 0 in the rows `fixed`, nowhere below 0 elsewhere, and somewhere above.

    False also where the program is too large or takes too long to tell.
    """
    entries = X.nnz if sparse.issparse(X) else X.size
    if not entries or entries > _LARGEST:
        return False
    if sparse.issparse(X):
        size = np.asarray(abs(X).max(axis=0).todense()).ravel()
        A = sparse.csr_matrix(X.multiply(sign[:, None]).multiply(1.0 / np.where(size > 0.0, size, 1.0)))
        if intercept:
            A = sparse.hstack([A, sign[:, None]], format="csr")
    else:
        size = np.abs(X).max(axis=0)
        A = sign[:, None] * (X / np.where(size > 0.0, size, 1.0))
        if intercept:
            A = np.column_stack([A, sign])
    found = optimize.linprog(
        -np.asarray(A[~fixed].sum(axis=0)).ravel(),
        A_ub=-A[~fixed],
        b_ub=np.zeros(int((~fixed).sum())),
        A_eq=A[fixed] if fixed.any() else None,
        b_eq=np.zeros(int(fixed.sum())) if fixed.any() else None,
        bounds=(-1.0, 1.0),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-9, "time_limit": _SECONDS},
    )
    if found.status != 0:
        return False
    moved = np.asarray(A @ found.x).ravel()
    reached = float(moved[~fixed].max(initial=0.0))
    held = max(float(np.abs(moved[fixed]).max(initial=0.0)), -float(moved[~fixed].min(initial=0.0)))
    # A direction of the program's own rounding is none.
    return reached > 1e-6 and held < 1e-3 * reached
