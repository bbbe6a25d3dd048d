"""Scores of a fold: with the weights of its rows, and with the classes of all rows, whichever the fold has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

__all__ = ["Scorer"]

_OF_ALL_CLASSES = ("neg_log_loss", "d2_log_loss_score")
"""Scores of probabilities that must be told the classes where a fold has not all of them."""


@dataclass(frozen=True)
class Scorer:
    """A scorer of scikit-learn's, or any callable (estimator, X, y)."""

    score: Callable[..., float]
    name: str
    classes: NDArray[Any] | None

    @classmethod
    def of(cls, estimator: Any, scoring: Any, classes: NDArray[Any] | None = None) -> Scorer:
        """scoring : a name, a callable, or None for the estimator's own score. classes : of all rows, if any."""
        score = metrics.check_scoring(estimator, scoring)
        if classes is not None and scoring in _OF_ALL_CLASSES:
            score = metrics.make_scorer(
                metrics.log_loss if scoring == "neg_log_loss" else metrics.d2_log_loss_score,
                greater_is_better=scoring != "neg_log_loss",
                response_method="predict_proba",
                labels=classes,
            )
        return cls(score, scoring if isinstance(scoring, str) else repr(scoring), classes)

    def __call__(self, model: Any, X: Any, y: Any, weight: Any) -> float:
        """The score of rows X, y; weight None where none were given.

        Raises
        ------
        ValueError : weights for a scorer that takes none.
        """
        if self.classes is not None and len(model.classes_) < len(self.classes):
            model = _Padded(model, self.classes)
        if weight is None:
            return float(self.score(model, X, y))
        if not self._takes_weights():
            raise ValueError(
                f"scoring={self.name} takes no sample_weight, so its scores would ignore the weights given: use a "
                "scorer that takes them, or fit without weights"
            )
        return float(self.score(model, X, y, sample_weight=weight))

    def _takes_weights(self) -> bool:
        known = getattr(self.score, "_score_func", self.score)
        parameters = inspect.signature(known).parameters.values()
        return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


class _Padded:
    """A classifier whose training rows lacked a class: it has probability 0."""

    def __init__(self, model: Any, classes: NDArray[Any]) -> None:
        self.model, self.classes_ = model, classes
        self._estimator_type = "classifier"

    def __sklearn_tags__(self) -> Any:
        return self.model.__sklearn_tags__()

    def fit(self, *_: Any) -> None:
        """There because scikit-learn asks whether it is; never called."""

    def predict(self, X: Any) -> Any:
        return self.model.predict(X)

    def predict_proba(self, X: Any) -> Any:
        probability = np.zeros((X.shape[0], len(self.classes_)))
        probability[:, np.searchsorted(self.classes_, self.model.classes_)] = self.model.predict_proba(X)
        return probability

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return float(metrics.accuracy_score(y, self.predict(X), sample_weight=sample_weight))
