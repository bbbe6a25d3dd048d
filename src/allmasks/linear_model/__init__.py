"""scikit-learn estimators that minimise the dropout objective itself: the loss in the mean over all 2^d masks."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "DropoutRidge": "ridge",
    "DropoutRidgeCV": "ridge_cv",
    "DropoutLogisticRegression": "logistic",
    "DropoutLogisticRegressionCV": "logistic_cv",
    "DropoutPoissonRegressor": "poisson",
    "DeletionCurve": "deletion",
    "deletion_curve": "deletion",
}
"""Public names and the file of each; loaded when first used."""

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'allmasks.linear_model' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"allmasks.linear_model.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
