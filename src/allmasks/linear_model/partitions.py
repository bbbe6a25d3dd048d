"""Dask arrays and dataframes as partitions of rows: read where they lie, mapped, and their results added up in a tree.

Nothing here imports Dask until it is handed something of Dask's. The rows are never gathered: what leaves a worker is
the sum of a function's results over partitions. The tree has one shape for one number of partitions, so neither the
number of workers nor a worker that is lost on the way changes what is added to what. A checksum of each partition comes
back with the sum: one that holds other numbers at the next pass (random chunks without a seed) is no data set to fit.
"""

from __future__ import annotations

import copy
import functools
import itertools
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

__all__ = ["Part", "Partitions", "chunkwise", "is_lazy", "refuse_lazy"]

_FAN_IN = 8
"""Results that are added in one task."""

_FLOATS = [np.float64, np.float32]


def is_lazy(*data: Any) -> bool:
    """Whether any of these is a Dask collection.

    >>> is_lazy(np.ones(3), None)
    False
    """
    dask = sys.modules.get("dask")
    return dask is not None and any(dask.is_dask_collection(one) for one in data)


def refuse_lazy(what: str, *data: Any) -> None:
    """TypeError where data that may be larger than memory would have to be gathered."""
    if is_lazy(*data):
        raise TypeError(
            f"{what} takes data in memory, got a Dask collection. Fit single pairs of p and alpha with DropoutRidge, "
            "DropoutLogisticRegression or DropoutPoissonRegressor, which take it as it is, or search on a sample: "
            "X.blocks[0].compute()"
        )


@dataclass(frozen=True)
class Part:
    """Rows of one partition. y is None for rows without a label."""

    X: Any
    y: Any
    weight: NDArray[np.float64]

    def used(self) -> Part | None:
        """The rows of positive weight; None where there are none."""
        used = self.weight > 0
        if used.all():
            return self
        return Part(self.X[used], self.y[used], self.weight[used]) if used.any() else None


@dataclass(frozen=True)
class Partitions:
    """Rows with targets and weights, partition by partition.

    pieces : (X, y, weight) of each partition, delayed. dtype : float64 or float32, as scikit-learn would read X.
    """

    pieces: tuple[tuple[Any, Any, Any], ...]
    n_features: int
    dtype: Any
    y_ndim: int = 1
    y_dtype: Any = None
    checked: bool = field(default=False)
    seen: dict[int, int] = field(default_factory=dict, compare=False)
    """Checksum of each partition, from the first pass on."""

    @classmethod
    def of(
        cls, estimator: Any, X: Any, y: Any, sample_weight: Any = None, *, reset: bool = True, labeled: bool = True
    ) -> Partitions:
        """The partitions of X, and of y and sample_weight along them; the estimator learns its feature names.

        Raises
        ------
        ValueError, TypeError : X in memory beside a lazy y; chunks split along features; targets that cannot be
            matched with X partition by partition.
        """
        if not is_lazy(X):
            raise TypeError(
                f"y or sample_weight is a Dask collection but X is {type(X).__name__} in memory: give all of Dask, "
                "or compute() them"
            )
        stand_in = _stand_in(X)
        dtype = validate_data(estimator, stand_in, dtype=_FLOATS, reset=reset).dtype
        rows, sizes = _blocks("X", X)
        targets = _along("y", y, rows, sizes) if labeled else [None] * len(rows)
        weights = [None] * len(rows) if sample_weight is None else _along("sample_weight", sample_weight, rows, sizes)
        y_ndim = int(getattr(y, "ndim", 1)) if labeled else 1
        y_dtype = _numpy_dtype(getattr(y, "dtype", None))
        return cls(tuple(zip(rows, targets, weights, strict=True)), stand_in.shape[1], dtype, y_ndim, y_dtype)

    def and_unlabeled(self, estimator: Any, X: Any) -> Partitions:
        """The same, followed by rows that have no targets, each of weight 1."""
        if not is_lazy(X):
            raise TypeError(
                f"X is a Dask collection but X_unlabeled is {type(X).__name__} in memory: give both of Dask, for "
                "example dask.array.from_array(X_unlabeled)"
            )
        more = Partitions.of(estimator, X, None, reset=False, labeled=False)
        return replace(self, pieces=self.pieces + more.pieces)

    def known(self) -> Partitions:
        """The same, of which one pass has seen that every number is finite."""
        return replace(self, checked=True)

    def sum(self, work: Callable[..., Any], *shared: Any) -> Any:
        """Σ over partitions of work(part, *shared); None where every one of them is None or has no rows.

        work : a function of this library (workers import it) that returns something with +, or a tuple of such.

        Raises
        ------
        ValueError : a partition that holds other numbers than at an earlier pass, or what `work` cannot take.
        """
        import dask

        task, add = dask.delayed(_work, pure=False), dask.delayed(_add, pure=False)
        # Sent once for all partitions.
        arguments = dask.delayed(tuple(shared), traverse=False)
        level = [
            task(work, arguments, number, *piece, self.dtype, not self.checked)
            for number, piece in enumerate(self.pieces)
        ]
        while len(level) > 1:
            level = [add(level[lo : lo + _FAN_IN]) for lo in range(0, len(level), _FAN_IN)]
        total, sums = level[0].compute()
        for number, checksum in sums.items():
            if self.seen.setdefault(number, checksum) != checksum:
                raise ValueError(
                    f"partition {number} held other numbers than when it was read before: the Dask collection makes "
                    "its chunks anew at each pass, so every step of the fit would see other data. Seed what draws "
                    "them (dask.array.random.default_rng(0) does), or keep them: X, y = dask.persist(X, y)"
                )
        return total


