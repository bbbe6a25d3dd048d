"""Inputs that are one draw each: graphs, contrastive batches, whatever has rows that depend on one another.

An input is passed to the model as a whole, under masks that cover all of it. What it gives are rows, one a node or a
graph; every row counts in the mean, and none has masks of its own. Inputs of a loader are keyed by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from allmasks.over_masks.data import Batch, Data, as_call, as_targets, as_tensors, split_item
from allmasks.over_masks.loaders import Reader, is_loader
from allmasks.results import Note
from allmasks.sites import WHOLE, BatchDim, call_with, holds_graphs, is_graph, one_graph

__all__ = ["Wholes", "graph_targets", "is_whole"]


def is_whole(x: Any, batch_dim: BatchDim) -> bool:
    """Whether the rows of an input are one joint draw: said so, or graphs.

    Raises
    ------
    ValueError : for another word, or for graphs with an axis of examples.
    """
    if isinstance(batch_dim, str) and batch_dim != WHOLE:
        raise ValueError(f'batch_dim must be an axis or "whole", got {batch_dim!r}')
    graphs = is_graph(one_graph(x)) or holds_graphs(x) or (is_loader(x) and _graphs_inside(x))
    if graphs and batch_dim not in (None, WHOLE):
        raise ValueError(
            f'a graph has no axis of examples, got batch_dim={batch_dim}; its nodes depend on one another: "whole"'
        )
    return graphs or batch_dim == WHOLE


def graph_targets(x: Any, y: Any) -> Any:
    """The targets given, or those that a graph carries as `y`."""
    graph = one_graph(x)
    return getattr(graph, "y", None) if y is None and is_graph(graph) else y


def _graphs_inside(loader: Any) -> bool:
    """Whether a loader is known to give graphs, of which nothing is read to find that out."""
    held = getattr(loader, "dataset", loader)
    if isinstance(held, list | tuple):
        return len(held) > 0 and is_graph(held[0])
    return any(kind.__module__.startswith("torch_geometric.") for one in (loader, held) for kind in type(one).__mro__)


class Wholes(Data):
    """Inputs of which each goes through the model at once, under joint masks; see `Data`.

    Parameters
    ----------
    x : as in `Data`; or a graph, a list of graphs, or a loader of either, with their targets in `y`.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        y: Any = None,
        *,
        batch_dim: BatchDim = WHOLE,
        batch_size: int | None = None,
        example_index: Any = None,
        device: torch.device | None = None,
        targets: bool = True,
    ) -> None:
        if example_index is not None:
            raise ValueError(
                "example_index keys the masks that each example has of its own, and here one mask is drawn for all rows"
                ' together (batch_dim="whole"); leave it out, and pass seed= for other masks'
            )
        if batch_size is not None:
            raise ValueError(
                "batch_size would cut an input into passes, and here the whole input is one draw of masks "
                '(batch_dim="whole"); leave it out, or pass a loader of smaller inputs'
            )
        self.model = model
        self.batch_dim = WHOLE
        self.batch_size = None
        self.device = device
        self.has_own_keys = False
        self.notes = (
            Note("Masks are drawn for the whole input at once: its rows share them and are not independent."),
        )
        self._targets_needed = targets
        self._reader = None
        self._sizes = []
        self._first_key = 0
        x = one_graph(x)
        if is_loader(x) and not is_graph(x):
            if y is not None:
                raise ValueError("a DataLoader carries its own targets: pass y=None")
            self._reader = Reader(x, self._split)
            self._reader.forget_places()
            self.notes += self._reader.notes
        else:
            self._x = self._inputs(x)
            self._y = as_targets(y)
        self.n_examples = 0
        self.example_index = np.zeros(0, np.int64)

    def _inputs(self, x: Any) -> Any:
        """What the model is called with, as a tuple or a dict."""
        if is_graph(x):
            args, kwargs = call_with(self.model, x)
            return args or kwargs
        holds_graphs(x)
        return as_tensors(dict(x) if isinstance(x, Mapping) else x)

    def _split(self, item: Any) -> tuple[Any, Any]:
        if is_graph(item):
            return self._inputs(item), getattr(item, "y", None)
        x, y = split_item(item, self._targets_needed)
        return self._inputs(x), y

    def count(self, rows_of: Callable[[Batch], int]) -> None:
        """Find out how many rows each input gives; before, there are batches but their rows are not known."""
        self._sizes = [rows_of(batch) for batch in self._batches()]
        self.n_examples = sum(self._sizes)
        if self.n_examples == 0:
            raise ValueError("the model gives no rows for these inputs; at least one is needed")

    @property
    def n_keys(self) -> int:
        return len(self._sizes)

    def number_from(self, start: int) -> None:
        """Key the inputs by their number from `start` on."""
        self._first_key = start
        self.example_index = np.repeat(np.arange(len(self._sizes), dtype=np.int64) + start, self._sizes)

    @property
    def largest_batch(self) -> int:
        return max(self._sizes, default=1)

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self._batches()):
            if number >= len(self._sizes):
                raise ValueError(f"the loader gave more than the {len(self._sizes)} inputs that it gave at first")
            yield batch

    def first(self, at_most: int) -> Batch:
        """The first input, which is never cut."""
        x, y = (self._x, self._y) if self._reader is None else self._reader.first()
        return self._whole(x, y, 0)

    def part(self, batch: Batch, at_most: int) -> Batch:
        """The batch as it is."""
        return batch

    def _batches(self) -> Iterator[Batch]:
        pairs = iter([(self._x, self._y)]) if self._reader is None else iter(self._reader)
        for number, (x, y) in enumerate(pairs):
            yield self._whole(x, y, number)

    def _whole(self, x: Any, y: Any, number: int) -> Batch:
        x, y = tree_map(self._to_device, x), tree_map(self._to_device, y)
        for leaf in tree_leaves(x):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and bool(torch.isnan(_numbers(leaf)).any()):
                raise ValueError("the inputs contain NaN; remove or impute those rows")
        args, kwargs = as_call(x)
        rows = self._sizes[number] if number < len(self._sizes) else 1
        keys = np.full(rows, number + self._first_key, np.int64)
        shapes = tuple(tuple(leaf.shape) for leaf in tree_leaves(x) if isinstance(leaf, Tensor))
        # How many bits a site needs may hang on the edges themselves (self-loops), and not on how many there are.
        return Batch(args, kwargs, y, sum(self._sizes[:number]), keys, ((number,), *shapes))


def _numbers(leaf: Tensor) -> Tensor:
    """The numbers that a tensor holds, those of a sparse one too."""
    if leaf.layout is torch.strided:
        return leaf
    return leaf.detach().coalesce().values() if leaf.layout is torch.sparse_coo else leaf.detach().values()
