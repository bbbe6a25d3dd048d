"""Data sharded over the processes of torch.distributed: what they say to each other, and nothing else.

Every rank holds its own shard of the examples. Masks are keyed by an example's number in all shards together, so what
is summed here is what one process would have summed. Alone, every method gives back what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from allmasks.errors import RankFailed
from allmasks.sites import class_name, is_sharded

__all__ = ["ALONE", "EACH_THE_SAME", "Group", "join", "unwrapped"]

T = TypeVar("T")


class Group:
    """One process by itself: every sum is its own."""

    rank = 0
    size = 1
    failed: int | None = None
    """The first rank on which the last work raised."""
    in_step = False
    """Whether ranks make their passes of the model together, see `keep_in_step`."""

    def run(self, work: Callable[[], T]) -> T:
        """Do local work; if it raises on any rank, every rank raises, and none waits for one that is gone."""
        return work()

    def keep_in_step(
        self, idle: Callable[[], None], after: Callable[[], None], device: torch.device | None = None
    ) -> None:
        """From now on no rank makes a pass of the model alone: those without one to make do `idle` meanwhile.

        A sharded model gathers its parameters from every rank in each pass, so all must make as many; but shards of the
        data have different sizes, and what a pass costs in memory may ask for other chunks.

        Parameters
        ----------
        after : called after each pass, idle or not.
        """

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around each pass of the model in the work that `run` does."""
        yield

    def of_first(self, value: T) -> T:
        """The first rank's value."""
        return value

    def buffers_of_first(self, model: nn.Module) -> list[Tensor]:
        """The first rank's buffers, where they are not this rank's own anyway.

        Under DistributedDataParallel every rank's running statistics drift between two passes; the first rank's count.
        """
        return []

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; gradients flow to this rank's part alone."""
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank."""
        return [value]

    def concatenate(self, tensor: Tensor) -> Tensor:
        """Every rank's rows, in order of rank; gradients flow to this rank's rows alone."""
        return tensor

    def agree(self, fields: dict[str, Any]) -> None:
        """Raise one and the same ValueError on every rank if a field differs between them; it names field and ranks."""


ALONE = Group()

EACH_THE_SAME = Group()
"""Every rank does one process's work with the same data, so that a sharded model makes the same passes everywhere."""


class _Stopped(BaseException):
    """Another rank failed, which the work here cannot know how to handle: `run` tells."""


class _Ranks(Group):
    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._idle: Callable[[], None] | None = None
        self._after: Callable[[], None] = lambda: None
        self._device: torch.device | None = None
        self._working = self._in_pass = False

    @property
    def in_step(self) -> bool:  # type: ignore[override]
        return self._idle is not None

    def keep_in_step(
        self, idle: Callable[[], None], after: Callable[[], None], device: torch.device | None = None
    ) -> None:
        self._idle, self._after, self._device = idle, after, device

    @contextmanager
    def turn(self) -> Iterator[None]:
        if not self._working:
            yield
            return
        if self._announce(1, 0)[1]:
            raise _Stopped
        self._in_pass = True
        yield
        self._after()
        self._in_pass = False  # stays set if the pass raised

    def _announce(self, working: int, failed: int) -> tuple[int, int]:
        """How many ranks are about to make a pass, and how many have failed; every rank asks before every pass."""
        counts = torch.tensor([working, failed], device=self._device)
        dist.all_reduce(counts, group=self._group)
        return int(counts[0]), int(counts[1])

    def _wait(self) -> None:
        """Make idle passes until no rank has one to make, or one has failed."""
        assert self._idle is not None
        while True:
            working, failed = self._announce(0, 0)
            if failed or not working:
                return
            self._in_pass = True
            self._idle()
            self._after()
            self._in_pass = False

    def run(self, work: Callable[[], T]) -> T:
        failure: Exception | None = None
        result: Any = None
        self._working, self._in_pass = self.in_step, False
        try:
            result = work()
            self._working = False
            if self.in_step:
                self._wait()
        except _Stopped:
            pass
        except Exception as problem:
            failure = problem
            if self._in_pass:
                failure.add_note(
                    f"raised on rank {self.rank} of {self.size} within a pass of a sharded model, which goes on "
                    "only with the parameters of every rank: let this process end, and torchrun ends the others"
                )
                raise
            if self._working:
                self._announce(0, 1)
        finally:
            self._working = False
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

    def buffers_of_first(self, model: nn.Module) -> list[Tensor]:
        return self.of_first([buffer.detach().cpu() for buffer in model.buffers()])

    def of_first(self, value: T) -> T:
        values: list[Any] = [value]
        first = 0 if self._group is None else dist.get_global_rank(self._group, 0)
        dist.broadcast_object_list(values, src=first, group=self._group)
        return values[0]

    def gather(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def agree(self, fields: dict[str, Any]) -> None:
        told = self.gather(fields)
        names = dict.fromkeys(name for one in told for name in one)
        for name in names:
            values = [one.get(name, "nothing of that name") for one in told]
            odd = next((rank for rank, value in enumerate(values) if value != values[0]), None)
            if odd is None:
                continue
            self.failed = 0  # all of them do; the first one speaks
            if name.startswith("parameter ") and isinstance(values[0], int) and isinstance(values[odd], int):
                raise ValueError(
                    f"{name} holds other numbers on rank {odd} than on rank 0: the ranks would mix two models into one "
                    "result. Load the same weights on all, seed what makes them, or wrap the model in "
                    "DistributedDataParallel, which sends the first rank's to all"
                )
            raise ValueError(
                f"{name} is {values[0]!r} on rank 0 and {values[odd]!r} on rank {odd}: all ranks must make the same "
                "call, each with its own shard of the data"
            )

    def concatenate(self, tensor: Tensor) -> Tensor:
        parts = [part.to(tensor.device) for part in self.gather(tensor.detach().cpu())]
        parts[self.rank] = tensor
        return torch.cat(parts)


def join(group: Any) -> Group:
    """None is this process alone; "world" or a ProcessGroup is all its ranks, which must all make the same call."""
    if group is None:
        return ALONE
    if isinstance(group, Group):
        return group
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


def unwrapped(model: nn.Module, group: Group) -> nn.Module:
    """The module inside DistributedDataParallel, whose site names are those of one process.

    Its wrapper would broadcast buffers at every pass, and hang where shards have different numbers of batches.
    """
    if isinstance(model, DistributedDataParallel):
        return model.module
    if group is ALONE and is_sharded(model):
        raise ValueError(
            f"{class_name(model)} has its parameters sharded by FSDP, and every pass gathers them from all ranks: make "
            'this call on each of them, with group="world" and am.shard of the data, or load '
            "torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True)) into a plain copy of the model and pass that"
        )
    return model
