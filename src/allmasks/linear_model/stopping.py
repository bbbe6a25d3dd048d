"""When a gradient is small: beside its value at rest, and beside what rounding alone would leave of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allmasks.linear_model.feature_rows import Rows

__all__ = ["AtRest", "Yardstick", "norm"]

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


def norm(v: Array) -> float:
    """‖v‖₂ where the squares would overflow or vanish, too.

    >>> round(norm(np.array([3e200, 4e200])) / 1e200, 6), norm(np.array([0.0]))
    (5.0, 0.0)
    """
    largest = float(np.abs(v).max(initial=0.0))
    if not 0.0 < largest < math.inf:
        return largest
    return largest * float(np.linalg.norm(v / largest))


@dataclass(frozen=True)
class AtRest:
    """The data at weights 0: what adds up over rows, and so over partitions of them.

    gradient : (d + 1,) or (d,) of the objective. sizes : Σ |what its rows add|, alike. pile, other_pile : the part of
    it that targets of either side make. total : Σ size over rows. n : rows.
    """

    gradient: Array
    sizes: Array
    pile: Array
    other_pile: Array
    total: float
    n: int

    @classmethod
    def of(cls, rows: Rows, slope: Array, size: Array, targets: tuple[Array, Array], fit_intercept: bool) -> AtRest:
        """slope (n,) : ∂/∂μᵢ at rest. size (n,) : the size of its parts. targets : each side's part of it."""

        def join(of_weights: Array, of_rows: Array) -> Array:
            return np.append(of_weights, of_rows.sum()) if fit_intercept else of_weights

        gradient = join(rows.transposed_dot(slope), slope)
        sizes, one, two = (join(rows.absolute_transposed_dot(part), part) for part in (size, *targets))
        return cls(gradient, sizes, one, two, float(size.sum()), rows.n)

    def __add__(self, other: AtRest) -> AtRest:
        return AtRest(
            self.gradient + other.gradient,
            self.sizes + other.sizes,
            self.pile + other.pile,
            self.other_pile + other.other_pile,
            self.total + other.total,
            self.n + other.n,
        )


@dataclass(frozen=True)
class Yardstick:
    """What the norm of a gradient is held against. It scales with the weights and the targets as the gradient does.

    scale : ‖∇f‖ at rest: weights 0 and, where there is an intercept, the best one. Without an intercept the gradient
        there may be far larger than anything the targets say; then it is the size of that.
    floor : what rounding leaves of a gradient that is 0. size : the norm of Σ |parts|. noise : what it leaves of f.
    """

    scale: float
    floor: float
    size: float
    noise: float

    @classmethod
    def of(cls, rest: AtRest) -> Yardstick:
        size = norm(rest.sizes)
        said = [pile for pile in (norm(rest.pile), norm(rest.other_pile)) if pile > 0.0]
        return cls(
            min([norm(rest.gradient), *said]), _EPS * (8.0 + math.sqrt(rest.n)) * size, size, 16.0 * _EPS * rest.total
        )

    def target(self, tol: float) -> float:
        """The norm at which to stop."""
        return max(tol * self.scale, self.floor)

    def relative(self, size: float) -> float:
        """A norm as a share of `scale`; 0 for one that is rounding alone."""
        if size <= self.floor:
            return 0.0
        return size / self.scale if self.scale > 0.0 else math.inf

    @staticmethod
    def unfinished(estimator: Any, relative: float, n_iter: int) -> str:
        """What there is to say of a stop at so much of `scale`."""
        return (
            f"{type(estimator).__name__} stopped at a gradient of {relative:.1e} of its value at w = 0, above "
            f"tol={estimator.tol:g}, after {n_iter} steps. Raise max_iter, tol or alpha, or scale the features"
        )

    def sharp(self, tol: float) -> float:
        """To what absolute accuracy a row's slope (of size 1) must be known for a gradient of `target`."""
        return self.target(tol) / self.size if self.size > 0.0 else 1.0
