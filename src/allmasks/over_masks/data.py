"""The data a model is evaluated on, as batches with stable example numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.data.distributed import DistributedSampler

from allmasks.over_masks.loaders import Reader, is_loader
from allmasks.sites import is_graph

__all__ = ["Batch", "Data", "as_call", "as_targets", "as_tensors", "split_item", "targets_name"]

DEFAULT_BATCH_SIZE = 256


@dataclass(frozen=True)
class Batch:
    """Some examples: what the model is called with, targets, their places in the data set and their keys."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    start: int
    examples: np.ndarray
    form: tuple[tuple[int, ...], ...] = ()
    """Shapes of one example's inputs: batches that are padded to another length each have another."""

    def __len__(self) -> int:
        return len(self.examples)


class Data:
    """Inputs and targets, or a data loader, that can be gone through any number of times in the same order.

    Parameters
    ----------
    x : a tensor or array, a tuple of positional inputs, a mapping of keyword inputs, or a DataLoader (or another
        iterable of batches) that yields (inputs, targets) pairs, or mappings with the targets under
        "labels" or "label".
    y : targets, example axis first; None for a DataLoader.
    batch_dim : axis of the examples in every input; 0 by default.
    batch_size : examples in one forward pass.
    example_index : (n,) integers that key each example's masks; default: the position, in a loader's data set if it has
        one.

    Attributes
    ----------
    uncut : whether a few examples are not to be had, because the model takes whole batches only.
    targets : whether a loader must yield targets; if not, it may yield inputs alone.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_dim: int | None = None,
        batch_size: int | None = None,
        example_index: Any = None,
        device: torch.device | None = None,
        targets: bool = True,
    ) -> None:
        if batch_size is not None and (int(batch_size) != batch_size or batch_size < 1):
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size}")
        self.batch_dim: Any = 0 if batch_dim is None else int(batch_dim)
        self.batch_size = batch_size
        self.device = device
        self._targets_needed = targets
        self.uncut = False
        self.notes: tuple[str, ...] = ()
        self._reader: Reader | None = None
        self._sizes: list[int] = []
        if is_loader(x):
            if y is not None:
                raise ValueError("a DataLoader carries its own targets: pass y=None")
            self._read(x)
        else:
            self._x = tree_map(_tensor, dict(x) if isinstance(x, Mapping) else x)
            self._y = as_targets(y)
            self.n_examples = self._check_lengths()
        shared_out = isinstance(getattr(x, "sampler", None), DistributedSampler)
        self.has_own_keys = example_index is not None or shared_out
        self.example_index = self._keys(example_index)

    def number_from(self, start: int) -> None:
        """Key the examples by their positions from `start` on, unless they were given keys of their own."""
        if not self.has_own_keys:
            self.example_index = self.example_index + start

    @property
    def n_keys(self) -> int:
        """How many keys its examples have, of those that are positions in the data."""
        return self.n_examples

    @property
    def given(self) -> Any:
        """The inputs as they were given, or None where a loader makes them."""
        return None if self._reader is not None else self._x

    @property
    def largest_batch(self) -> int:
        """Most examples in one pass."""
        if self.batch_size is not None:
            return self.batch_size
        return max(self._sizes, default=DEFAULT_BATCH_SIZE)

    def _read(self, loader: Any) -> None:
        """Find out how many examples the loader gives, and what each is known by."""
        self._reader = reader = Reader(loader, lambda item: split_item(item, self._targets_needed))
        first = self._checked(*reader.first())
        if reader.sizes is not None and first != reader.sizes[0]:
            reader.forget_places()  # collate_fn makes other examples of them
        self._sizes = reader.sizes or [self._checked(x, y) for x, y in reader]
        self.notes = reader.notes
        self.n_examples = sum(self._sizes)

    def _checked(self, x: Any, y: Any) -> int:
        """Examples in a batch of a loader, which its targets must agree with."""
        n = self._length(x)
        lengths = {len(leaf) if leaf.ndim else None for leaf in tree_flatten(y)[0] if isinstance(leaf, Tensor)}
        if lengths - {n}:
            raise ValueError(
                f"a batch of the data loader has {n} inputs along axis {self.batch_dim} and "
                f"{', '.join('a single' if m is None else str(m) for m in lengths)} targets; with batch_size=None a "
                "DataLoader passes on what its data set gives, which must then be whole batches"
            )
        return n

    def _check_lengths(self) -> int:
        leaves = [leaf for leaf in tree_flatten(self._x)[0] if isinstance(leaf, Tensor) and leaf.ndim]
        if not leaves:
            raise ValueError("x holds no tensor with an example axis; pass a tensor, a tuple or a dict of tensors")
        y_leaves = [leaf for leaf in tree_flatten(self._y)[0] if isinstance(leaf, Tensor) and leaf.ndim]
        for leaf in leaves:
            if not -leaf.ndim <= self.batch_dim < leaf.ndim:
                raise ValueError(f"batch_dim={self.batch_dim} does not exist in an input of shape {tuple(leaf.shape)}")
        n = len(y_leaves[0]) if y_leaves else leaves[0].shape[self.batch_dim]
        if n == 0:
            raise ValueError("x holds no examples; at least one is needed")
        lengths = {leaf.shape[self.batch_dim] for leaf in leaves}
        # An input without the example axis (a position table, say) is passed whole, but one must have it.
        if n not in lengths:
            raise ValueError(
                f"x has {', '.join(map(str, sorted(lengths)))} examples along axis {self.batch_dim} but y has {n}; "
                'pass batch_dim= if the examples lie along another axis, or batch_dim="whole" if they depend on one '
                "another (pooled graphs, say)"
            )
        if len(lengths) > 1:
            raise ValueError(
                f"the inputs disagree on the number of examples along axis {self.batch_dim}: "
                f"{', '.join(map(str, sorted(lengths)))}; if they are no examples but one whole, such as the nodes and "
                'edges of a graph, pass batch_dim="whole"'
            )
        for leaf in y_leaves:
            if len(leaf) != n:
                raise ValueError(f"the targets disagree on the number of examples: {n} and {len(leaf)}")
        return n

    def _keys(self, example_index: Any) -> np.ndarray:
        if example_index is None and self._reader is not None and self._reader.index is not None:
            return self._reader.index
        if example_index is None:
            return np.arange(self.n_examples, dtype=np.int64)
        keys = np.asarray(example_index.cpu() if isinstance(example_index, Tensor) else example_index)
        if keys.shape != (self.n_examples,) or not np.issubdtype(keys.dtype, np.integer):
            raise ValueError(
                f"example_index must be {self.n_examples} integers, one for each example, got {keys.dtype} of shape "
                f"{keys.shape}"
            )
        if keys.min() < 0 or keys.max() >= 2**32:
            raise ValueError(f"example_index must lie in 0 … 2**32 - 1, got {keys.min()} … {keys.max()}")
        return keys.astype(np.int64)

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for number, (x, y) in enumerate(self._whole_batches()):
            n = self._length(x)
            if self._reader is not None and n != self._sizes[number]:
                raise ValueError(
                    f"batch {number} of the data loader holds {n} examples where its sampler names "
                    f"{self._sizes[number]}; collate_fn must neither drop nor add any"
                )
            step = n if self.batch_size is None else self.batch_size
            for lo in range(0, n, step):
                hi = min(lo + step, n)
                part = (x, y) if (lo, hi) == (0, n) else (self._slice(x, lo, hi), _rows(y, lo, hi))
                yield self._batch(*part, start + lo, hi - lo)
            start += n

    def first(self, at_most: int) -> Batch:
        """The first few examples, for looking at the model."""
        x, y = next(iter(self._whole_batches())) if self._reader is None else self._reader.first()
        whole = min(self._length(x), self.largest_batch)
        n = whole if self.uncut else min(whole, at_most)
        return self._batch(self._slice(x, 0, n), _rows(y, 0, n), 0, n)

    def _whole_batches(self) -> Iterator[tuple[Any, Any]]:
        if self._reader is None:
            step = self.batch_size or DEFAULT_BATCH_SIZE
            for lo in range(0, self.n_examples, step):
                hi = min(lo + step, self.n_examples)
                yield self._slice(self._x, lo, hi), _rows(self._y, lo, hi)
            return
        yield from self._reader

    def _slice(self, x: Any, lo: int, hi: int) -> Any:
        return tree_map(
            lambda leaf: leaf.narrow(self.batch_dim, lo, hi - lo) if isinstance(leaf, Tensor) and leaf.ndim else leaf,
            x,
        )

    def _length(self, x: Any) -> int:
        leaves = [leaf for leaf in tree_flatten(x)[0] if isinstance(leaf, Tensor) and leaf.ndim]
        if not leaves:
            raise ValueError("a batch of the data loader holds no tensor with an example axis")
        return int(leaves[0].shape[self.batch_dim])

    def _batch(self, x: Any, y: Any, start: int, n: int) -> Batch:
        x = tree_map(self._to_device, x)
        y = tree_map(self._to_device, y)
        for leaf in tree_flatten(x)[0]:
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(leaf).any()):
                raise ValueError(
                    f"the inputs contain NaN (examples {start} … {start + n - 1}); remove or impute those examples"
                )
        args, kwargs = as_call(x)
        return Batch(args, kwargs, y, start, self.example_index[start : start + n], self._form(x))

    def _form(self, x: Any) -> tuple[tuple[int, ...], ...]:
        shapes = [list(leaf.shape) for leaf in tree_flatten(x)[0] if isinstance(leaf, Tensor) and leaf.ndim]
        for shape in shapes:
            shape.pop(self.batch_dim)
        return tuple(map(tuple, shapes))

    def part(self, batch: Batch, at_most: int) -> Batch:
        """The first few examples of a batch."""
        n = len(batch) if self.uncut else min(len(batch), at_most)
        args, kwargs = self._slice((batch.args, batch.kwargs), 0, n)
        return replace(batch, args=args, kwargs=kwargs, target=_rows(batch.target, 0, n), examples=batch.examples[:n])

    def _to_device(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and self.device is not None:
            return leaf.to(self.device)
        return leaf


def as_call(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of what was given as a mapping, a sequence or one thing."""
    if isinstance(x, Mapping):
        return (), dict(x)
    if isinstance(x, Sequence) and not isinstance(x, str | bytes):
        return tuple(x), {}
    return (x,), {}


