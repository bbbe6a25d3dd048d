"""Weights and, where there is one, the intercept after them: the one vector that a solver moves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Unknowns"]

Array = NDArray[np.float64]


class Unknowns:
    """What has such a vector.

    >>> line = Unknowns()
    >>> line.fit_intercept = True
    >>> line.split(line.join(np.array([1.0, 2.0]), 3.0))
    (array([1., 2.]), 3.0)
    """

    fit_intercept: bool

    def split(self, w: Array) -> tuple[Array, float]:
        """Weights, and the intercept or 0."""
        return (w[:-1], float(w[-1])) if self.fit_intercept else (w, 0.0)

    def join(self, of_weights: Array, of_intercept: float) -> Array:
        return np.append(of_weights, of_intercept) if self.fit_intercept else of_weights

    def bordered(self, of_weights: Array, of_both: Array, of_intercept: float) -> Array:
        """A Hessian from its blocks; without intercept that in the weights alone."""
        if not self.fit_intercept:
            return of_weights
        return np.block([[of_weights, of_both[:, None]], [of_both[None, :], np.array([[of_intercept]])]])
