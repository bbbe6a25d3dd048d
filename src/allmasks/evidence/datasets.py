"""The data sets that the claims are measured on, and how each seed splits them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUNDLED", "Dataset", "Split", "find_datasets", "load", "split"]

Array = NDArray[np.float64]

_LOADERS = {
    "digits": "load_digits",
    "breast_cancer": "load_breast_cancer",
    "wine": "load_wine",
    "iris": "load_iris",
    "diabetes": "load_diabetes",
}
BUNDLED = tuple(_LOADERS)
"""scikit-learn's own, there without any download."""

_TRAIN = {"digits": 200, "breast_cancer": 100, "wine": 50, "iris": 40, "diabetes": 150}
_AT_MOST = 2000


@dataclass(frozen=True)
class Dataset:
    """X (n, d) and y: class numbers 0 … classes − 1, or real values where classes is 0."""

    name: str
    X: Array
    y: NDArray[np.float64] | NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Split:
    """Rows of one seed, inputs standardized by the training rows."""

    train: tuple[Array, NDArray[np.int64]]
    validation: tuple[Array, NDArray[np.int64]]
    test: tuple[Array, NDArray[np.int64]]


def find_datasets(folder: str | Path | None) -> dict[str, str]:
    """Names and files of the data sets in a folder: each .npz with X and y is one.

    Raises
    ------
    FileNotFoundError : no such folder, or no .npz file in it.
    """
    if folder is None:
        return {}
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"--data {folder}: no .npz file there; each data set is one, with arrays X and y")
    return {file.stem: str(file.resolve()) for file in files}


@cache
def load(name: str, file: str | None = None) -> Dataset:
    """A bundled data set by its name, or the one in a file.

    Raises
    ------
    ValueError : arrays missing, of the wrong shape, or not finite.
    """
    if file is None:
        import sklearn.datasets

        X, y = getattr(sklearn.datasets, _LOADERS[name])(return_X_y=True)
    else:
        with np.load(file) as arrays:
            if "X" not in arrays or "y" not in arrays:
                raise ValueError(f"{file}: needs arrays X and y, has {', '.join(arrays.files) or 'none'}")
            X, y = arrays["X"], arrays["y"]
    X = np.asarray(X, np.float64)
    y = np.asarray(y)
    if X.ndim != 2 or y.shape != (len(X),) or len(X) < 40:
        raise ValueError(
            f"{file or name}: needs X (n, d) and y (n,) with n of at least 40, got {X.shape} and {y.shape}"
        )
    if not (np.isfinite(X).all() and np.isfinite(y.astype(float)).all()):
        raise ValueError(f"{file or name}: X and y must be finite; remove or impute those rows")
    kinds = np.unique(y)
    if name == "diabetes" or (not np.issubdtype(y.dtype, np.integer) and len(kinds) > 20):
        return Dataset(name, X, y.astype(np.float64), 0)
    return Dataset(name, X, np.searchsorted(kinds, y).astype(np.int64), len(kinds))


def split(data: Dataset, seed: int) -> Split:
    """Training, validation and test rows; few training rows on purpose: overfitting is what the claims are about."""
    n = len(data.X)
    order = np.random.default_rng([seed, 101]).permutation(n)
    n_train = min(_TRAIN.get(data.name, min(_AT_MOST, n // 3)), n // 2)
    n_validation = min(n_train if n_train > 100 else 2 * n_train, (n - n_train) // 2, 500)
    parts = np.split(
        order[: n_train + n_validation + min(n - n_train - n_validation, 800)], [n_train, n_train + n_validation]
    )
    center, scale = data.X[parts[0]].mean(axis=0), data.X[parts[0]].std(axis=0)
    X = (data.X - center) / np.where(scale > 0, scale, 1.0)
    # A column that hardly varies in the training rows must not explode in the others.
    rows = [(np.clip(X[part], -5, 5), data.y[part]) for part in parts]
    return Split(*rows)  # type: ignore[arg-type]
