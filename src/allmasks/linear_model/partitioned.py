"""The estimators' problems over partitions of rows: a function of each partition, added up, for the solvers there are.

Every pass reads the data once: one for a value with its gradient, one for the Hessian (or, beyond `_LARGEST_HESSIAN`
features, for a product with it), so data that take long to make are worth persisting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import methodcaller
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array

from allmasks.linear_model.centered import second_moments
from allmasks.linear_model.class_weights import class_factors
from allmasks.linear_model.logistic_objective import LogisticTask, logit_of
from allmasks.linear_model.moments import Moments
from allmasks.linear_model.newton import Curvature
from allmasks.linear_model.partitions import Part, Partitions
from allmasks.linear_model.poisson_objective import ExactPoisson, log_of
from allmasks.linear_model.quadratic import LARGEST_GRAM
from allmasks.linear_model.rows import Rows
from allmasks.linear_model.stopping import AtRest

__all__ = ["LogisticProblem", "lazy_moments", "lazy_squares", "logistic_problem", "poisson_problem"]

Array = NDArray[np.float64]
Make = Callable[[Part], Any]

_LARGEST_HESSIAN = 1024
"""Unknowns up to which a partition's Hessian is formed and added up: 8 MB."""


# Ridge: sufficient statistics.


def lazy_moments(data: Partitions) -> Moments:
    """The statistics of all rows, each partition centered by itself and merged."""
    if data.n_features > LARGEST_GRAM:
        raise ValueError(
            f"DropoutRidge on Dask data adds up d × d statistics, for at most {LARGEST_GRAM} features; X has "
            f"{data.n_features}. Select features, or fit in memory, where an iterative solver takes over"
        )
    total = data.sum(_moments)
    if total is None:
        raise ValueError("X has no row of positive sample_weight; at least one is needed")
    return total


def lazy_squares(data: Partitions) -> tuple[Array, int]:
    """Σᵢ xᵢⱼ² and the number of rows."""
    squares, n = data.sum(_squares) or (np.zeros(data.n_features), 0)
    return squares, n


def _moments(part: Part) -> Moments | None:
    y = check_array(part.y, ensure_2d=False, dtype=np.float64, input_name="y").reshape(part.X.shape[0], -1)
    used = part.used()
    return None if used is None else Moments.of(used.X, y[part.weight > 0], used.weight)


def _squares(part: Part) -> tuple[Array, int]:
    return second_moments(part.X), part.X.shape[0]


# The others: objectives added up.


@dataclass
class Summed:
    """Σ over partitions of an objective of each, plus α/2 ‖w‖².

    make : builds a partition's problem at α = 0, or None where it has no rows. of : its objective.
    """

    data: Partitions
    make: Make
    of: Callable[[Any], Any] | None
    size: int
    alpha: float
    fit_intercept: bool
    error: float = np.nan
    used: float = np.nan
    """Partitions do not report the tolerance they used."""

    def split(self, w: Array) -> tuple[Array, float]:
        return (w[:-1], float(w[-1])) if self.fit_intercept else (w, 0.0)

    def join(self, of_weights: Array, of_intercept: float) -> Array:
        return np.append(of_weights, of_intercept) if self.fit_intercept else of_weights

    def _penalized(self, of_weights: Array) -> Array:
        return self.join(self.alpha * self.split(of_weights)[0], 0.0)

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        value, gradient, self.error = self.data.sum(_value_and_gradient, self.make, self.of, w)
        weights, _ = self.split(w)
        return value + 0.5 * self.alpha * float(weights @ weights), gradient + self._penalized(w)

    def value(self, w: Array) -> float:
        return self.value_and_gradient(w)[0]

    def curvature(self, w: Array) -> Curvature:
        ridge = self._penalized(np.ones(self.size))
        if self.size <= _LARGEST_HESSIAN:
            H = self.data.sum(_hessian, self.make, self.of, w)
            H[np.diag_indices_from(H)] += ridge
            return Curvature(lambda u: H @ u, np.diag(H).copy(), lambda: H)
        diagonal = self.data.sum(_diagonal, self.make, self.of, w)
        return Curvature(
            lambda u: self.data.sum(_product, self.make, self.of, w, u) + ridge * u, np.asarray(diagonal + ridge)
        )

    def at_rest(self) -> AtRest:
        rest: AtRest = self.data.sum(_at_rest, self.make)
        return rest

    def equivalent_penalty(self, w: Array) -> Array:
        return np.asarray(self.data.sum(_equivalent_penalty, self.make, w))


