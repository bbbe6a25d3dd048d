"""What all estimators share: rows dense or CSR, read in the precision they come in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

__all__ = ["RowsEstimator", "row_weights"]

Array = NDArray[np.float64]


_FLOATS = (np.float64, np.float32)


class RowsEstimator(BaseEstimator):
    """Of rows X (n, d)."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _read(self, X: Any, *y: Any, **checks: Any) -> Any:
        """X, or X and y, as scikit-learn reads them for a fit."""
        return validate_data(self, X, *y, accept_sparse="csr", dtype=_FLOATS, **checks)

    def _read_more(self, X: Any, dtype: Any = _FLOATS) -> Any:
        """More rows, if any, which must have the features of the fit's."""
        return None if X is None else validate_data(self, X, accept_sparse="csr", dtype=dtype, reset=False)

    def _read_new(self, X: Any) -> Any:
        """Rows to predict for."""
        check_is_fitted(self)
        return self._read_more(X)

    def _adopt(self, fitted: Any) -> None:
        """Take over what another estimator's fit found."""
        self.__dict__.update({k: v for k, v in vars(fitted).items() if k.endswith("_") or k == "_rates"})


def row_weights(sample_weight: ArrayLike | None, X: Any) -> Array:
    """sᵢ as float64, (n,); 0 or more, not all 0."""
    weight = np.asarray(_check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True))
    if not weight.sum() > 0:
        raise ValueError("sample_weight must be positive for at least one row")
    return weight
