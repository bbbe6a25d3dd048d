"""Which earlier call of a seeded layer a recomputation in backward repeats.

A call that may be recomputed draws a ticket from torch's generator and notes which count of its seed's stream it took.
Checkpointing restores the generator, so that the recomputation draws the same ticket. Two calls from the same
generator state draw the same ticket, though, and took two counts; of them the recomputation repeats the one that was
made in the same checkpoint. torch's checkpoint without reentry keeps a frame, which its hooks for saved tensors hold;
a reentrant one, and the like of other libraries, is an `autograd.Function`, whose forward and backward have one `ctx`.
"""

from __future__ import annotations

import sys
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

__all__ = ["Tickets"]

_TICKETS = 1 << 16
"""Calls that may still be recomputed and are remembered; many times what one backward pass holds."""


@dataclass
class _Call:
    """The count that a call took, and the checkpoints it was made in."""

    count: int
    within: list[weakref.ref[Any]]

    def made_in(self, regions: list[Any]) -> bool:
        return any(at() is region for at in self.within for region in regions)

    def alive(self) -> bool:
        return any(at() is not None for at in self.within)


class Tickets:
    """Counts by (seed, ticket), each with the checkpoints it was taken in, if any are known."""

    def __init__(self) -> None:
        self._calls: OrderedDict[tuple[int, int], list[_Call]] = OrderedDict()

    def clear(self) -> None:
        """Forget all."""
        self._calls.clear()

    def note(self, ticket: tuple[int, int], count: int) -> None:
        """A call took this count. Of the calls in no known checkpoint only the last one is kept."""
        call = _Call(count, [weakref.ref(region) for region in _regions_of_forward()])
        self._calls[ticket] = [call, *(held for held in self._calls.pop(ticket, ()) if held.alive())]
        if len(self._calls) > _TICKETS:
            self._calls.popitem(last=False)

    def find(self, ticket: tuple[int, int]) -> int:
        """The count that the call which is now recomputed took at first.

        Raises
        ------
        RuntimeError : if no call drew this ticket, or several did and nothing says which of them is meant.
        """
        held = self._calls.get(ticket, [])
        if not held:
            raise RuntimeError(
                "a dropout layer with a seed ran inside a backward pass, and no earlier call of it matches: "
                "checkpointing needs preserve_rng_state=True, its default"
            )
        meant = held
        if len({call.count for call in held}) > 1:
            here = _regions_of_backward()
            meant = [call for call in held if call.made_in(here)] or [call for call in held if not call.within]
        counts = {call.count for call in meant}
        if len(counts) != 1:
            raise RuntimeError(
                "a dropout layer with a seed is recomputed, and several calls of it began from the same state of "
                "torch's generator: do not restore the generator between them, or use no seed"
            )
        # Checkpoints within the one that is recomputed begin anew.
        meant[0].within += [weakref.ref(region) for region in _regions_of_forward() if not meant[0].made_in([region])]
        return meant[0].count


def _regions_of_forward() -> list[Any]:
    """The checkpoints whose forward runs: those that look at what is saved, and those that run without gradients."""
    return [*_frames_of_hooks(), *([] if torch.is_grad_enabled() else _contexts())]


def _frames_of_hooks() -> list[Any]:
    """What torch's checkpoints hold, from all hooks for saved tensors: only the last of them can be looked at."""
    taken: list[Any] = []
    frames: list[Any] = []
    autograd = torch._C._autograd
    while (hooks := autograd._top_saved_tensors_default_hooks(True)) is not None:
        taken.append(hooks)
        autograd._pop_saved_tensors_default_hooks()
    for pack, unpack in reversed(taken):
        autograd._push_saved_tensors_default_hooks(pack, unpack)
        if (frame := _captured(pack)) is not None:
            frames.append(frame)
    return frames


def _captured(pack: Any) -> Any:
    """The frame that the pack hook of torch's checkpoint holds, or None of another hook."""
    if getattr(pack, "__module__", "") != "torch.utils.checkpoint" or not getattr(pack, "__closure__", None):
        return None
    cells = dict(zip(pack.__code__.co_freevars, pack.__closure__, strict=True))
    return cells["frame"].cell_contents if "frame" in cells else None


def _regions_of_backward() -> list[Any]:
    """The checkpoints that are being recomputed."""
    frames = [
        frame.f_locals.get("frame")
        for frame in _stack()
        if frame.f_code.co_name == "unpack_hook" and frame.f_globals.get("__name__") == "torch.utils.checkpoint"
    ]
    return [*frames, *_contexts()]


def _contexts() -> Iterator[Any]:
    """The `ctx` of each `autograd.Function` that runs."""
    for frame in _stack():
        if frame.f_code.co_argcount and frame.f_code.co_varnames[0] == "ctx":
            ctx = frame.f_locals.get("ctx")
            if isinstance(ctx, FunctionCtx):
                yield ctx


def _stack() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back