def _objective(part: Part, make: Make, of: Callable[[Any], Any] | None) -> Any:
    problem = make(part)
    return problem if problem is None or of is None else of(problem)


def _value_and_gradient(part: Part, make: Make, of: Any, w: Array) -> tuple[float, Array, float] | None:
    objective = _objective(part, make, of)
    if objective is None:
        return None
    value, gradient = objective.value_and_gradient(w)
    return value, gradient, getattr(objective, "error", np.nan)


def _hessian(part: Part, make: Make, of: Any, w: Array) -> Array | None:
    objective = _objective(part, make, of)
    return None if objective is None else objective.curvature(w).matrix()


def _diagonal(part: Part, make: Make, of: Any, w: Array) -> Array | None:
    objective = _objective(part, make, of)
    return None if objective is None else objective.curvature(w).diagonal


def _product(part: Part, make: Make, of: Any, w: Array, u: Array) -> Array | None:
    objective = _objective(part, make, of)
    return None if objective is None else objective.curvature(w).product(u)


def _at_rest(part: Part, make: Make) -> AtRest | None:
    problem = make(part)
    return None if problem is None else problem.at_rest()


def _equivalent_penalty(part: Part, make: Make, w: Array) -> Array | None:
    problem = make(part)
    return None if problem is None else problem.equivalent_penalty(w)


# Logistic.


@dataclass(frozen=True)
class _MakeLogistic:
    """One class against the rest, on one partition. share : of labelled rows, where others have no label."""

    p: Array
    fit_intercept: bool
    rest: float
    positive: Any
    factors: dict[Any, float] | None
    share: float | None

    def __call__(self, part: Part) -> LogisticTask | None:
        if part.y is None:
            assert self.share is not None
            none = np.zeros(part.X.shape[0])
            noisy = part.weight * self.share
            return LogisticTask(
                Rows.to_fit(part.X, 1.0, False), self.p, 0.0, self.fit_intercept, none, noisy, none - noisy, self.rest
            )
        y = _column(part.y)
        weight = part.weight * _factors(y, self.factors)
        used = Part(part.X, y, weight).used()
        if used is None:
            return None
        label = used.weight * (used.y == self.positive)
        noisy, plain = used.weight, None
        if self.share is not None:
            noisy = used.weight * self.share
            plain = used.weight - noisy
        return LogisticTask(
            Rows.to_fit(used.X, 1.0, False), self.p, 0.0, self.fit_intercept, label, noisy, plain, self.rest
        )


@dataclass
class LogisticTaskOverPartitions(Summed):
    """A binary logistic problem whose rows lie in partitions: what `logistic_solver.solve` asks of a task."""

    make: _MakeLogistic

    @property
    def dropped(self) -> bool:
        return bool((self.make.p > 0.0).any())

    @property
    def rest(self) -> float:
        return self.make.rest

    def _stage(self, of: Callable[[Any], Any], stronger: float = 1.0) -> Summed:
        return Summed(self.data, self.make, of, self.size, stronger * self.alpha, self.fit_intercept)

    def gaussian(self, stronger: float = 1.0) -> Summed:
        return self._stage(methodcaller("gaussian"), stronger)

    def exact(self, tol: float, scale: float = 0.0, coarse: float = 0.0) -> Summed:
        # One tolerance throughout: a worker that comes back knows no earlier gradient to set a coarser one by.
        return self._stage(methodcaller("exact", tol))


