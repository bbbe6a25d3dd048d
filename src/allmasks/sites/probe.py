"""Which axis is the example's: poison one example's inputs with NaN and see where it arrives.

A tensor's axis belongs to the examples if poison in example e reaches only the indices i of that axis with
(i // inner) % n == e, for one `inner`; two examples are poisoned in turn. Integers cannot be NaN: what is looked
up with them (embeddings) is poisoned instead, and they themselves are changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["Axis", "Inputs", "find_axis", "poison_lookup"]


@dataclass(frozen=True)
class Axis:
    """The example axis of a tensor: index i along `dim` belongs to example (i // inner) % n. None: no example."""

    dim: int | None
    outer: int = 1
    inner: int = 1


@dataclass(frozen=True)
class Inputs:
    """A model's inputs with `n` examples along axis `dim` of every tensor that has them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dim: int
    n: int

    def has_examples(self, leaf: Any) -> bool:
        """Whether a leaf counts the examples along its axis."""
        return isinstance(leaf, Tensor) and leaf.ndim > self.dim and leaf.shape[self.dim] == self.n

    def _map(self, change: Any) -> Inputs:
        args, kwargs = tree_map(
            lambda leaf: change(leaf) if self.has_examples(leaf) else leaf, (self.args, self.kwargs)
        )
        return Inputs(args, kwargs, self.dim, self.n)

    def resized(self, n: int) -> Inputs:
        """The same with n examples, the given ones over and over."""
        rows = torch.arange(n) % self.n
        changed = self._map(lambda leaf: leaf.index_select(self.dim, rows.to(leaf.device)))
        return Inputs(changed.args, changed.kwargs, self.dim, n)

    def copied(self) -> Inputs:
        """Tensors of our own: a model may work in place."""
        args, kwargs = tree_map(
            lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (self.args, self.kwargs)
        )
        return Inputs(args, kwargs, self.dim, self.n)

    def poisoned(self, example: int, *, with_nan: bool) -> Inputs:
        """Example number `example` made NaN, or (integers, or where NaN is not borne) plainly different."""

        def change(leaf: Tensor) -> Tensor:
            leaf = leaf.detach().clone()
            row = leaf.select(self.dim, example)
            if leaf.is_floating_point() and with_nan:
                row.fill_(torch.nan)
            elif leaf.is_floating_point():
                row.mul_(-1.5).add_(1.0)
            else:
                other = leaf.select(self.dim, (example + 1) % self.n)
                row.copy_(other.clone().flip(tuple(range(other.ndim))))
            return leaf

        return self._map(change)

    def lookups(self, clean: Inputs) -> list[tuple[Tensor, Tensor]]:
        """Integer tensors beside what they were in the clean inputs: indices that embeddings may be asked for."""
        mine = [leaf for leaf in _leaves(self) if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
        theirs = [leaf for leaf in _leaves(clean) if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
        return list(zip(mine, theirs, strict=True))


def _leaves(inputs: Inputs) -> list[Any]:
    return torch.utils._pytree.tree_flatten((inputs.args, inputs.kwargs))[0]


def poison_lookup(inputs: Inputs, example: int) -> Any:
    """A watcher of torch functions that makes NaN what is looked up with the example's integers."""
    integers = [
        leaf
        for leaf in _leaves(inputs)
        if inputs.has_examples(leaf) and not leaf.is_floating_point() and not leaf.is_complex()
    ]

    def watch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        if func is not F.embedding and func is not torch.embedding:
            return result
        indices = kwargs.get("input", args[0])
        if func is torch.embedding:
            indices = kwargs.get("indices", args[1] if len(args) > 1 else None)
        for leaf in integers:
            for dim, view in ((inputs.dim, leaf), *(_moved(leaf, inputs.dim))):
                if view.shape == indices.shape and torch.equal(view, indices):
                    result = result.clone()
                    result.select(dim, example).fill_(torch.nan)
                    return result
        return result

    return watch


def _moved(leaf: Tensor, dim: int) -> list[tuple[int, Tensor]]:
    """The leaf with its example axis elsewhere, as sequence-first models have it."""
    if leaf.ndim != 2:
        return []
    return [(1 - dim, leaf.t())]


def find_axis(
    shape: Sequence[int],
    n: int,
    patterns: Sequence[tuple[int, Tensor]],
    *,
    prefer: int | None = None,
    merged: bool = True,
) -> Axis | str:
    """The example axis of a tensor of this shape, from where the poison of some examples arrived.

    Parameters
    ----------
    patterns : (example, boolean tensor of the shape: which elements were poisoned).
    prefer : the axis to take where several fit; the one the user named.
    merged : whether the axis may count something else as well.

    Returns
    -------
    The axis; or a few words on why there is none: every example reaches the tensor everywhere, or several axes fit.
    """
    seen = [(e, pattern) for e, pattern in patterns if bool(pattern.any())]
    if not seen:
        return Axis(None)
    fits: list[tuple[bool, Axis]] = []
    for dim, length in enumerate(shape):
        if length % n or (length != n and not merged):
            continue
        others = [d for d in range(len(shape)) if d != dim]
        reached = [(e, p.any(dim=others) if others else p) for e, p in seen]
        index = torch.arange(length, device=seen[0][1].device)
        for inner in range(1, length // n + 1):
            if (length // n) % inner:
                continue
            owner = (index // inner) % n
            if all(not bool((hit & (owner != e)).any()) for e, hit in reached):
                whole = all(bool(hit[owner == e].all()) for e, hit in reached)
                fits.append((whole, Axis(dim, length // n // inner, inner)))
    if not fits:
        return 'each of its elements depends on several examples; if that is meant, pass batch_dim="whole"'
    best = [axis for whole, axis in fits if whole] or [axis for _, axis in fits]
    if len(best) > 1 and prefer is not None:
        best = [axis for axis in best if axis.dim == prefer and axis.inner == axis.outer == 1] or best
    if len(best) > 1:
        return f"axes {', '.join(str(axis.dim) for axis in best)} all look like it"
    return best[0]
