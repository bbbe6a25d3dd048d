"""Rows and classes as `DropoutLogisticRegression` solves them: one binary task a class, at any p and alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.linear_model.class_weights import class_factors
from allmasks.linear_model.logistic_objective import LogisticTask, logit_of
from allmasks.linear_model.logistic_solver import Solution, one_sided_features
from allmasks.linear_model.rows import Rows
from allmasks.linear_model.separation import separates

__all__ = ["LabeledProblem", "labeled_problem", "make_tasks"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabeledProblem:
    """Rows of positive weight with their classes, as tasks that share the rows.

    codes, weight : (n,) of the labeled rows. targets : the class that each task holds against the rest. rates : (d,).
    has_more : whether there are rows without a class, too.
    """

    tasks: list[LogisticTask]
    classes: NDArray[Any]
    codes: NDArray[np.int64]
    weight: Array
    targets: Sequence[int]
    rates: Array
    dtype: Any
    has_more: bool

    def at(self, rates: Array, alpha: float) -> LabeledProblem:
        """The same rows, and what is tabulated of them, at another p and alpha."""
        return replace(self, tasks=[replace(task, p=rates, alpha=alpha) for task in self.tasks], rates=rates)

    @cached_property
    def one_sided(self) -> NDArray[np.bool_] | None:
        """Features that speak for one class only; None at alpha > 0, where that does no harm."""
        if self.tasks[0].alpha > 0.0:
            return None
        return one_sided_features(self.tasks[0].rows, self.codes, self.targets, self.weight)

    def separated(self, solutions: list[Solution]) -> bool:
        """Whether undropped features separate some class from the rest."""
        for task, solution in zip(self.tasks, solutions, strict=True):
            weights, b = task.split(solution.w)
            sign = np.where(task.label > 0.0, 1.0, -1.0)
            if separates(task.rows, sign, weights, b, task.p == 0.0, task.fit_intercept):
                return True
        return False


def labeled_problem(
    estimator: Any, X: Any, y: NDArray[Any], weight: Array, rates: Array, alpha: float, more: Any
) -> LabeledProblem:
    """Rows of weight 0 left out and class weights multiplied in, by the estimator's settings.

    Raises
    ------
    ValueError : fewer than two classes among the rows of positive weight.
    """
    classes, codes = np.unique(y, return_inverse=True)
    sums = dict(zip(classes.tolist(), np.bincount(codes, weight), strict=True))
    factors = class_factors(estimator.class_weight, classes.tolist(), sums)
    if factors is not None:
        weight = weight * np.array(list(factors.values()))[codes]
    present = np.unique(codes[weight > 0])
    if len(present) < 2:
        raise ValueError(
            f"DropoutLogisticRegression needs samples of at least 2 classes, but the rows of positive weight "
            f"contain only one class: {classes[present] if len(present) else 'none'}"
        )
    if (weight == 0).any():
        used = weight > 0
        X, weight, classes = X[used], weight[used], classes[present]
        codes = np.searchsorted(present, codes[used])
    targets = [1] if len(classes) == 2 else range(len(classes))
    tasks = make_tasks(X, [codes == k for k in targets], weight, rates, alpha, bool(estimator.fit_intercept), more)
    return LabeledProblem(tasks, classes, codes, weight, targets, rates, X.dtype, more is not None)


def make_tasks(
    X: Any,
    positives: list[NDArray[np.bool_]],
    weight: Array,
    rates: Array,
    alpha: float,
    fit_intercept: bool,
    X_unlabeled: Any = None,
) -> list[LogisticTask]:
    """One task for each class's rows; they share the rows."""
    label_weight, noisy, plain = weight, weight, None
    if X_unlabeled is not None and X_unlabeled.shape[0]:
        n, m = X.shape[0], X_unlabeled.shape[0]
        X = _stack(X, X_unlabeled)
        label_weight = np.concatenate([weight, np.zeros(m)])
        total = float(weight.sum())
        noisy = np.concatenate([weight, np.ones(m)]) * (total / (total + m))
        plain = label_weight - noisy
        positives = [np.concatenate([positive, np.zeros(m, bool)]) for positive in positives]
        assert len(label_weight) == n + m
    rows, mass = Rows.to_fit(X, alpha, fit_intercept), label_weight / label_weight.sum()
    return [
        LogisticTask(
            rows,
            rates,
            alpha,
            fit_intercept,
            label_weight * positive,
            noisy,
            plain,
            logit_of(float(mass @ positive), fit_intercept),
        )
        for positive in positives
    ]


def _stack(a: Any, b: Any) -> Any:
    if sparse.issparse(a) or sparse.issparse(b):
        return sparse.vstack([sparse.csr_matrix(a), sparse.csr_matrix(b)], format="csr")
    return np.concatenate([a, b])
