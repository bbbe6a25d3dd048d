"""Data sharded over the processes of torch.distributed: what they say to each other, and nothing else.

Every rank holds its own shard of the examples. Masks are keyed by an example's number in all shards together, so what
is summed here is what one process would have summed. Alone, every method gives back what it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from allmasks.errors import RankFailed

__all__ = ["ALONE", "Group", "join", "shard", "unwrapped"]

T = TypeVar("T")


class Group:
    """One process by itself: every sum is its own."""

    rank = 0
    size = 1
    failed: int | None = None
    """The first rank on which the last work raised."""

    def run(self, work: Callable[[], T]) -> T:
        """Do local work; if it raises on any rank, every rank raises, and none waits for one that is gone."""
        return work()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; gradients flow to this rank's part alone."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank."""
        return [value]

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Every rank's rows, in order of rank; gradients flow to this rank's rows alone."""
        return tensor

    def same(self, what: str, own: Any) -> None:
        """Every rank's is this; masks are keyed by the sites' names, so all must have found the same ones."""
        for rank, other in enumerate(self.gather(own)):
            if other != own:
                raise ValueError(
                    f"the ranks hold different models: {what} of rank {self.rank} are {own}, of rank {rank} {other}"
                )


ALONE = Group()


class _Ranks(Group):
    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def run(self, work: Callable[[], T]) -> T:
        failure: Exception | None = None
        result: Any = None
        try:
            result = work()
        except Exception as problem:
            failure = problem
        told = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        self.failed = next((rank for rank, text in enumerate(told) if text is not None), None)
        if failure is not None:
            failure.add_note(f"raised on rank {self.rank} of {self.size}; examples are counted within its shard")
            raise failure
        if self.failed is not None:
            raise RankFailed(self.failed, self.size, str(told[self.failed]))
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total, group=self._group)
        return total if not tensor.requires_grad else tensor + (total - tensor.detach())

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def concatenate(self, tensor: Tensor) -> Tensor:
        parts = [part.to(tensor.device) for part in self.gather(tensor.detach().cpu())]
        parts[self.rank] = tensor
        return torch.cat(parts)


def join(group: Any) -> Group:
    """None is this process alone; "world" or a ProcessGroup is all its ranks, which must all make the same call."""
    if group is None:
        return ALONE
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"group={group!r} needs torch.distributed: start the script with torchrun and call "
            "torch.distributed.init_process_group first, or pass group=None"
        )
    if group == "world":
        return _Ranks(None)
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f'group must be None, "world" or a torch.distributed.ProcessGroup, got {group!r}')
    if dist.get_rank(group) < 0:
        raise ValueError("this process is not a member of the group it was given")
    return _Ranks(group)


def shard(data: Any, group: Any = "world") -> Any:
    """This rank's contiguous share of data that every rank holds in full, for calls with `group=`.

    Parameters
    ----------
    data : an (x, y) pair of tensors or arrays, examples along axis 0, or a DataLoader over a map-style data set. The
        first ranks take one example more where the number does not divide.

    Raises
    ------
    ValueError : fewer examples than ranks, or torch.distributed is not initialized.

    >>> shard((torch.arange(3), torch.arange(3)), group=None)
    (tensor([0, 1, 2]), tensor([0, 1, 2]))
    """
    ranks = join(group)
    n = len(data.dataset) if isinstance(data, DataLoader) else len(data[0])  # type: ignore[arg-type]
    if n < ranks.size:
        raise ValueError(f"{n} examples cannot be shared by {ranks.size} ranks: start at most {n} processes")
    share, extra = divmod(n, ranks.size)
    start = ranks.rank * share + min(ranks.rank, extra)
    stop = start + share + (ranks.rank < extra)
    if isinstance(data, DataLoader):
        return DataLoader(
            Subset(data.dataset, range(start, stop)),
            batch_size=data.batch_size,
            collate_fn=data.collate_fn,
            num_workers=data.num_workers,
        )
    x, y = data
    return x[start:stop], y[start:stop]


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, whose site names are those of one process.

    Its wrapper would broadcast buffers at every pass, and hang where shards have different numbers of batches.
    """
    if isinstance(model, DistributedDataParallel):
        return model.module
    if any(type(module).__name__.startswith(("FSDP", "FullyShardedDataParallel")) for module in model.modules()):
        raise TypeError(
            f"{type(model).__name__} has its parameters sharded by FSDP, and a pass under masks needs all of them: "
            "load torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) into a plain copy of the model and pass that"
        )
    return model
