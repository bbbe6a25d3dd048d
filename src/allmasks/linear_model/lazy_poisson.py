"""`DropoutPoissonRegressor`'s objective over partitions of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from allmasks.linear_model.checks import feature_rates
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.partitions import Part, Partitions
from allmasks.linear_model.poisson_objective import ExactPoisson, check_counts, log_of
from allmasks.linear_model.summed import Summed, one_column

__all__ = ["PoissonOverPartitions"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Make:
    p: Array
    fit_intercept: bool
    rest: float

    def __call__(self, part: Part) -> ExactPoisson | None:
        used = part.used()
        if used is None:
            return None
        y = np.asarray(one_column(used.y), np.float64)
        return ExactPoisson(Rows.to_fit(used.X, 1.0, False), y, used.weight, self.p, 0.0, self.fit_intercept, self.rest)


@dataclass
class PoissonOverPartitions(Summed):
    """What `DropoutPoissonRegressor` asks of an objective, of rows in partitions."""

    make: _Make
    nothing_counted: bool = False

    @classmethod
    def of_data(cls, estimator: Any, X: Any, y: Any, sample_weight: Any, alpha: float) -> PoissonOverPartitions:
        data = Partitions.of(estimator, X, y, sample_weight)
        p = feature_rates(estimator.p, data.n_features)
        mass, total = data.sum(_counts) or (0.0, 0.0)
        if not mass > 0:
            raise ValueError("sample_weight must be positive for at least one row")
        intercept = bool(estimator.fit_intercept)
        make = _Make(p, intercept, log_of(total / mass, intercept))
        size = data.n_features + intercept
        return cls(data.known(), make, None, size, alpha, intercept, nothing_counted=total == 0.0)

    @property
    def p(self) -> Array:
        return self.make.p

    @property
    def rest(self) -> float:
        return self.make.rest

    def unbounded(self) -> NDArray[np.bool_]:
        """As `ExactPoisson.unbounded`."""
        positive, negative, counted = self.sum(_occurrences)
        return np.asarray(((positive > 0) ^ (negative > 0)) & (counted == 0))

    def receding(self, w: Array) -> bool:
        """Combinations of features are not looked for over partitions."""
        return False

    def rounding(self, w: Array) -> float:
        """As `ExactPoisson.rounding`: that of each partition, of their sum, and of the penalty."""
        within, sizes = self.sum(partial(_rounding, w=w))
        weights, _ = self.split(w)
        ridge = 0.5 * self.alpha * float(weights @ weights)
        eps = float(np.finfo(np.float64).eps)
        return float(within + eps * ((len(self.data.pieces) + 4.0) * (sizes + ridge) + (self.size + 4.0) * ridge))


def _counts(part: Part) -> tuple[float, float]:
    y = check_counts(check_array(one_column(part.y), ensure_2d=False, dtype=np.float64, input_name="y"))
    return float(part.weight.sum()), float(part.weight @ y)


def _rounding(objective: ExactPoisson, w: Array) -> tuple[float, float]:
    return objective.rounding(w), abs(objective.value_and_gradient(w)[0])


def _occurrences(objective: ExactPoisson) -> tuple[Array, Array, Array]:
    n = objective.rows.n
    positive, negative = objective.rows.signs(np.ones(n), np.ones(n, bool))
    return positive.astype(float), negative.astype(float), objective.counted().astype(float)