@dataclass(frozen=True)
class LogisticProblem:
    """Classes, the binary tasks, and what the rows of positive weight say about features of one class only."""

    classes: NDArray[Any]
    targets: list[int]
    tasks: list[LogisticTaskOverPartitions]
    dtype: Any

    def separated(self, solutions: list[Any], undropped: NDArray[np.bool_]) -> bool:
        """Whether the undropped features' part of a solution has every row on its side."""
        if not undropped.any():
            return False
        for task, solution in zip(self.tasks, solutions, strict=True):
            weights, b = task.split(solution.w)
            if not task.data.sum(_astray, task.make, np.where(undropped, weights, 0.0), b):
                return True
        return False

    def one_sided(self) -> NDArray[np.bool_]:
        """Features that speak for one class only."""
        task = self.tasks[0]
        positive, negative = task.data.sum(_signs, task.make, [self.classes[k] for k in self.targets])
        return np.asarray(((positive > 0) ^ (negative > 0)).any(axis=0))


def logistic_problem(
    estimator: Any, X: Any, y: Any, sample_weight: Any, X_unlabeled: Any, rates: Callable[[int], Array], alpha: float
) -> LogisticProblem:
    """Look at all labels once, then state one task for each class."""
    data = Partitions.of(estimator, X, y, sample_weight)
    p = rates(data.n_features)
    counts, mass = data.sum(_labels) or (Counter(), Counter())
    dtype = data.y_dtype if data.y_dtype is not None and data.y_dtype.kind in "biu" else None
    classes = (
        np.unique(np.array(list(counts), dtype))
        if counts and not any(isinstance(label, str) for label in counts)
        else np.array(sorted(counts), object)
    )
    factors = class_factors(estimator.class_weight, classes.tolist(), mass)
    weights = {label: mass[label] * (1.0 if factors is None else factors[label]) for label in counts}
    present = [label for label in classes.tolist() if weights[label] > 0]
    classes = classes[[weights[label] > 0 for label in classes.tolist()]]
    if len(present) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs samples of at least 2 classes, but the rows of positive weight contain "
            f"only one class: {present[0] if present else 'none'}"
        )
    share = None
    data = data.known()
    if X_unlabeled is not None:
        total = float(sum(weights.values()))
        _, more = lazy_squares(Partitions.of(estimator, X_unlabeled, None, reset=False, labeled=False))
        share = total / (total + more)
        data = data.and_unlabeled(estimator, X_unlabeled).known()
    intercept = bool(estimator.fit_intercept)
    targets = [1] if len(classes) == 2 else list(range(len(classes)))
    labels, mass_of_all = classes.tolist(), float(sum(weights.values()))
    tasks = [
        LogisticTaskOverPartitions(
            data,
            _MakeLogistic(
                p, intercept, logit_of(weights[labels[k]] / mass_of_all, intercept), labels[k], factors, share
            ),
            None,
            data.n_features + intercept,
            alpha,
            intercept,
        )
        for k in targets
    ]
    return LogisticProblem(classes, targets, tasks, data.dtype)


def _column(y: Any) -> NDArray[Any]:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y must have one column, got shape {y.shape}")
    return y


