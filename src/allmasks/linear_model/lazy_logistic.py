"""`DropoutLogisticRegression`'s problems over partitions of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from operator import methodcaller
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array

from allmasks.linear_model.checks import feature_rates
from allmasks.linear_model.class_weights import class_factors
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.logistic_objective import BinaryLogistic, logit_of
from allmasks.linear_model.logistic_problem import LabeledProblem
from allmasks.linear_model.partitions import Part, Partitions
from allmasks.linear_model.summed import Summed, one_column

__all__ = ["labeled_partitions"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Make:
    """One class against the rest, on one partition. share : of labelled rows, where others have no label."""

    p: Array
    fit_intercept: bool
    rest: float
    positive: Any
    factors: dict[Any, float] | None
    share: float | None

    def used(self, part: Part) -> Part | None:
        """Labeled rows with class weights multiplied in, those of positive weight."""
        y = one_column(part.y)
        weight = part.weight
        if self.factors is not None:
            classes, codes = np.unique(y, return_inverse=True)
            weight = weight * np.array([self.factors[label] for label in classes.tolist()])[codes]
        return Part(part.X, y, weight).used()

    def __call__(self, part: Part) -> BinaryLogistic | None:
        used = part if part.y is None else self.used(part)
        if used is None:
            return None
        none = np.zeros(used.X.shape[0])
        label = none if part.y is None else used.weight * (used.y == self.positive)
        noisy, plain = used.weight, None
        if self.share is not None:
            noisy = used.weight * self.share
            plain = (none if part.y is None else used.weight) - noisy
        rows = Rows.to_fit(used.X, 1.0, False)
        return BinaryLogistic(rows, self.p, 0.0, self.fit_intercept, label, noisy, plain, self.rest)


@dataclass
class _OverPartitions(Summed):
    """A binary logistic problem whose rows lie in partitions: what `logistic_solver.solve` asks of one."""

    make: _Make

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
class _LabeledPartitions(LabeledProblem):
    binaries: list[_OverPartitions]

    @cached_property
    def one_sided(self) -> NDArray[np.bool_] | None:
        first = self.binaries[0]
        if first.alpha > 0.0:
            return None
        labels = [self.classes[k] for k in self.targets]
        positive, negative = first.data.sum(_signs, first.make, labels)
        return np.asarray(((positive > 0) ^ (negative > 0)).any(axis=0))

    def separated(self, ends: list[Array]) -> bool:
        undropped = self.rates == 0.0
        if not undropped.any():
            return False
        for binary, w in zip(self.binaries, ends, strict=True):
            weights, b = binary.split(w)
            astray = partial(_astray, weights=np.where(undropped, weights, 0.0), b=b)
            if not binary.sum(astray):
                return True
        return False


def labeled_partitions(
    estimator: Any, X: Any, y: Any, sample_weight: Any, X_unlabeled: Any, alpha: float
) -> LabeledProblem:
    """Look at all labels once, then state one problem for each class."""
    data = Partitions.of(estimator, X, y, sample_weight)
    p = feature_rates(estimator.p, data.n_features)
    counts, mass = data.sum(_labels) or (Counter(), Counter())
    dtype = data.y_dtype if data.y_dtype is not None and data.y_dtype.kind in "biu" else None
    classes = (
        np.unique(np.array(list(counts), dtype))
        if counts and not any(isinstance(label, str) for label in counts)
        else np.array(sorted(counts), object)
    )
    factors = class_factors(estimator.class_weight, classes.tolist(), mass)
    weights = {label: mass[label] * (1.0 if factors is None else factors[label]) for label in counts}
    classes = classes[[weights[label] > 0 for label in classes.tolist()]]
    labels, total = classes.tolist(), float(sum(weights.values()))
    if len(labels) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs samples of at least 2 classes, but the rows of positive weight contain "
            f"only one class: {labels[0] if labels else 'none'}"
        )
    share = None
    data = data.known()
    if X_unlabeled is not None:
        more = Partitions.of(estimator, X_unlabeled, None, reset=False, labeled=False).sum(_size)
        share = total / (total + (more or 0))
        data = data.and_unlabeled(estimator, X_unlabeled).known()
    intercept = bool(estimator.fit_intercept)
    targets = [1] if len(classes) == 2 else list(range(len(classes)))
    makes = [
        _Make(p, intercept, logit_of(weights[labels[k]] / total, intercept), labels[k], factors, share) for k in targets
    ]
    size = data.n_features + intercept
    binaries = [_OverPartitions(data, make, None, size, alpha, intercept) for make in makes]
    return _LabeledPartitions(binaries, classes, targets, p, data.dtype, X_unlabeled is not None)


def _size(part: Part) -> int:
    return int(part.X.shape[0])


def _labels(part: Part) -> tuple[Counter[Any], Counter[Any]]:
    """Rows of each class, and their weight."""
    y = check_array(one_column(part.y), ensure_2d=False, dtype=None, input_name="y")
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    labels = classes.tolist()
    counts, mass = np.bincount(codes).tolist(), np.bincount(codes, part.weight).tolist()
    return Counter(dict(zip(labels, counts, strict=True))), Counter(dict(zip(labels, mass, strict=True)))


def _astray(binary: BinaryLogistic, weights: Array, b: float) -> float:
    """Rows on the wrong side of these weights."""
    sign = np.where(binary.label > 0.0, 1.0, -1.0)
    return float(np.count_nonzero(sign * (binary.rows.dot(weights) + b) <= 0.0))


def _signs(part: Part, make: _Make, labels: list[Any]) -> tuple[Array, Array] | None:
    used = None if part.y is None else make.used(part)
    if used is None:
        return None
    rows = Rows(used.X)
    both = [rows.signs(np.where(used.y == label, 1.0, -1.0), np.ones(rows.n, bool)) for label in labels]
    return np.array([one for one, _ in both], float), np.array([other for _, other in both], float)