def _work(
    work: Callable[..., Any], shared: tuple[Any, ...], number: int, X: Any, y: Any, weight: Any, dtype: Any, check: bool
) -> tuple[Any, dict[int, int]]:
    # Dask's own threads share out the partitions, so each takes one for itself.
    from allmasks.scores.threads import one_thread

    try:
        part = _read(X, y, weight, dtype, check)
        if part is None:
            return None, {number: 0}
        with one_thread():
            return work(part, *shared), {number: _checksum(part)}
    except ValueError as problem:
        raise ValueError(f"partition {number}: {problem}") from None


def _checksum(part: Part) -> int:
    """A number that differs, but by chance, where any entry or its place does: work of one read over the rows."""
    X = part.X
    arrays = [X] if isinstance(X, np.ndarray) else [X.data, X.indices, X.indptr]
    total = part.X.shape[0]
    for values in (*arrays, part.y, part.weight):
        plain = np.ascontiguousarray(values)
        raw: Any = repr(plain.tolist()).encode() if plain.dtype == object else plain.reshape(-1).view(np.uint8)
        total = zlib.crc32(raw, total)
    return total


def _add(results: list[tuple[Any, dict[int, int]]]) -> tuple[Any, dict[int, int]]:
    total: Any = None
    sums: dict[int, int] = {}
    for one, of_one in results:
        sums |= of_one
        if one is None:
            continue
        if total is None:
            total = one
        elif isinstance(one, tuple):
            total = tuple(a + b for a, b in zip(total, one, strict=True))
        else:
            total = total + one
    return total, sums