def _labels(part: Part) -> tuple[Counter[Any], Counter[Any]]:
    """Rows of each class, and their weight."""
    y = check_array(_column(part.y), ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    labels = classes.tolist()
    counts, mass = np.bincount(codes).tolist(), np.bincount(codes, part.weight).tolist()
    return Counter(dict(zip(labels, counts, strict=True))), Counter(dict(zip(labels, mass, strict=True)))


def _factors(y: NDArray[Any], factors: dict[Any, float] | None) -> Any:
    if factors is None:
        return 1.0
    classes, codes = np.unique(y, return_inverse=True)
    return np.array([factors[label] for label in classes.tolist()])[codes]


def _astray(part: Part, make: _MakeLogistic, weights: Array, b: float) -> float | None:
    """Rows on the wrong side of these weights."""
    task = None if part.y is None else make(part)
    if task is None:
        return None
    sign = np.where(task.label > 0.0, 1.0, -1.0)
    return float(np.count_nonzero(sign * (task.rows.dot(weights) + b) <= 0.0))


def _signs(part: Part, make: _MakeLogistic, labels: list[Any]) -> tuple[Array, Array] | None:
    if part.y is None:
        return None
    y = _column(part.y)
    used = Part(part.X, y, part.weight * _factors(y, make.factors)).used()
    if used is None:
        return None
    rows = Rows(used.X)
    both = [rows.signs(np.where(used.y == label, 1.0, -1.0), np.ones(rows.n, bool)) for label in labels]
    return np.array([one for one, _ in both], float), np.array([other for _, other in both], float)


# Poisson.


@dataclass(frozen=True)
class _MakePoisson:
    p: Array
    fit_intercept: bool
    rest: float

    def __call__(self, part: Part) -> ExactPoisson | None:
        used = part.used()
        if used is None:
            return None
        y = np.asarray(_column(used.y), np.float64)
        return ExactPoisson(Rows.to_fit(used.X, 1.0, False), y, used.weight, self.p, 0.0, self.fit_intercept, self.rest)


@dataclass
class PoissonOverPartitions(Summed):
    """The Poisson objective of rows in partitions."""

    make: _MakePoisson
    nothing_counted: bool = False

    @property
    def rest(self) -> float:
        return self.make.rest

    def unbounded(self) -> NDArray[np.bool_]:
        """As `ExactPoisson.unbounded`."""
        positive, negative, counted = self.data.sum(_occurrences, self.make)
        return np.asarray(((positive > 0) ^ (negative > 0)) & (counted == 0))

    def receding(self, w: Array) -> bool:
        """Combinations of features are not looked for over partitions."""
        return False

    def rounding(self, w: Array) -> float:
        """As `ExactPoisson.rounding`: that of each partition, of their sum, and of the penalty."""
        within, sizes = self.data.sum(_rounding, self.make, w)
        weights, _ = self.split(w)
        ridge = 0.5 * self.alpha * float(weights @ weights)
        eps = float(np.finfo(np.float64).eps)
        return float(within + eps * ((len(self.data.pieces) + 4.0) * (sizes + ridge) + (self.size + 4.0) * ridge))


def poisson_problem(
    estimator: Any, X: Any, y: Any, sample_weight: Any, rates: Callable[[int], Array], alpha: float
) -> tuple[PoissonOverPartitions, Any]:
    """The objective and the dtype of coefficients."""
    data = Partitions.of(estimator, X, y, sample_weight)
    p = rates(data.n_features)
    mass, total = data.sum(_counts) or (0.0, 0.0)
    if not mass > 0:
        raise ValueError("sample_weight must be positive for at least one row")
    intercept = bool(estimator.fit_intercept)
    make = _MakePoisson(p, intercept, log_of(total / mass, intercept))
    size = data.n_features + intercept
    return PoissonOverPartitions(
        data.known(), make, None, size, alpha, intercept, nothing_counted=total == 0.0
    ), data.dtype


def _counts(part: Part) -> tuple[float, float]:
    y = check_array(_column(part.y), ensure_2d=False, dtype=np.float64, input_name="y")
    if (y < 0).any():
        raise ValueError(f"y must be 0 or more for a Poisson loss, got {y.min():g} in row {int(np.argmin(y))}")
    return float(part.weight.sum()), float(part.weight @ y)


def _rounding(part: Part, make: _MakePoisson, w: Array) -> tuple[float, float] | None:
    objective = make(part)
    return None if objective is None else (objective.rounding(w), abs(objective.value_and_gradient(w)[0]))


def _occurrences(part: Part, make: _MakePoisson) -> tuple[Array, Array, Array] | None:
    objective = make(part)
    if objective is None:
        return None
    n = objective.rows.n
    positive, negative = objective.rows.signs(np.ones(n), np.ones(n, bool))
    return positive.astype(float), negative.astype(float), objective.counted().astype(float)
