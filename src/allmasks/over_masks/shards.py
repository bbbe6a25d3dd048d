"""Each rank's share of data that all of them hold in full."""

from __future__ import annotations

import itertools
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, IterableDataset, Subset

from allmasks.over_masks.loaders import drawn_batches, undisturbed
from allmasks.ranks.groups import Group, join

__all__ = ["shard"]


def shard(data: Any, group: Any = "world") -> Any:
    """This rank's contiguous share of data that every rank holds in full, for calls with `group=`.

    Parameters
    ----------
    data : an (x, y) pair of tensors or arrays, examples along axis 0, or a DataLoader over a map-style data set. The
        first ranks take one example more where the number does not divide. A loader's batches are shared whole where a
        batch_sampler of one's own makes them; what its sampler draws is drawn by the first rank.

    Raises
    ------
    ValueError : fewer examples than ranks, or torch.distributed is not initialized.

    >>> import torch
    >>> shard((torch.arange(3), torch.arange(3)), group=None)
    (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    ranks = join(group)
    if isinstance(data, DataLoader):
        return _share_of_loader(data, ranks)
    n = len(data[0])
    start, stop = _share(n, ranks)
    x, y = data
    return x[start:stop], y[start:stop]


def _share(n: int, ranks: Group, what: str = "examples") -> tuple[int, int]:
    """Where this rank's contiguous share of n examples begins and ends."""
    if n < ranks.size:
        raise ValueError(f"{n} {what} cannot be shared by {ranks.size} ranks: start at most {n} processes")
    share, extra = divmod(n, ranks.size)
    start = ranks.rank * share + min(ranks.rank, extra)
    return start, start + share + (ranks.rank < extra)


def _share_of_loader(loader: DataLoader[Any], ranks: Group) -> DataLoader[Any]:
    """This rank's share of the examples that the first rank's loader gives, which are drawn once for all."""
    sampler: Any = loader.batch_sampler
    if sampler is None or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "a loader without a sampler cannot be shared by ranks: give each rank its own, without am.shard"
        )
    if isinstance(loader.sampler, DistributedSampler):
        # It shares out the data set by itself, some examples twice where their number does not divide.
        batches, _ = drawn_batches(DataLoader(loader.dataset, batch_size=loader.batch_size))
    else:
        with undisturbed(loader):
            batches, _ = ranks.of_first(drawn_batches(loader))
    if type(sampler) is BatchSampler:
        places = list(itertools.chain.from_iterable(batches))
        start, stop = _share(len(places), ranks)
        own = places[start:stop]
        how: dict[str, Any] = {"batch_size": sampler.batch_size}
    else:
        start, stop = _share(len(batches), ranks, "batches")
        own = list(itertools.chain.from_iterable(batches[start:stop]))
        numbers = iter(range(len(own)))
        how = {"batch_sampler": [list(itertools.islice(numbers, len(batch))) for batch in batches[start:stop]]}
    return DataLoader(Subset(loader.dataset, own), collate_fn=loader.collate_fn, num_workers=loader.num_workers, **how)
