"""One dropped-out linear score for each row, checked: S = b + Σⱼ wⱼ xⱼ mⱼ / (1 − pⱼ)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.masks import check_p
from allmasks.reliability import Verdict
from allmasks.results import Guarantee, weakest
from allmasks.scores.memory import unlocked

__all__ = ["EPS", "LEAST", "Gradient", "Moments", "RowResults", "ScoreProblem", "check_inputs"]

Array = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)

LEAST = float(np.finfo(np.float64).smallest_subnormal)
"""Distance between the smallest doubles: what one product may lose to underflow."""

_BLOCK_ELEMENTS = 2**20
"""Elements of X looked at in one go, so that temporaries stay near 8 MB each."""


@dataclass
class Gradient:
    """Gradient of the weighted mean loss. `X` is dense, or CSR on the pattern of a CSR X.

    Of several classes together weights are (K, d) and intercept (K,).
    """

    weights: Array
    intercept: Any
    X: Any

    def times_power(self, exponent: int) -> Gradient:
        """2^exponent times this; `inf` where no double is large enough."""
        if exponent == 0:
            return self
        with np.errstate(over="ignore"):
            X = self.X.copy()
            if sparse.issparse(X):
                X.data = np.ldexp(X.data, exponent)
            else:
                X = np.ldexp(X, exponent)
            return Gradient(np.ldexp(self.weights, exponent), float(np.ldexp(self.intercept, exponent)), X)

    def plus(self, other: Gradient) -> Gradient:
        """The sum of two; where this one is infinite it is the larger by far."""

        def add(a: Any, b: Any) -> Any:
            return np.where(np.isinf(a), a, a + np.where(np.isinf(a), 0.0, b))

        X = self.X
        if sparse.issparse(X):
            X = X.copy()
            X.data = add(X.data, other.X.data)
        else:
            X = add(X, other.X)
        return Gradient(add(self.weights, other.weights), float(add(self.intercept, other.intercept)), X)


@dataclass
class RowResults:
    """What a method answers: for each row the mean over masks and its error, and so for the penalty; and where asked
    for the gradient by each output's weights.

    Where masks were sampled also replicates of the weighted mean, its standard error, and what can be trusted:
    `covered` says that the error holds what masks hardly drawn can be worth, `bound` how much of it is a proven bound.
    """

    value: Array
    error: Array
    penalty: Array
    penalty_error: Array
    guarantee: Guarantee
    n_masks: int = 0
    replicates: Array | None = None
    replicate_masks: NDArray[np.int64] | None = None
    value_error: float = 0.0
    verdict: Verdict | None = None
    covered: bool = False
    bound: float = 0.0
    trusted: NDArray[np.bool_] | None = None
    gradients: tuple[Gradient, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def added(cls, outputs: list[RowResults]) -> RowResults:
        """The sum over outputs, errors added up; an infinite value is off by no finite number."""

        def error(of: Array, off: Array) -> Array:
            return np.where(np.isinf(of), np.inf, off)

        return cls(
            value=np.sum([r.value for r in outputs], axis=0),
            error=np.sum([error(r.value, r.error) for r in outputs], axis=0),
            penalty=np.sum([r.penalty for r in outputs], axis=0),
            penalty_error=np.sum([error(r.penalty, r.penalty_error) for r in outputs], axis=0),
            guarantee=weakest(*(r.guarantee for r in outputs)),
            n_masks=max(r.n_masks for r in outputs),
            gradients=tuple(gradient for r in outputs for gradient in r.gradients),
            notes=tuple(dict.fromkeys(note for r in outputs for note in r.notes)),
        )


class Moments(NamedTuple):
    """Mean and variance of a link's inverse of the score, and their errors, (n,).

    `deviation` where it is known better than as the root of the variance.
    """

    mean: Array
    mean_error: Array
    variance: Array
    variance_error: Array
    deviation: Array | None = None


@dataclass(frozen=True)
class ScoreProblem:
    """Weights, rows and rates of one output. `share` (n,) are the rows' weights in the mean, summing to 1."""

    weights: Array
    X: Any
    p: Array
    intercept: float
    share: Array

    @property
    def n(self) -> int:
        return int(self.X.shape[0])

    @property
    def d(self) -> int:
        return int(self.X.shape[1])

    @property
    def is_sparse(self) -> bool:
        return sparse.issparse(self.X)

    @property
    def keep_prob(self) -> Array:
        return 1.0 - self.p

    @property
    def per_unit(self) -> Array:
        """w / (1 − p): what a kept unit's input is multiplied by."""
        return self.weights / self.keep_prob

    def blocks(self, rows: int | None = None) -> Iterator[slice]:
        """Row ranges of bounded size."""
        step = rows or max(1, _BLOCK_ELEMENTS // max(self.d, 1))
        for lo in range(0, self.n, step):
            yield slice(lo, min(lo + step, self.n))

    def contributions(self, rows: slice) -> Array:
        """aⱼ = wⱼ xⱼ / (1 − pⱼ) of some rows, dense: (rows, d). For few rows at a time."""
        x = self.X[rows]
        return np.asarray(x.toarray() if sparse.issparse(x) else x, np.float64) * self.per_unit

    def mean(self) -> Array:
        """μ = b + Σ wⱼ xⱼ, the score at the mean mask, (n,)."""
        return np.asarray(self.X @ self.weights).reshape(-1) + self.intercept

    def variance(self) -> Array:
        """σ² = Σ p/(1−p) wⱼ² xⱼ², (n,); `inf` where no double is large enough."""
        # Squared last: w² alone may be 0 or infinite where w x is neither.
        spread = np.sqrt(self.p / self.keep_prob)
        with np.errstate(over="ignore", under="ignore"):
            if self.is_sparse:
                steps = self.X.multiply(self.weights).multiply(spread).tocsr()
                return np.asarray(steps.multiply(steps) @ np.ones(self.d)).reshape(-1)
            return np.concatenate(
                [np.square(self.X[rows] * self.weights * spread) @ np.ones(self.d) for rows in self.blocks()]
            )

    def magnitude(self) -> Array:
        """|b| + Σ |wⱼ xⱼ| (1 + pⱼ/(1−pⱼ)): no |S| exceeds it, and round-off is a multiple of it, (n,)."""
        return self._magnitude

    @cached_property
    def _magnitude(self) -> Array:
        scale = np.abs(self.per_unit)
        with np.errstate(over="ignore", under="ignore"):
            if self.is_sparse:
                return np.asarray(abs(self.X) @ scale).reshape(-1) + abs(self.intercept)
            return np.concatenate([np.abs(self.X[rows]) @ scale for rows in self.blocks()]) + abs(self.intercept)

    def check_reach(self) -> None:
        """ValueError where a score could be so large that it overflows."""
        far = ~np.isfinite(self.magnitude())
        if far.any():
            raise ValueError(
                f"the scores of row {int(np.argmax(far))} can exceed the largest double, 1.8e308: Σ |w x| / (1 − p) "
                "overflows; scale that row or the weights down"
            )

    def mean_error(self) -> Array:
        """Round-off bound of `mean`, (n,)."""
        return (self.d + 8) * EPS * self.magnitude() + self.lost()

    def variance_error(self, variance: Array) -> Array:
        """Round-off bound of `variance`, (n,)."""
        return (2 * self.d + 16) * EPS * variance + self.lost()

    def moments(self) -> Moments:
        """Of the score itself."""
        variance = self.variance()
        return Moments(self.mean(), self.mean_error(), variance, self.variance_error(variance))

    def lost(self) -> Array:
        """What a row's products may lose to underflow, where an error is no share of the value, (n,)."""
        stored = np.asarray((self.X != 0).sum(axis=1)).reshape(-1)
        return np.where(stored > 0, (2 * self.d + 16) * LEAST, 0.0)

    def gradient(self, base: Array, slope: Any, intercept: Array | None = None) -> Gradient:
        """Gradient from the rows' conditional slopes Gᵢⱼ = E[L'(S) mⱼ/(1−pⱼ)] = baseᵢ + slope(rows)ᵢⱼ.

        Parameters
        ----------
        base : (n,) part of the slope that all units of a row share.
        slope : rows -> the rest, dense (rows, d), or on the stored entries of a CSR block; or None.
        intercept : (n,) E[L'(S)], where that is not `base`.
        """
        weights = np.zeros(self.d)
        parts: list[Any] = []
        for rows in self.blocks():
            x = self.X[rows]
            share = self.share[rows]
            if sparse.issparse(x):
                x = x.tocsr()
                row_of = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
                g = base[rows][row_of] + (0.0 if slope is None else slope(rows))
                weights += np.bincount(x.indices, _times(share[row_of] * x.data, g), minlength=self.d)
                parts.append(
                    sparse.csr_matrix(
                        (_times(share[row_of] * self.weights[x.indices], g), x.indices, x.indptr), x.shape
                    )
                )
            else:
                g = base[rows][:, None] + (0.0 if slope is None else slope(rows))
                g = np.broadcast_to(g, x.shape)
                if np.isfinite(g).all():
                    weights += np.einsum("i,ij,ij->j", share, x, g)
                else:
                    weights += _times(share[:, None] * x, g).sum(axis=0)
                parts.append(_times(share[:, None] * self.weights, g))
        X = sparse.vstack(parts, format="csr") if self.is_sparse else np.concatenate(parts)
        of_intercept = base if intercept is None else intercept
        return Gradient(weights, float(self.share @ of_intercept), X)

    def gradient_of(self, slopes: Array, intercept: Array) -> Gradient:
        """Gradient from all of Gᵢⱼ = E[L'(S) mⱼ/(1−pⱼ)], dense (n, d), and E[L'(S)], (n,)."""

        def slope(rows: slice) -> Array:
            if not self.is_sparse:
                return slopes[rows]
            x = self.X[rows].tocsr()
            return slopes[rows][np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), x.indices]

        return self.gradient(np.zeros(self.n), slope, intercept=intercept)

    def row_of(self, rows: slice) -> NDArray[np.int64]:
        """The row, counted from the first of these, of each stored entry of a CSR block."""
        ends = self.X.indptr[rows.start : rows.stop + 1]
        return np.repeat(np.arange(len(ends) - 1), np.diff(ends))

    def by_entry(self, values: Array, rows: slice) -> Array:
        """Numbers of rows (n,), in the shape that `entries` has."""
        return values[rows][self.row_of(rows)] if self.is_sparse else values[rows][:, None]

    def row_sums(self, terms: Array, rows: slice) -> Array:
        """Sums over each row's entries of terms in the shape that `entries` has."""
        if self.is_sparse:
            return np.bincount(self.row_of(rows), terms, minlength=rows.stop - rows.start).astype(np.float64)
        return terms.sum(axis=1)

    def entries(self, rows: slice) -> tuple[Array, NDArray[np.int64]]:
        """Contributions aⱼ and columns j of some rows: all of a dense block, the stored entries of a CSR one."""
        x = self.X[rows]
        if sparse.issparse(x):
            x = x.tocsr()
            return x.data * self.per_unit[x.indices], x.indices
        return x * self.per_unit, np.broadcast_to(np.arange(self.d), x.shape)