def targets_name(inputs: Mapping[str, Any]) -> str | None:
    """Where a mapping that holds its targets has them: "labels", as models take them, else "label", as data sets do."""
    return next((name for name in ("labels", "label") if name in inputs), None)


def split_item(item: Any, needed: bool) -> tuple[Any, Any]:
    """Inputs and targets of what a loader gives; no targets where none are needed and none are there."""
    if not needed and isinstance(item, Tensor):
        return item, None
    if not needed and isinstance(item, Sequence) and len(item) == 1:
        return tree_map(_tensor, item[0]), None
    if isinstance(item, Mapping):
        if not needed and "labels" not in item:
            return tree_map(_tensor, dict(item)), None
        name = targets_name(item)
        if name is None:
            raise ValueError(
                f'a data loader that yields mappings must have the targets under "labels" or "label", got '
                f"{sorted(item)}"
            )
        return {k: v for k, v in item.items() if k != name}, item[name]
    if isinstance(item, Sequence) and len(item) >= 2:
        x, y = (item[0], item[1]) if len(item) == 2 else (tuple(item[:-1]), item[-1])
        return tree_map(_tensor, x), tree_map(_tensor, y)
    whole = 'graphs: pass batch_dim="whole"' if is_graph(item) else type(item).__name__
    raise ValueError(f"a data loader must yield (inputs, targets) pairs or mappings, got {whole}")


def as_tensors(x: Any) -> Any:
    """The same, arrays as tensors."""
    return tree_map(_tensor, x)


def _tensor(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(leaf)
    return leaf


def as_targets(y: Any) -> Any:
    """Targets as tensors; a plain list of numbers is one tensor, as people write it."""
    if isinstance(y, list | tuple) and y and all(isinstance(v, int | float | list) for v in y):
        return torch.as_tensor(y)
    return tree_map(_tensor, y)


def _rows(y: Any, lo: int, hi: int) -> Any:
    return tree_map(lambda leaf: leaf[lo:hi] if isinstance(leaf, Tensor) and leaf.ndim else leaf, y)
