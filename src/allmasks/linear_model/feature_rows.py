"""Rows of features and of their squares, as a solver multiplies them: dense in blocks, CSR without densifying."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.scores.memory import unlocked
from allmasks.scores.slots import Slots, find_slots

__all__ = ["Rows"]

Array = NDArray[np.float64]

_KEPT_SQUARES = 2**22
"""Up to so many elements the squares of a dense X are kept; beyond, they are formed block by block."""

_BLOCK = 2**18

_HUGE = 1e150
"""Features beyond this have squares, and sums of squares, that overflow."""

_FAINT = 1e-11
"""Features below this, times what rounding grows by with the rows, have no gradient beside the intercept's."""


class Rows:
    """X (n, d) in float64, dense or canonical CSR, and X∘X.

    >>> rows = Rows(np.array([[1.0, 2.0], [0.0, 3.0]]))
    >>> rows.dot(np.ones(2)), rows.squares_dot(np.ones(2)), rows.squares_transposed_dot(np.ones(2))
    (array([3., 3.]), array([5., 9.]), array([ 1., 13.]))
    """

    def __init__(self, X: Any) -> None:
        if sparse.issparse(X):
            csr = sparse.csr_matrix(X, dtype=np.float64)
            if not csr.has_canonical_format:
                csr = csr.copy()
                csr.sum_duplicates()
            if csr.indices.dtype != np.int32 and csr.nnz < 2**31:
                # One index type, so that the row kernel is compiled once.
                csr = sparse.csr_matrix(
                    (csr.data, csr.indices.astype(np.int32), csr.indptr.astype(np.int32)), csr.shape
                )
            csr = sparse.csr_matrix((unlocked(csr.data), unlocked(csr.indices), unlocked(csr.indptr)), csr.shape)
            csr.has_canonical_format = True
            self.X: Any = csr
            binary = bool(((csr.data == 1.0) | (csr.data == 0.0)).all())
            # The same indices, and for binary features the same data.
            with np.errstate(over="ignore"):
                squares = csr.data**2
            self.squares: Any = csr if binary else sparse.csr_matrix((squares, csr.indices, csr.indptr), csr.shape)
            self._sparse = True
        else:
            self.X = unlocked(np.ascontiguousarray(X, np.float64))
            with np.errstate(over="ignore"):
                self.squares = np.square(self.X) if self.X.size <= _KEPT_SQUARES else None
            self._sparse = False

    @classmethod
    def to_fit(cls, X: Any, alpha: float, fit_intercept: bool) -> Rows:
        """Rows that weights are fitted to: of a size at which doubles hold what the fit needs.

        Raises
        ------
        ValueError : squares beyond the doubles; or, where dropout's penalty is the only one, features so small that
            their gradient is lost in the rounding of the intercept's.
        """
        rows = cls(X)
        values = rows.X.data if rows._sparse else rows.X
        largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))
        least = _FAINT * (8.0 + np.sqrt(rows.n)) if fit_intercept else 1.0 / _HUGE
        if largest > _HUGE or (alpha == 0.0 and 0.0 < largest < least):
            raise ValueError(
                f"the features reach {largest:.3g}, where double precision loses the fit; scale X to about 1 "
                "(dropout's penalty is the same in all units)"
            )
        return rows

    @cached_property
    def slots(self) -> Slots | None:
        """Repeated values of CSR features, so that the exact objective tabulates them; None where they are few."""
        return find_slots(self.X) if self._sparse and self.X.nnz else None

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    @property
    def most_entries(self) -> int:
        """Terms in a row's score."""
        return int(np.diff(self.X.indptr).max(initial=0)) if self._sparse else self.d

    def dot(self, v: Array) -> Array:
        """X v."""
        return np.asarray(self.X @ v)

    def transposed_dot(self, r: Array) -> Array:
        """Xᵀ r."""
        return np.asarray(self.X.T @ r)

    def absolute_transposed_dot(self, r: Array) -> Array:
        """|X|ᵀ r."""
        if self._sparse:
            terms = np.abs(self.X.data) * np.repeat(r, np.diff(self.X.indptr))
            return np.asarray(np.bincount(self.X.indices, terms, self.d), np.float64)
        return np.sum([np.abs(self.X[rows]).T @ r[rows] for rows in self._blocks()], axis=0)

    def squares_dot(self, v: Array) -> Array:
        """(X∘X) v."""
        if self.squares is not None:
            return np.asarray(self.squares @ v)
        return np.concatenate([np.square(self.X[rows]) @ v for rows in self._blocks()])

    def squares_transposed_dot(self, r: Array) -> Array:
        """(X∘X)ᵀ r."""
        if self.squares is not None:
            return np.asarray(self.squares.T @ r)
        total = np.zeros((self.d, *r.shape[1:]))
        for rows in self._blocks():
            total += np.square(self.X[rows]).T @ r[rows]
        return total

    def signs(self, sign: Array, used: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Features with a value, times the row's sign, above 0 in a row used, and with one below: (d,) of bool each."""
        x = self.X[used]
        signs = sign[used]
        if self._sparse:
            product = x.data * np.repeat(signs, np.diff(x.indptr))
            positive = np.bincount(x.indices[product > 0], minlength=self.d) > 0
            negative = np.bincount(x.indices[product < 0], minlength=self.d) > 0
        else:
            positive, negative = np.zeros(self.d, bool), np.zeros(self.d, bool)
            for rows in self._blocks(len(x)):
                product = x[rows] * signs[rows, None]
                positive |= (product > 0).any(axis=0)
                negative |= (product < 0).any(axis=0)
        return positive, negative

    def blocks(self) -> list[slice]:
        """Row ranges of bounded size, for temporaries on the pattern of X."""
        if not self._sparse:
            return self._blocks()
        bounds = np.searchsorted(self.X.indptr, np.arange(_BLOCK, self.X.nnz + _BLOCK, _BLOCK))
        edges = np.unique(np.r_[0, np.minimum(bounds, self.n), self.n])
        return [slice(int(lo), int(hi)) for lo, hi in pairwise(edges)]

    def _blocks(self, n: int | None = None) -> list[slice]:
        step = max(1, _BLOCK // max(self.d, 1))
        end = self.n if n is None else n
        return [slice(lo, min(lo + step, end)) for lo in range(0, end, step)]
