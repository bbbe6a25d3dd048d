"""A fitted network as a scikit-learn estimator, so that what is there for those works on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_array, check_X_y
from torch import nn

from allmasks.prediction import Prediction, predict
from allmasks.prediction.task import TASKS

__all__ = ["MaskedClassifier", "MaskedRegressor", "as_estimator"]


class _Masked(BaseEstimator):
    """What both kinds share: a fitted model that is not fitted again."""

    model: Any
    n_masks: int | None
    seed: int
    batch_size: int | None

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predicted(self, X: Any, **more: Any) -> Prediction:
        """The `Prediction` of these rows, with all its errors."""
        rows = check_array(X, dtype=None, ensure_2d=False, allow_nd=True, input_name="X")
        if hasattr(self, "n_features_in_") and rows.ndim == 2 and rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {rows.shape[1]} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input"
            )
        dtype = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)
        x = torch.as_tensor(np.ascontiguousarray(rows))
        if x.is_floating_point() or not any(isinstance(m, nn.Embedding) for m in self.model.modules()):
            x = x.to(dtype)
        return predict(
            self.model, x, task=self._task(), n_masks=self.n_masks, seed=self.seed, batch_size=self.batch_size, **more
        )

    def _task(self) -> str:
        raise NotImplementedError

    def _read(self, X: Any, y: Any) -> tuple[Any, Any]:
        rows, target = check_X_y(X, y, dtype=None, ensure_2d=False, allow_nd=True, multi_output=True)
        if rows.ndim == 2:
            self.n_features_in_ = rows.shape[1]
        return rows, target


class MaskedClassifier(ClassifierMixin, _Masked):
    """A fitted network whose probabilities are means over all its dropout masks: see `as_estimator`.

    Attributes
    ----------
    classes_ : (classes,) labels of the outputs in order: `classes`, or those seen in `fit`, or 0, 1, ….
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        task: str = "multiclass",
        classes: Any = None,
        n_masks: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.task, self.classes, self.n_masks = model, task, classes, n_masks
        self.seed, self.batch_size = seed, batch_size

    def _task(self) -> str:
        return self.task

    @property
    def classes_(self) -> Any:
        if self.classes is not None:
            return np.asarray(self.classes)
        found = getattr(self, "_seen", None)
        if found is None:
            raise AttributeError("classes_ is known once fit has seen labels, or from classes=")
        return found

    def fit(self, X: Any, y: Any) -> MaskedClassifier:
        """Learn what the labels are called; the network stays as it is."""
        _, target = self._read(X, y)
        known = np.unique(target)
        if self.classes is not None and not np.isin(known, np.asarray(self.classes)).all():
            raise ValueError(f"y holds labels that are not in classes={list(self.classes)}")
        self._seen = known
        return self

    def predict_proba(self, X: Any) -> Any:
        """(n, classes) mean probabilities over all masks."""
        p = self.predicted(X).mean.double().cpu().numpy()
        if self.task == "binary":
            score = p.reshape(len(p))
            p = np.stack([1 - score, score], axis=1)
        known = getattr(self, "_seen", None) if self.classes is None else np.asarray(self.classes)
        if known is not None and len(known) != p.shape[1]:
            raise ValueError(f"the model has {p.shape[1]} outputs and there are {len(known)} classes; pass classes=")
        return p / p.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> Any:
        """(n,) the most probable label."""
        best = self.predict_proba(X).argmax(axis=1)
        known = getattr(self, "_seen", None) if self.classes is None else np.asarray(self.classes)
        return best if known is None else known[best]


class MaskedRegressor(RegressorMixin, _Masked):
    """A fitted network whose predictions are means over all its dropout masks: see `as_estimator`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        noise_precision: float | None = None,
        n_masks: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.noise_precision, self.n_masks = model, noise_precision, n_masks
        self.seed, self.batch_size = seed, batch_size

    def _task(self) -> str:
        return "regression"

    def fit(self, X: Any, y: Any) -> MaskedRegressor:
        """Check the data; the network stays as it is."""
        self._read(X, y)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """(n,) means over all masks; with `return_std` also √(std² + 1/τ), the spread of a new observation."""
        found = self.predicted(X, noise_precision=self.noise_precision)
        mean = _one_column(found.mean)
        if not return_std:
            return mean
        return mean, _one_column(found.std if self.noise_precision is None else found.total_std)


def _one_column(values: Any) -> Any:
    array = values.double().cpu().numpy()
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def as_estimator(
    model: nn.Module,
    task: str,
    *,
    classes: Any = None,
    noise_precision: float | None = None,
    n_masks: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> MaskedClassifier | MaskedRegressor:
    """A fitted network as a scikit-learn estimator whose predictions are means over all dropout masks.

    `CalibratedClassifierCV`, `permutation_importance`, `CalibrationDisplay` and the like work on it. It is fitted
    already: `fit` learns the labels' names and trains nothing.

    Parameters
    ----------
    task : "multiclass", "binary" or "regression".
    classes : labels of the outputs in order; by default those that `fit` sees, else 0, 1, ….
    noise_precision, n_masks, seed, batch_size : as in `predict`.

    Raises
    ------
    ValueError, TypeError : another task; no module.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)).double()
    >>> mean, std = as_estimator(net, "regression").predict([[1.0, 2.0, 3.0]], return_std=True)
    >>> mean.shape, bool(std[0] > 0)
    ((1,), True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))}, got {task!r}")
    how: dict[str, Any] = {"n_masks": n_masks, "seed": seed, "batch_size": batch_size}
    if task == "regression":
        if classes is not None:
            raise ValueError("classes= is for classifications")
        return MaskedRegressor(model, noise_precision=noise_precision, **how)
    if noise_precision is not None:
        raise ValueError("noise_precision= is for regressions")
    return MaskedClassifier(model, task=task, classes=classes, **how)
