"""Means over replicates and their errors, once for the whole library; NumPy arrays and tensors alike.

A replicate is the mean over one independent block of masks (or over one seed, one order, …). Blocks may have different
numbers of masks: `sizes` says how many, and each counts with its share. What others stand on:

- `mean_and_error(values, sizes)`: the weighted mean over the first axis and its standard error; one replicate: nan.
- `jackknife(means, sizes, function)`: a smooth function of means, its bias taken away, and its standard error.
- `student(level, n)`: how many standard errors Student's interval reaches either way; n replicates, n − 1 degrees.
- `block_means(values, block)`, `grouped_sizes(sizes)`: from masks to replicates, from many replicates to few.
- `RunningMean(n_masks, block)`: mean and error of a stream of masks, in memory that does not grow with it.

All errors are those of the delete-one-group jackknife (Quenouille 1956; Tukey 1958; unequal groups: Busing, Meijer &
van der Leeden 1999); of a mean x̄ = Σ m_j x_j / n over g groups of m_j masks that is

    1/g Σ_j m_j / (n − m_j) (x_j − x̄)²,

for equal groups the usual s²/g. It is valid for masks that are correlated within a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

__all__ = [
    "MAX_REPLICATES",
    "RunningMean",
    "alike",
    "block_means",
    "check_level",
    "from_left_out",
    "grouped_sizes",
    "half_width",
    "jackknife",
    "largest",
    "mean_and_error",
    "standard_error",
    "student",
]

ROUND_OFF = 64 * 2.0**-52
"""Relative spread of replicates that is round-off of their sums and no spread at all."""

MAX_REPLICATES = 64
"""Replicates that are kept apart where each is large (a function of many outputs)."""


def student(level: float, n: int) -> float:
    """Standard errors that an interval for a mean of n replicates reaches either way (Student's t, n − 1 degrees).

    Infinite for one replicate, which knows no error.

    >>> round(student(0.95, 10), 3), student(0.95, 1)
    (2.262, inf)

    Raises
    ------
    ValueError : a level outside (0, 1).
    """
    check_level(level)
    return float(stdtrit(n - 1, 0.5 + level / 2)) if n > 1 else math.inf


def check_level(level: float) -> None:
    """A coverage, or a ValueError that says what it must be."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def half_width(error: Any, level: float, n: int) -> Any:
    """Half of Student's interval for a mean of n replicates with this standard error; nan where that is unknown."""
    return error * student(level, n) if n > 1 else error * math.nan


def mean_and_error(values: Any, sizes: ArrayLike | None = None) -> tuple[Any, Any]:
    """Mean of replicates over the first axis, each counting with its size, and its standard error.

    Parameters
    ----------
    values : (g, …) array or tensor.
    sizes : (g,) masks in each; equal by default.

    >>> mean, error = mean_and_error(np.array([1.0, 2.0, 3.0]))
    >>> float(mean), round(float(error), 4)
    (2.0, 0.5774)
    >>> mean, error = mean_and_error(np.array([1.0, 4.0]), [2, 1])
    >>> float(mean), round(float(error), 4)
    (2.0, 1.4142)
    """
    if sizes is None or _alike(sizes):
        mean = values.mean(axis=0)
        return mean, standard_error(values, mean)
    share = _column(values, np.asarray(sizes, np.float64) / np.sum(sizes))
    mean = (share * values).sum(axis=0)
    deviation, size = _scaled(values - mean)
    return mean, size * ((deviation**2 * (share / (1.0 - share))).sum(axis=0) / len(values)) ** 0.5


def standard_error(values: Any, mean: Any = None) -> Any:
    """Standard error of the mean of independent, equally large replicates over the first axis; nan for one.

    >>> round(float(standard_error(np.array([1.0, 2.0, 3.0]))), 4)
    0.5774
    """
    g = len(values)
    if g < 2:
        return values.sum(axis=0) * math.nan
    deviation, size = _scaled(values - (values.mean(axis=0) if mean is None else mean))
    return size * ((deviation**2).sum(axis=0) / (g * (g - 1))) ** 0.5


def largest(values: Any) -> Any:
    """Largest absolute value over the first axis."""
    return np.abs(values).max(axis=0) if isinstance(values, np.ndarray) else values.abs().amax(dim=0)


def alike(values: Any) -> Any:
    """Whether replicates (g, …) agree to round-off: then they show no error, and prove nothing."""
    return largest(values - values[:1]) <= ROUND_OFF * largest(values)


def _larger(a: Any, b: Any) -> Any:
    return a + (b - a) * (b > a)


def _scaled(deviation: Any) -> tuple[Any, Any]:
    """Deviations in units of the largest: squares of 1e-200 or 1e200 have no float."""
    size = largest(deviation)
    return deviation / (size + (size == 0)), size


def block_means(values: Any, block: int) -> Any:
    """(g, …) means over consecutive blocks of the masks (K, …), the last block as short as it is."""
    whole = len(values) // block * block
    means = values[:whole].reshape(whole // block, block, *values.shape[1:]).mean(axis=1)
    if whole == len(values):
        return means
    rest = values[whole:].mean(axis=0)[None]
    return _stacked(means, rest)


class RunningMean:
    """Mean of values (K, …) that come some masks at a time, and its error, in constant memory.

    Parameters
    ----------
    n_masks, block : K, and the masks in every block but a shorter last one.
    """

    def __init__(self, n_masks: int, block: int) -> None:
        self._n, self._block, self._seen = n_masks, block, 0
        self._held: Any = None
        self._count, self._mean, self._squares, self._last = 0, 0.0, 0.0, None
        self._size: Any = None
        self._first: Any = None
        self._apart, self._largest = 0.0, 0.0

    def add(self, values: Any) -> Any:
        """Take the values (k, …) of the next k masks; the means of the blocks that these complete, or None."""
        self._seen += len(values)
        held = values if self._held is None else _stacked(self._held, values)
        ready = len(held) if self._seen >= self._n else len(held) // self._block * self._block
        self._held = held[ready:] if ready < len(held) else None
        if not ready:
            return None
        means = block_means(held[:ready], self._block)
        whole = ready // self._block
        if whole < len(means):
            self._last = means[-1]
        if self._first is None:
            self._first = means[0]
        self._apart = _larger(largest(means - self._first), self._apart)
        self._largest = _larger(largest(means), self._largest)
        if whole:
            self._take(means[:whole])
        return means

    def alike(self) -> Any:
        """As `alike` of the replicates."""
        return self._apart <= ROUND_OFF * self._largest

    def _take(self, means: Any) -> None:
        # Chan, Golub & LeVeque's update of mean and sum of squares by a group.
        new, own = self._count + len(means), means.mean(axis=0)
        if self._size is None:
            size = largest(means)
            self._size = size + (size == 0)  # squares of 1e-200 or 1e200 have no float
        delta = (own - self._mean) / self._size
        squares = (((means - own) / self._size) ** 2).sum(axis=0)
        self._squares = self._squares + squares + delta**2 * (self._count * len(means) / new)
        self._mean, self._count = self._mean + (own - self._mean) * (len(means) / new), new

    def mean_and_error(self) -> tuple[Any, Any]:
        """As `mean_and_error` of the replicates."""
        n, b, whole = self._n, self._block, self._count
        if self._last is None:
            if whole < 2:
                return self._mean, self._mean * math.nan
            return self._mean, self._size * (self._squares / (whole * (whole - 1))) ** 0.5
        if whole == 0:
            return self._last, self._last * math.nan
        rest = n - whole * b
        mean = (whole * b * self._mean + rest * self._last) / n
        squares = b / (n - b) * (self._squares + whole * ((self._mean - mean) / self._size) ** 2)
        squares = squares + rest / (n - rest) * ((self._last - mean) / self._size) ** 2
        return mean, self._size * (squares / (whole + 1)) ** 0.5


def grouped_sizes(sizes: ArrayLike, at_most: int = MAX_REPLICATES) -> NDArray[np.int64]:
    """Masks in each of at most so many replicates: consecutive blocks put together, as evenly as they go.

    >>> grouped_sizes([8] * 65).tolist()[:2], len(grouped_sizes([8] * 65)), grouped_sizes([2, 2, 1]).tolist()
    ([16, 8], 64, [2, 2, 1])
    """
    blocks = np.asarray(sizes, np.int64)
    groups = min(len(blocks), at_most)
    per = np.full(groups, len(blocks) // groups)
    per[: len(blocks) % groups] += 1
    return np.add.reduceat(blocks, np.concatenate([[0], np.cumsum(per)[:-1]]))


def jackknife(
    means: dict[str, Any], sizes: ArrayLike, function: Callable[[dict[str, Any]], Any]
) -> tuple[Any, Any, Any, Any]:
    """A smooth function of means over masks: its bias of order 1/n taken away, and its standard error.

    Parameters
    ----------
    means : (g, …) of each feature, by replicate.
    sizes : (g,) masks in each replicate.
    function : features, with any leading axes, to the quantity.

    Returns
    -------
    value, error, the plug-in value that the bias was taken from, and (g, …) each replicate's deviation, whose mean
    square is error². With one replicate the value is the plug-in's and the error nan.
    """
    parts = np.asarray(sizes, np.float64)
    if len(parts) < 2:
        plug_in = function({name: m[0] for name, m in means.items()})
        return plug_in, plug_in * math.nan, plug_in, plug_in[None] * math.nan
    share = {name: _column(m, parts / parts.sum()) for name, m in means.items()}
    whole = {name: (m * share[name]).sum(axis=0) for name, m in means.items()}
    without = {name: (whole[name] - m * share[name]) / (1.0 - share[name]) for name, m in means.items()}
    plug_in, left_out = function(whole), function(without)
    value, error, deviation = from_left_out(plug_in, left_out, parts)
    return value, error, plug_in, deviation


def from_left_out(plug_in: Any, left_out: Any, sizes: ArrayLike) -> tuple[Any, Any, Any]:
    """The jackknife of a function from its value and (g, …) its values with each replicate left out.

    Returns the value without its bias of order 1/n, its standard error, and (g, …) each replicate's deviation.
    """
    parts = np.asarray(sizes, np.float64)
    h = _column(left_out, parts.sum() / parts)
    pseudo = h * plug_in - (h - 1.0) * left_out
    value = (pseudo / h).sum(axis=0)
    deviation = (pseudo - value) / (h - 1.0) ** 0.5
    return value, (deviation**2).mean(axis=0) ** 0.5, deviation


def _alike(sizes: ArrayLike) -> bool:
    parts = np.asarray(sizes)
    return bool((parts == parts[0]).all())


def _column(like: Any, values: NDArray[np.float64]) -> Any:
    """One number for each entry of the first axis, as an array or tensor that multiplies `like`."""
    shaped = values.reshape(-1, *[1] * (like.ndim - 1))
    return shaped if isinstance(like, np.ndarray) else like.new_tensor(shaped)


def _stacked(first: Any, second: Any) -> Any:
    """One behind the other along the first axis."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    out = first.new_empty((len(first) + len(second), *first.shape[1:]))
    out[: len(first)], out[len(first) :] = first, second
    return out
