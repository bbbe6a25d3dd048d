"""Rates, other numbers and features that estimators take, checked."""

from __future__ import annotations

import math
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from allmasks.masks import check_p

__all__ = ["check_grid", "check_multi_class", "check_number", "check_settings", "check_squares", "feature_rates"]

_LARGEST = float(np.finfo(np.float64).max)
_LEAST = float(np.finfo(np.float64).tiny)


def check_number(name: str, value: Any, *, lowest: float) -> float:
    """A finite number of at least `lowest`.

    Raises
    ------
    TypeError, ValueError : that name the parameter, what it was and what it may be.

    >>> check_number("alpha", 0.1, lowest=0.0)
    0.1
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or number < lowest:
        raise ValueError(f"{name} must be finite and at least {lowest:g}, got {value!r}")
    return number


def check_grid(name: str, values: ArrayLike, *, below: float = math.inf) -> NDArray[np.float64]:
    """One or more numbers in [0, below).

    Raises
    ------
    ValueError : that names the parameter and the number that does not fit.

    >>> check_grid("ps", [0.1, 0.5], below=1.0)
    array([0.1, 0.5])
    """
    grid = np.atleast_1d(np.asarray(values, np.float64))
    if grid.ndim != 1 or not grid.size:
        raise ValueError(f"{name} must be one or more numbers, got {values!r}")
    bad = ~((grid >= 0.0) & (grid < below))
    if bad.any():
        raise ValueError(f"{name} must be in [0, {below:g}), got {grid[bad][0]:g}")
    return grid


def feature_rates(p: ArrayLike, n_features: int) -> NDArray[np.float64]:
    """The drop rate of each feature, shape (n_features,).

    Raises
    ------
    ValueError : for a rate outside [0, 1), or a number of rates that is not the number of features.

    >>> feature_rates(0.5, 3)
    array([0.5, 0.5, 0.5])
    """
    rates = check_p(p)
    if rates.shape not in ((), (n_features,)):
        raise ValueError(f"p must be one rate, or one for each of the {n_features} features, got shape {rates.shape}")
    return np.broadcast_to(rates, (n_features,)).astype(np.float64)


def check_settings(estimator: Any) -> tuple[float, float, int]:
    """alpha, tol and max_iter of an estimator that descends.

    Raises
    ------
    TypeError, ValueError : see `check_number`.
    """
    alpha = check_number("alpha", estimator.alpha, lowest=0.0)
    tol = check_number("tol", estimator.tol, lowest=0.0)
    return alpha, tol, int(check_number("max_iter", estimator.max_iter, lowest=0.0))


def check_multi_class(value: Any) -> None:
    """Raise ValueError unless it is "ovr", "softmax" or "quadratic"."""
    if not isinstance(value, str) or value not in ("ovr", "softmax", "quadratic"):
        raise ValueError(
            'multi_class must be "ovr" (exact), "softmax" (between proven bounds) or "quadratic" (an approximation), '
            f"got {value!r}"
        )


def check_squares(squares: NDArray[np.float64], X: Any, *, vanishing: bool = False) -> None:
    """Raise unless the penalty can be told from Σ s x², which may overflow, or vanish where x does not.

    Parameters
    ----------
    squares : (d,) Σᵢ sᵢ xᵢⱼ². X : (n, d) the features. vanishing : whether sums that vanish are refused, too.

    Raises
    ------
    ValueError : that names the feature and what to do.

    >>> check_squares(np.array([np.inf]), np.array([[1e200]]))
    Traceback (most recent call last):
    ...
    ValueError: feature 0 reaches 1e+200: the sum of its squares ...
    """
    far = ~(squares <= _LARGEST)
    if vanishing:
        small = np.flatnonzero(squares < _LEAST)
        far[small] = _largest(X, small) > 0.0
    if far.any():
        j = int(far.argmax())
        raise ValueError(
            f"feature {j} reaches {_largest(X, np.array([j]))[0]:.3g}: the sum of its squares is {squares[j]:.3g}, "
            "beyond what a double holds; scale it (dropout's penalty is the same in all units), or the sample_weight"
        )


def _largest(X: Any, columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """The largest |x| in each of some columns; 0 where there is no row."""
    part = abs(X[:, columns])
    if sparse.issparse(part):
        part = part.tocsc()
        return np.array([part.data[lo:hi].max(initial=0.0) for lo, hi in pairwise(part.indptr)], np.float64)
    return np.asarray(part.max(axis=0, initial=0.0), np.float64)
