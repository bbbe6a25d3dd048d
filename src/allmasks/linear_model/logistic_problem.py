"""Rows and classes as `DropoutLogisticRegression` solves them: one binary problem a class, at any p and alpha."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from allmasks.linear_model.class_weights import class_factors
from allmasks.linear_model.feature_rows import Rows
from allmasks.linear_model.logistic_objective import BinaryLogistic, logit_of
from allmasks.linear_model.logistic_solver import Binary
from allmasks.linear_model.separation import separates

__all__ = ["LabeledProblem", "LabeledRows", "labeled_rows"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LabeledProblem(ABC):
    """Rows of positive weight with their classes, wherever they are: one binary problem a class.

    targets : the class that each holds against the rest. rates : (d,). dtype : of coefficients. has_more : whether
    there are rows without a class, too.
    """

    binaries: Sequence[Binary]
    classes: NDArray[Any]
    targets: Sequence[int]
    rates: Array
    dtype: Any
    has_more: bool

    @property
    @abstractmethod
    def one_sided(self) -> NDArray[np.bool_] | None:
        """Features that speak for one class only; None at alpha > 0, where that does no harm."""

    @abstractmethod
    def separated(self, ends: list[Array]) -> bool:
        """Whether undropped features separate some class from the rest; `ends` is where each fit stopped."""


@dataclass(frozen=True)
class LabeledRows(LabeledProblem):
    """In memory: the binary problems share the rows. codes, weight : (n,) of the labeled ones."""

    binaries: list[BinaryLogistic]
    codes: NDArray[np.int64]
    weight: Array

    def at(self, rates: Array, alpha: float) -> LabeledRows:
        """The same rows, and what is tabulated of them, at another p and alpha."""
        return replace(self, binaries=[replace(one, p=rates, alpha=alpha) for one in self.binaries], rates=rates)

    @cached_property
    def one_sided(self) -> NDArray[np.bool_] | None:
        rows, sided = self.binaries[0].rows, np.zeros(len(self.rates), bool)
        if self.binaries[0].alpha > 0.0:
            return None
        # The labeled rows come first.
        used, sign = np.arange(rows.n) < len(self.codes), np.zeros(rows.n)
        for k in self.targets:
            sign[: len(self.codes)] = np.where(self.codes == k, 1.0, -1.0)
            positive, negative = rows.signs(sign, used)
            sided |= positive ^ negative
        return sided

    def separated(self, ends: list[Array]) -> bool:
        for one, w in zip(self.binaries, ends, strict=True):
            weights, b = one.split(w)
            sign = np.where(one.label > 0.0, 1.0, -1.0)
            if separates(one.rows, sign, weights, b, one.p == 0.0, one.fit_intercept):
                return True
        return False


def labeled_rows(
    estimator: Any, X: Any, y: NDArray[Any], weight: Array, rates: Array, alpha: float, more: Any
) -> LabeledRows:
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
    dtype, intercept = X.dtype, bool(estimator.fit_intercept)
    padded, label_weight, noisy, plain = codes, weight, weight, None
    if more is not None and more.shape[0]:
        m, total = more.shape[0], float(weight.sum())
        X = _stack(X, more)
        padded, label_weight = np.append(codes, np.full(m, -1)), np.append(weight, np.zeros(m))
        noisy = np.append(weight, np.ones(m)) * (total / (total + m))
        plain = label_weight - noisy
    rows, mass = Rows.to_fit(X, alpha, intercept), label_weight / label_weight.sum()
    binaries = []
    for k in targets:
        positive = padded == k
        rest = logit_of(float(mass @ positive), intercept)
        binaries.append(BinaryLogistic(rows, rates, alpha, intercept, label_weight * positive, noisy, plain, rest))
    return LabeledRows(binaries, classes, targets, rates, dtype, more is not None, codes, weight)


def _stack(a: Any, b: Any) -> Any:
    if sparse.issparse(a) or sparse.issparse(b):
        return sparse.vstack([sparse.csr_matrix(a), sparse.csr_matrix(b)], format="csr")
    return np.concatenate([a, b])
