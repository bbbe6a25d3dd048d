"""Reading a loader: the same batches at every reading, opened once for each pass that needs them.

The loader decides which examples there are, and how often. What its sampler draws is drawn once; batches that come to
at most `KEPT_BYTES` are kept in memory, so that nothing is read twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from allmasks.results import Note
from allmasks.sites.settings import generator_states, set_generator_states

__all__ = ["KEPT_BYTES", "Reader", "drawn_batches", "is_loader", "undisturbed"]

KEPT_BYTES = 2**28
"""Batches of a loader are kept in memory up to this, and read again for each pass beyond it."""

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler)
"""Samplers whose order says nothing: their examples are taken in the data set's own order."""

_ENDLESS = 100
"""A sampler without a length that goes on for more than this many times the data set is taken to have no end."""


def is_loader(data: Any) -> bool:
    """Whether the data come in batches that carry their own targets: a DataLoader, or another iterable of batches."""
    if isinstance(data, DataLoader):
        return True
    held = isinstance(data, Tensor | np.ndarray | Mapping | Sequence) or hasattr(data, "__array__")
    return not held and isinstance(data, Iterable)


class Reader:
    """Batches of a loader as (inputs, targets), the same ones in the same order at every reading.

    Random numbers that loader and data set draw from the global generators are the same at every reading too, and leave
    those generators as they were.

    Parameters
    ----------
    split : item of the loader -> (inputs, targets).

    Attributes
    ----------
    sizes : examples in each batch, or None where only reading tells.
    index : place in its data set of each example, or None where the loader does not say.
    notes : what a reader should know of the choice of examples.
    """

    def __init__(self, loader: Any, split: Callable[[Any], tuple[Any, Any]]) -> None:
        if isinstance(loader, Iterator):
            raise TypeError(
                f"{type(loader).__name__} is an iterator, which can be read once, and the data are gone through "
                "several times; pass the DataLoader that it is made from, or tensors"
            )
        self._split = split
        self.notes: tuple[str, ...] = ()
        self.sizes: list[int] | None = None
        self.index: np.ndarray | None = None
        self._own = _own_generators(loader)
        with undisturbed(loader):
            self._source = self._settled(loader)
            self._start = _states(self._own)
        self._open: tuple[list[Any], Iterator[Any]] | None = None
        self._first: Any = None
        self._kept: list[Any] | None = None
        self._marks: list[Any] | None = None

    def _settled(self, loader: Any) -> Any:
        """What is iterated over: with what the sampler draws drawn once, where there is a sampler to ask."""
        if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
            return loader
        if isinstance(loader.dataset, IterableDataset):
            return loader
        if loader.batch_sampler is None:
            return _again(loader, batch_size=None, sampler=_listed(loader.sampler, loader))
        batches, shuffled = drawn_batches(loader)
        self.sizes = [len(batch) for batch in batches]
        places = list(itertools.chain.from_iterable(batches))
        if all(isinstance(place, int | np.integer) and 0 <= place < 2**32 for place in places):
            self.index = np.array(places, dtype=np.int64)
        self.notes = _choice(places, loader, shuffled)
        return _again(loader, batch_sampler=batches)

    def forget_places(self) -> None:
        """The sampler's numbers say nothing of the examples: batches are taken as they come."""
        self.sizes = self.index = None

    def first(self) -> Any:
        """The first batch; the reading that follows goes on from it."""
        if self._first is None:
            iterator = self._opened()
            self._first = next(iterator, None)
            if self._first is None:
                raise ValueError("the data loader has no examples; at least one is needed")
            self._open = [self._first], iterator
        return self._first

    def __iter__(self) -> Iterator[Any]:
        if self._kept is not None:
            yield from self._kept
            return
        (ahead, iterator), self._open = self._open or ([], self._opened()), None
        kept: list[Any] | None = [] if self._marks is None else None
        marks: list[Any] = []
        size = 0
        for number, batch in enumerate(itertools.chain(ahead, iterator)):
            marks.append(_mark(batch))
            if self._marks is not None and (number >= len(self._marks) or marks[-1] != self._marks[number]):
                raise _changed(number)
            size += _bytes(batch)
            kept = kept if size <= KEPT_BYTES else None
            if kept is not None:
                kept.append(batch)
            yield batch
        if self._marks is not None and len(marks) < len(self._marks):
            raise _changed(len(marks))
        self._marks, self._kept = marks, kept

    def _opened(self) -> Iterator[Any]:
        """The batches from the start, drawn with the generators as they were at the first reading."""
        iterator, own = None, self._start
        while True:
            with undisturbed(self._own):
                _put(self._own, own)
                iterator = iter(self._source) if iterator is None else iterator
                item = next(iterator, _END)
                own = _states(self._own)
            if item is _END:
                return
            yield self._split(item)


