"""An estimator's objective over partitions of rows: a function of each partition, added up, for the solvers there are.

Every pass reads the data once: one for a value with its gradient, one for the Hessian (or, beyond `_LARGEST_HESSIAN`
features, for a product with it), so data that take long to make are worth persisting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allmasks.linear_model.newton import Curvature
from allmasks.linear_model.partitions import Part, Partitions
from allmasks.linear_model.stopping import AtRest
from allmasks.linear_model.unknowns import Unknowns

__all__ = ["Summed", "one_column"]

Array = NDArray[np.float64]

_LARGEST_HESSIAN = 1024
"""Unknowns up to which a partition's Hessian is formed and added up: 8 MB."""


@dataclass
class Summed(Unknowns):
    """Σ over partitions of an objective of each, plus α/2 ‖w‖².

    make : builds a partition's problem at α = 0, or None where it has no rows. of : its objective.
    """

    data: Partitions
    make: Callable[[Part], Any]
    of: Callable[[Any], Any] | None
    size: int
    alpha: float
    fit_intercept: bool
    error: float = np.nan
    used: float = np.nan
    """Partitions do not report the tolerance they used."""

    def _penalized(self, of_weights: Array) -> Array:
        return self.join(self.alpha * self.split(of_weights)[0], 0.0)

    def sum(self, ask: Callable[[Any], Any]) -> Any:
        """Σ of what each partition's objective says to `ask`, which workers import."""
        return self.data.sum(_asked, self.make, self.of, ask)

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        value, gradient, self.error = self.sum(partial(_value_gradient_error, w=w))
        weights, _ = self.split(w)
        return value + 0.5 * self.alpha * float(weights @ weights), gradient + self._penalized(w)

    def value(self, w: Array) -> float:
        return self.value_and_gradient(w)[0]

    def curvature(self, w: Array) -> Curvature:
        ridge = self._penalized(np.ones(self.size))
        if self.size <= _LARGEST_HESSIAN:
            H = self.sum(partial(_curvature, w=w, of=methodcaller("matrix")))
            H[np.diag_indices_from(H)] += ridge
            return Curvature(lambda u: H @ u, np.diag(H).copy(), lambda: H)
        diagonal = self.sum(partial(_curvature, w=w, of=attrgetter("diagonal")))
        return Curvature(
            lambda u: self.sum(partial(_curvature, w=w, of=methodcaller("product", u))) + ridge * u,
            np.asarray(diagonal + ridge),
        )

    def at_rest(self) -> AtRest:
        rest: AtRest = self.sum(methodcaller("at_rest"))
        return rest

    def equivalent_penalty(self, w: Array) -> Array:
        return np.asarray(self.sum(methodcaller("equivalent_penalty", w)))


def _asked(part: Part, make: Callable[[Part], Any], of: Callable[[Any], Any] | None, ask: Callable[[Any], Any]) -> Any:
    problem = make(part)
    if problem is None:
        return None
    return ask(problem if of is None else of(problem))


def _value_gradient_error(objective: Any, w: Array) -> tuple[float, Array, float]:
    value, gradient = objective.value_and_gradient(w)
    return value, gradient, getattr(objective, "error", np.nan)


def _curvature(objective: Any, w: Array, of: Callable[[Curvature], Any]) -> Any:
    return of(objective.curvature(w))


def one_column(y: Any) -> NDArray[Any]:
    """Targets of a partition, (n,)."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y must have one column, got shape {y.shape}")
    return y
