"""A fitted linear model on inputs of which a share is lost: its error against that share, the rest rescaled or not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from allmasks.linear_model.centered import row_blocks
from allmasks.linear_model.partitions import refuse_lazy
from allmasks.results import Result, with_error

__all__ = ["DeletionCurve", "deletion_curve"]

Array = NDArray[np.float64]

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, repr=False)
class DeletionCurve(Result):
    """Error of predictions as entries of X are deleted; arrays are (shares,) unless said otherwise.

    Attributes
    ----------
    shares : probability with which each entry of X is set to 0, independently.
    metric : "error rate" (classifiers) or "mean squared error" (in the mean over outputs).
    value : mean over rows and over draws of what is deleted.
    masks_error : its standard error over draws, for the rows at hand; nan for one draw.
    data_error : what the choice of rows adds to it. error : both, for new rows and new draws.
    rescale : whether what is left was divided by 1 − share.
    n_draws, n_examples : draws of each share, and rows.
    per_example : (shares, n) the same by row, for paired comparisons; not in `to_dict`.
    """

    _left_out: ClassVar[tuple[str, ...]] = ("per_example",)

    shares: Array
    metric: str
    value: Array
    masks_error: Array
    data_error: Array
    error: Array
    rescale: bool
    n_draws: int
    n_examples: int
    per_example: Array

    def difference(self, other: DeletionCurve) -> tuple[Array, Array]:
        """value − other.value, and its standard error over rows and draws: paired, since both lost the same entries.

        Raises
        ------
        ValueError : curves of other shares, rows or numbers of draws.
        """
        same = self.n_draws == other.n_draws and self.metric == other.metric
        if not (same and np.array_equal(self.shares, other.shares) and self.n_examples == other.n_examples):
            raise ValueError("only curves of the same metric, shares, rows and seeds can be compared row by row")
        apart = self.per_example - other.per_example
        return apart.mean(axis=1), _standard_error(apart)

    def _title(self) -> str:
        how = "what is left divided by 1 − share" if self.rescale else "what is left as it is"
        return f"DeletionCurve: {self.metric}, {how}; {self.n_examples} rows, {self.n_draws} draws"

    def _rows(self) -> list[tuple[str, str]]:
        columns = zip(self.shares, self.value, self.error, strict=True)
        return [(f"{share:.4g}", with_error(float(value), float(error))) for share, value, error in columns]

    def __repr__(self) -> str:
        return "\n".join([self._title(), *(f"  {share:>6} deleted  {text}" for share, text in self._rows())])


def deletion_curve(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    shares: Sequence[float] = SHARES,
    rescale: bool = True,
    seeds: int | Sequence[int] = 5,
) -> DeletionCurve:
    """Error of a fitted model on X, y when each entry of X is lost (set to 0) with probability q.

    A model sees E x̃ = x only if what is left is divided by 1 − q, as dropout does while it trains. Without that, every
    score shrinks towards the intercept, and a model is worse by its scale alone, whatever it was trained with. So hold
    models against each other with the same `rescale`. Lost entries count as 0: center columns whose 0 means nothing.

    Parameters
    ----------
    model : fitted; an estimator of `linear_model`, of scikit-learn's linear models, or any other with `predict`.
    X : (n, d) dense, CSR or a dataframe. y : (n,) or (n, k) targets, or classes.
    shares : q's in [0, 1), rising.
    rescale : whether to divide what is left by 1 − q.
    seeds : number of draws of what is deleted, or their seeds. In one draw an entry lost at q is lost at all larger q;
        the draws depend on seeds and shape alone, so two models lose the same entries.

    Raises
    ------
    ValueError : shares out of order or range, no draw, NaN, or lengths that differ.
    TypeError : Dask collections.

    References
    ----------
    Globerson & Roweis 2006, "Nightmare at test time"; van der Maaten et al. 2013, "Learning with marginalized
    corrupted features".

    Examples
    --------
    >>> import numpy as np
    >>> from allmasks.linear_model import DropoutRidge, deletion_curve
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 10))
    >>> y = X.sum(axis=1) + rng.normal(size=200)
    >>> model = DropoutRidge(0.5).fit(X, y)
    >>> curve = deletion_curve(model, X, y, shares=[0.0, 0.5])
    >>> plain = deletion_curve(model, X, y, shares=[0.0, 0.5], rescale=False)
    >>> bool(curve.value[0] == plain.value[0]), bool(curve.value[1] < plain.value[1])
    (True, True)
    """
    refuse_lazy("deletion_curve", X, y)
    check_is_fitted(model)
    rates = np.asarray(shares, np.float64)
    if rates.ndim != 1 or not len(rates) or not (rates >= 0).all() or rates.max() >= 1 or (np.diff(rates) <= 0).any():
        raise ValueError(f"shares must be rising numbers in [0, 1), got {list(shares)}")
    draws = list(range(seeds)) if isinstance(seeds, int | np.integer) else [int(seed) for seed in seeds]
    if not draws:
        raise ValueError(f"seeds must be at least one draw, got {seeds!r}")
    dressed = _dresser(X)
    data = check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32])
    classify = bool(is_classifier(model))
    target = np.asarray(y) if classify else np.asarray(y, np.float64)
    check_consistent_length(data, target)
    by_draw = np.empty((len(draws), len(rates)))
    per_example = np.zeros((len(rates), data.shape[0]))
    for k, seed in enumerate(draws):
        for rows, x, u in _drawn(data, seed):
            for s, q in enumerate(rates):
                lost = _without(x, u, float(q), rescale)
                per_row = _losses(model.predict(dressed(lost, rows)), target[rows], classify)
                per_example[s, rows] += per_row / len(draws)
                by_draw[k, s] = (by_draw[k, s] if rows.start else 0.0) + per_row.sum() / data.shape[0]
    masks_error = np.full(len(rates), np.nan)
    if len(draws) > 1:
        masks_error = by_draw.std(axis=0, ddof=1) / math.sqrt(len(draws))
    # Rows are independent and lose their entries independently: their spread holds both.
    error = _standard_error(per_example)
    data_error = np.sqrt(np.maximum(error**2 - np.nan_to_num(masks_error) ** 2, 0.0))
    return DeletionCurve(
        shares=rates,
        metric="error rate" if classify else "mean squared error",
        value=per_example.mean(axis=1),
        masks_error=masks_error,
        data_error=data_error,
        error=error,
        rescale=bool(rescale),
        n_draws=len(draws),
        n_examples=int(data.shape[0]),
        per_example=per_example,
    )


def _dresser(X: Any) -> Callable[[Any, slice], Any]:
    """Turns rows of an array into what the model was fitted on: a dataframe, where X is one."""
    if not hasattr(X, "columns"):
        return lambda x, rows: x
    return lambda x, rows: type(X)(x, columns=X.columns, index=X.index[rows])


def _drawn(data: Any, seed: int) -> Iterator[tuple[slice, Any, Array]]:
    """Blocks of rows, and a number in [0, 1) for each entry, which is lost where that is below the share."""
    rng = np.random.default_rng([seed, 0xDE1E7E])
    if sparse.issparse(data):
        yield slice(0, data.shape[0]), data, rng.random(data.nnz)
        return
    for rows in row_blocks(data):
        yield rows, data[rows], rng.random(data[rows].shape)


def _without(x: Any, u: Array, q: float, rescale: bool) -> Any:
    kept = (u >= q) / (1.0 - q if rescale else 1.0)
    if sparse.issparse(x):
        return sparse.csr_matrix(((x.data * kept).astype(x.dtype), x.indices, x.indptr), x.shape)
    return (x * kept).astype(x.dtype)


def _losses(predicted: Any, target: Any, classify: bool) -> Array:
    """(rows,) loss of each."""
    if classify:
        wrong = np.asarray(predicted) != target
        return wrong.astype(np.float64) if wrong.ndim == 1 else wrong.any(axis=1).astype(np.float64)
    squared = np.square(np.asarray(predicted, np.float64).reshape(target.shape) - target)
    return squared if squared.ndim == 1 else squared.mean(axis=1)


def _standard_error(per_example: Array) -> Array:
    n = per_example.shape[1]
    return per_example.std(axis=1, ddof=1) / math.sqrt(n) if n > 1 else np.full(len(per_example), np.nan)
