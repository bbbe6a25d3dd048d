"""Means and bands over seeds for the pictures, and words that many claims share."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.evidence.claim import Series, Text
from allmasks.replicates import half_width, standard_error

__all__ = [
    "DROPPED",
    "EPOCH",
    "LOSS",
    "NONE",
    "RATE",
    "UNITS_REMOVED",
    "band",
    "dataset_title",
    "resampled",
]

NONE = Text("no dropout", "드롭아웃 없음")
DROPPED = Text("dropout, p = 0.5", "드롭아웃, p = 0.5")
EPOCH = Text("epoch", "에폭")
LOSS = Text("loss (nats)", "손실 (nats)")
RATE = Text("drop rate p", "드롭율 p")
UNITS_REMOVED = Text("fraction of units removed", "제거한 유닛 비율")


def band(name: Text, x: ArrayLike, values: ArrayLike, *, points: bool = False) -> Series:
    """Mean over seeds of (seeds, k) values, with its 95 % band."""
    rows: NDArray[np.float64] = np.atleast_2d(np.asarray(values, np.float64))
    mean = rows.mean(axis=0)
    half = np.zeros_like(mean)
    if len(rows) > 1:
        half = half_width(standard_error(rows), 0.95, len(rows))
    axis = np.asarray(x, np.float64)
    return Series(name, axis.tolist(), mean.tolist(), (mean - half).tolist(), (mean + half).tolist(), points)


def dataset_title(en: str, ko: str, dataset: str) -> Text:
    """A title with the data set's name behind it."""
    return Text(f"{en} ({dataset})", f"{ko} ({dataset})")


def resampled(rows: ArrayLike, n: int = 32) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sorted importances of different numbers of units as shares at n common places."""
    values: NDArray[np.float64] = np.atleast_2d(np.asarray(rows, np.float64))
    places = np.linspace(0, 1, n)
    share = np.cumsum(values, axis=1) / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)
    own = np.linspace(0, 1, values.shape[1] + 1)
    return places, np.array([np.interp(places, own, np.concatenate([[0], row])) for row in share])
