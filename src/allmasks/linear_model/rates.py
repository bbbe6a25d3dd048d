"""The drop rate as estimators take it: one number, or one for each feature."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.masks import check_p

__all__ = ["feature_rates"]


def feature_rates(p: ArrayLike, n_features: int) -> NDArray[np.float64]:
    """The drop rate of each feature, shape (n_features,).

    Raises
    ------
    ValueError : for a rate outside [0, 1), or a number of rates that is not the number of features.

    >>> feature_rates(0.5, 3)
    array([0.5, 0.5, 0.5])
    """
    rates = check_p(p)
    if rates.shape not in ((), (n_features,)):
        raise ValueError(f"p must be one rate, or one for each of the {n_features} features, got shape {rates.shape}")
    return np.broadcast_to(rates, (n_features,)).astype(np.float64)