def _times(factor: Array, slope: Array) -> Array:
    """The product, in which an infinite slope of what does not move the score counts for nothing."""
    return np.where(factor == 0, 0.0, factor * np.where(factor == 0, 0.0, slope))


def check_inputs(
    weights: Any, X: Any, p: Any, intercept: Any, y: Any | None, sample_weight: Any | None
) -> tuple[Array, Any, Array, Array, Array | None, Array]:
    """Weights (d, k), X, p (d,), intercept (k,), targets (n, k), shares (n,); or an error that says what is wrong."""
    rows = _rows(X)
    n, d = rows.shape
    w = _finite("weights", weights)
    if w.ndim not in (1, 2) or len(w) != d:
        raise ValueError(
            f"weights of shape {w.shape} do not fit X with {d} columns: give shape ({d},), or ({d}, k) for k outputs"
        )
    w = w.reshape(d, -1)
    rates = check_p(p)
    if rates.shape not in ((), (d,)):
        raise ValueError(f"p must be one rate or {d} of them, one a column of X, got shape {rates.shape}")
    b = _finite("intercept", intercept)
    if b.size not in (1, w.shape[1]) or b.ndim > 1:
        raise ValueError(f"intercept must be one number or {w.shape[1]}, one an output, got shape {b.shape}")
    targets = None
    if y is not None:
        targets = _finite("y", y)
        if targets.size != n * w.shape[1] or (targets.ndim and len(targets) != n):
            expected = f"({n},)" if w.shape[1] == 1 else f"({n}, {w.shape[1]})"
            raise ValueError(f"y must have shape {expected} for X with {n} rows, got {targets.shape}")
        targets = targets.reshape(n, -1)
    share = np.ones(n) if sample_weight is None else _finite("sample_weight", sample_weight)
    if share.shape != (n,):
        raise ValueError(f"sample_weight must have one weight for each of {n} rows, got shape {share.shape}")
    if (share < 0).any() or not share.sum() > 0:
        raise ValueError("sample_weight must be 0 or more, and positive for at least one row")
    share = share / share.sum()
    return w, rows, np.broadcast_to(rates, (d,)).copy(), np.broadcast_to(b, (w.shape[1],)), targets, share


def _finite(name: str, values: Any) -> Array:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers, got {type(values).__name__}") from None
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got {array[bad].flat[0]} at position {int(np.flatnonzero(bad.ravel())[0])}"
        )
    return array


def _rows(X: Any) -> Any:
    if sparse.issparse(X):
        csr = sparse.csr_matrix(X, dtype=np.float64)
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        data = csr.data
    else:
        csr = _array(X)
        data = csr
    if csr.ndim != 2:
        raise ValueError(f"X must have shape (n, d), got {csr.shape}; one row is X.reshape(1, -1)")
    if csr.shape[0] == 0:
        raise ValueError("X has no rows; at least one is needed")
    if not np.isfinite(data).all():
        raise ValueError("X contains NaN or infinite values; remove or impute those rows")
    if sparse.issparse(csr):
        canonical = sparse.csr_matrix((unlocked(csr.data), unlocked(csr.indices), unlocked(csr.indptr)), csr.shape)
        canonical.has_canonical_format = True
        return canonical
    return unlocked(csr)


def _array(X: Any) -> Array:
    try:
        return np.ascontiguousarray(X, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"X must be a numeric array or a SciPy sparse matrix, got {type(X).__name__}") from None
