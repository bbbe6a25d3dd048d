"""Cross-validation, one way for all: how a fold is scored, how much it counts, and which candidate is best."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn import metrics
from sklearn.model_selection import check_cv

__all__ = ["Folds", "Scorer", "best_candidate", "column_lengths", "results_table"]

Array = NDArray[np.float64]

_OF_ALL_CLASSES = ("neg_log_loss", "d2_log_loss_score")
"""Scores of probabilities that must be told the classes where a fold has not all of them."""


@dataclass(frozen=True)
class Folds:
    """Splits of the rows, each of which counts by the weight that it tests: a row twice is a row of weight 2.

    splits : training and test rows of each. mass : (folds,) the weight tested.
    """

    splits: list[tuple[Any, Any]]
    mass: Array

    @classmethod
    def of(cls, cv: Any, X: Any, y: Any, weight: Array, *, classifier: bool) -> Folds:
        """cv : as scikit-learn takes it.

        Raises
        ------
        ValueError : a fold without a training row of positive weight.
        """
        splits = list(check_cv(cv, y, classifier=classifier).split(X, y))
        for number, (train, _) in enumerate(splits):
            if not weight[train].sum() > 0:
                raise ValueError(f"fold {number} has no training row of positive weight; use fewer folds")
        return cls(splits, np.array([weight[test].sum() for _, test in splits]))

    def judged(self, scores: Array) -> tuple[Array, Array]:
        """Mean of each candidate's scores (folds, candidates), and its standard error over folds."""
        total, n = float(self.mass.sum()), len(self.mass)
        # In this order, so that shares of the same number of rows are equal to the last digit.
        mean = self.mass @ scores / total
        spread = column_lengths(self.mass[:, None] * (scores - mean)) / total
        return mean, spread * np.sqrt(n / (n - 1)) if n > 1 else np.full(len(mean), np.nan)


def column_lengths(columns: Array) -> Array:
    """Euclidean length of each column; squares of losses may be beyond the largest double where losses are not."""
    most = np.abs(columns).max(axis=0)
    scale = np.where((most > 0) & np.isfinite(most), most, 1.0)
    return np.asarray(scale * np.sqrt(np.square(columns / scale).sum(axis=0)))


def best_candidate(p: Array, alpha: Array, mean: Array) -> int:
    """The best mean, NaN counting as the worst: of equals the smaller rate, then the larger alpha."""
    return int(np.lexsort((-alpha, p, np.where(np.isnan(mean), np.inf, -mean)))[0])


def results_table(
    p: Array, alpha: Array, judged: tuple[Array, Array], scores: Array | None = None
) -> dict[str, NDArray[Any]]:
    """`cv_results_` of candidates: `judged` their means and errors, `scores` (folds, candidates) those of each fold."""
    mean, error = judged
    table: dict[str, NDArray[Any]] = {
        "p": p,
        "alpha": alpha,
        "mean_test_score": mean,
        "se_test_score": error,
        "rank_test_score": rankdata(-mean, method="min").astype(np.int32),
    }
    return table | {f"split{number}_test_score": fold for number, fold in enumerate(() if scores is None else scores)}


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
        """The score of rows X, y, 0 where they weigh nothing; weight None where none were given.

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
        return float(self.score(model, X, y, sample_weight=weight)) if weight.any() else 0.0

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