def _read(X: Any, y: Any, weight: Any, dtype: Any, check: bool) -> Part | None:
    X = X.to_numpy() if hasattr(X, "to_numpy") else X
    y, weight = _plain("y", y), _plain("sample_weight", weight)
    n = X.shape[0]
    for name, values in (("y", y), ("sample_weight", weight)):
        if values is not None and len(values) != n:
            raise ValueError(
                f"X has {n} rows but {name} has {len(values)}; X, y and sample_weight must be partitioned alike"
            )
    if n == 0:
        return None
    X = check_array(X, accept_sparse="csr", dtype=dtype, order="C", ensure_all_finite=check, input_name="X")
    if weight is None:
        return Part(X, y, np.ones(n))
    weight = check_array(weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight must be (n,), got shape {weight.shape}")
    if (weight < 0).any():
        raise ValueError(f"sample_weight must be 0 or more, got {weight.min():g}")
    return Part(X, y, weight)


def _numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    """NumPy's kin of a dtype of pandas (nullable, Arrow), which has no missing values; None where there is none."""
    own = getattr(dtype, "numpy_dtype", dtype)
    return own if isinstance(own, np.dtype) else None


def _plain(name: str, values: Any) -> Any:
    """A series or frame as an array, nullable ones too.

    Raises
    ------
    ValueError : missing values in a nullable one (NaN in others is found later).
    """
    if not hasattr(values, "to_numpy"):
        return values
    dtypes = [values.dtype] if values.ndim == 1 else list(values.dtypes)
    if all(isinstance(dtype, np.dtype) for dtype in dtypes):
        return values.to_numpy()
    if np.asarray(values.isna()).any():
        raise ValueError(f"{name} has missing values: drop those rows or fill them")
    kinds = {_numpy_dtype(dtype) for dtype in dtypes}
    numbers = None not in kinds and all(kind.kind in "biuf" for kind in kinds if kind is not None)
    return values.to_numpy(dtype=np.result_type(*kinds)) if numbers else np.asarray(values)


def _is_frame(data: Any) -> bool:
    """A dataframe or series: partitions of rows whose sizes Dask does not know."""
    return hasattr(type(data), "map_partitions") and hasattr(type(data), "divisions")


def _blocks(name: str, data: Any) -> tuple[list[Any], tuple[float, ...]]:
    """Delayed blocks of rows, and how many rows each has (nan where Dask does not know)."""
    if _is_frame(data):
        return data.to_delayed(), (np.nan,) * data.npartitions
    if not hasattr(type(data), "numblocks"):
        raise TypeError(f"{name} must be a Dask array or dataframe, got {type(data).__module__}.{type(data).__name__}")
    _one_block_of_columns(name, data)
    return data.to_delayed().ravel().tolist(), data.chunks[0]


def _one_block_of_columns(name: str, data: Any) -> None:
    if data.ndim > 1 and data.numblocks[1] > 1:
        raise ValueError(
            f"{name} has its columns split into {data.numblocks[1]} chunks, and a row must lie in one: "
            f"rechunk with {name}.rechunk({{1: -1}})"
        )


def _along(name: str, data: Any, rows: list[Any], sizes: tuple[float, ...]) -> list[Any]:
    """Blocks of y or sample_weight that match those of X."""
    known = not np.isnan(sizes).any()
    if data is None:
        raise ValueError(f"{name} is None: it must have one entry for each row of X")
    if not is_lazy(data):
        data = np.asarray(data)
        if not known:
            raise ValueError(
                f"the sizes of X's {len(rows)} partitions are unknown, so {name} in memory cannot be split along them: "
                "call X.compute_chunk_sizes() (an array) or X.to_dask_array(lengths=True) (a dataframe), or give "
                f"{name} as a Dask collection with the same partitions"
            )
        _same_length(name, data.shape[0], sizes)
        import dask

        cuts = np.cumsum([0, *sizes]).astype(int)
        return [dask.delayed(data[lo:hi], traverse=False) for lo, hi in itertools.pairwise(cuts)]
    blocks, own = _blocks(name, data)
    if known and not np.isnan(own).any():
        _same_length(name, int(sum(own)), sizes)
        return blocks if own == sizes else _blocks(name, data.rechunk({0: sizes}))[0]
    if len(blocks) != len(rows):
        raise ValueError(
            f"X has {len(rows)} partitions and {name} {len(blocks)}, and their sizes are unknown, so rows cannot be "
            "matched: call compute_chunk_sizes() on the arrays (to_dask_array(lengths=True) on a dataframe), or "
            "partition both alike"
        )
    # Whether the sizes agree is seen where they are read.
    return blocks


def _same_length(name: str, n: int, sizes: tuple[float, ...]) -> None:
    if n != sum(sizes):
        raise ValueError(f"X has {int(sum(sizes))} rows but {name} has {n}")


def _stand_in(X: Any) -> Any:
    """One row of zeros with X's columns and dtypes, for what can be checked without data."""
    if _is_frame(X):
        if X.ndim != 2:
            raise ValueError("X must be a dataframe or a 2-D array, got a series: use X.to_frame()")
        odd = [str(column) for column, dtype in X.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
        if odd:
            raise ValueError(f"the columns {', '.join(odd)} of X are not numbers: encode or drop them")
        return X._meta.reindex([0], fill_value=0).astype(X._meta.dtypes)
    if not hasattr(type(X), "numblocks"):
        raise TypeError(f"X must be a Dask array or dataframe, got {type(X).__module__}.{type(X).__name__}")
    if X.ndim != 2 or np.isnan(X.shape[1]):
        raise ValueError(f"X must be 2-D with a known number of features, got a Dask array of shape {X.shape}")
    return np.zeros((1, int(X.shape[1])), X.dtype)


def chunkwise(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of rows X that, given a Dask collection, returns a Dask array and works chunk by chunk when computed."""

    @functools.wraps(method)
    def lazily(self: Any, X: Any, *args: Any, **keywords: Any) -> Any:
        if not is_lazy(X):
            return method(self, X, *args, **keywords)
        check_is_fitted(self)
        sample = method(self, _stand_in(X), *args, **keywords)
        # What is fitted now predicts, whatever becomes of the estimator before the result is computed.
        call = functools.partial(_rows_of, copy.copy(self), method.__name__, sample[:0], args, keywords)
        if _is_frame(X):
            return X.map_partitions(call, meta=sample[:0])
        _one_block_of_columns("X", X)
        if sample.ndim == 1:
            return X.map_blocks(call, drop_axis=1, meta=sample[:0], dtype=sample.dtype)
        return X.map_blocks(call, chunks=(X.chunks[0], (sample.shape[1],)), meta=sample[:0], dtype=sample.dtype)

    return lazily


def _rows_of(
    model: Any, name: str, empty: NDArray[Any], args: tuple[Any, ...], keywords: dict[str, Any], X: Any
) -> NDArray[Any]:
    if X.shape[0] == 0:
        return empty
    from allmasks.scores.threads import one_thread

    with one_thread():
        return np.asarray(getattr(model, name)(X, *args, **keywords))