_END = object()


@contextmanager
def undisturbed(loader: Any) -> Iterator[None]:
    """Every generator that reading this loader draws from is as it was in the end: the global ones, and its own.

    Parameters
    ----------
    loader : or its generators.
    """
    own = loader if isinstance(loader, list) else _own_generators(loader)
    before = _states(own)
    try:
        yield
    finally:
        _put(own, before)


def _states(own: list[torch.Generator]) -> Any:
    return generator_states(), [generator.get_state() for generator in own]


def _put(own: list[torch.Generator], states: Any) -> None:
    set_generator_states(states[0])
    for generator, state in zip(own, states[1], strict=True):
        generator.set_state(state)


def drawn_batches(loader: DataLoader[Any]) -> tuple[list[list[Any]], bool]:
    """Places in the data set, batch by batch, as the sampler draws them now; and whether their order was random.

    Where it was, the examples are taken in the data set's own order, in batches of the loader's size. Batches of a
    sampler of one's own are kept as they are, since buckets may make them what they are.

    Raises
    ------
    ValueError : a sampler without end, or one that gives nothing.
    """
    sampler: Any = loader.batch_sampler
    batches = [list(batch) for batch in _listed(sampler, loader)]
    if not any(batches):
        raise ValueError("the data loader has no examples; at least one is needed")
    shuffled = type(sampler) is BatchSampler and isinstance(sampler.sampler, _SHUFFLING)
    if shuffled:
        places, size = sorted(itertools.chain.from_iterable(batches)), sampler.batch_size
        batches = [places[lo : lo + size] for lo in range(0, len(places), size)]
    return batches, shuffled


def _listed(sampler: Any, loader: DataLoader[Any]) -> list[Any]:
    known = _length(sampler) is not None
    most = _ENDLESS * max(_length(loader.dataset) or 0, 1_000)
    found = list(itertools.islice(sampler, None if known else most))
    if len(found) == most and not known:
        raise ValueError(
            f"{type(sampler).__name__} went on after {most:,} steps and has no length: a mean over the data needs a "
            "sampler with an end"
        )
    return found


def _again(loader: DataLoader[Any], **how: Any) -> DataLoader[Any]:
    """The loader with another sampler."""
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
            "worker_init_fn": loader.worker_init_fn,
        }
    return DataLoader(
        loader.dataset,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        timeout=loader.timeout,
        generator=loader.generator,
        **workers,
        **how,
    )


def _length(of: Any) -> int | None:
    try:
        return len(of)
    except TypeError:  # none, or, as a BatchSampler's, that of another which has none
        return None


def _choice(places: list[Any], loader: DataLoader[Any], shuffled: bool) -> tuple[str, ...]:
    """What the loader makes of its data set, in sentences."""
    distinct, n = len(set(places)), _length(loader.dataset) or 0
    notes = []
    if shuffled:
        notes.append(Note("The loader shuffles; its examples were taken in the data set's own order."))
    if distinct < n:
        told = Note("The loader gives {distinct} of its data set's {n} examples.", distinct=f"{distinct:,}", n=f"{n:,}")
        notes.append(told)
    if distinct < len(places):
        notes.append(Note("The loader gives some examples several times, and each time counts."))
    if shuffled and (distinct < n or distinct < len(places)) and not _always_the_same(loader):
        notes.append(Note("Which ones is drawn anew at every reading; the numbers are those of one draw."))
    return tuple(notes)


def _always_the_same(loader: DataLoader[Any]) -> bool:
    sampler: Any = loader.sampler
    return isinstance(sampler, SubsetRandomSampler | DistributedSampler) and not loader.drop_last


def _own_generators(loader: Any) -> list[torch.Generator]:
    holders = [loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    holders.append(getattr(holders[2], "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _mark(batch: Any) -> tuple[Any, ...]:
    """What tells this batch from another: shapes and sums of its tensors."""
    return tuple(
        (tuple(leaf.shape), float(torch.nan_to_num(leaf.detach().double()).sum()) if leaf.numel() else 0.0)
        for leaf in tree_leaves(batch)
        if isinstance(leaf, Tensor) and not leaf.is_complex()
    )


def _bytes(batch: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))


def _changed(number: int) -> ValueError:
    return ValueError(
        f"the loader gave another batch {number} than when it was first read: a data set that draws anew each time "
        "(with a generator of its own, say) is not one set of examples; make it give the same ones, or pass tensors"
    )
