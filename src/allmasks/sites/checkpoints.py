"""Checkpointed parts of a model: what backward computes again runs under the masks of the forward pass.

While masks are held, `torch.utils.checkpoint` notes which answers a part has got and hands its recomputation a
function that gives the same ones in the same order. A part that asks for the reentrant kind, which `autograd.grad` is
closed to, is run as the other: the numbers are the same.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Answer", "Hold", "checkpoints_follow"]

_MODULE = "torch.utils.checkpoint"
_GENERATOR = "_checkpoint_without_reentrant_generator"
_FUNCTION = "CheckpointFunction"


class Answer(NamedTuple):
    """What a dropout call of this function was given: a mask, or None where it was left at its mean mask.

    `number`: what a uniform draw gave instead of a mask, where that was told.
    """

    function: Any
    kept: Tensor | None
    rate: float
    number: float | None = None


class Hold(Protocol):
    """What answers dropout calls, and remembers how."""

    answers: list[Answer]

    def again(self, answers: list[Answer]) -> AbstractContextManager[None]:
        """A context in which dropout calls get these answers in turn."""
        ...


class _Running(threading.local):
    def __init__(self) -> None:
        self.holds: list[Hold] = []


_running = _Running()
_lock = threading.Lock()
_originals: list[tuple[Any, Any]] = []
_users = 0


@contextmanager
def checkpoints_follow(hold: Hold) -> Iterator[bool]:
    """Parts that are checkpointed inside, in this thread, are recomputed as `hold` has answered; yields whether."""
    module = sys.modules.get(_MODULE)
    follows = module is not None and hasattr(module, _GENERATOR) and hasattr(module, _FUNCTION)
    _running.holds.append(hold)
    if follows:
        _replace(module)
    try:
        yield follows
    finally:
        if follows:
            _put_back(module)
        _running.holds.pop()


def _replace(module: Any) -> None:
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            _originals[:] = [(getattr(module, _GENERATOR), getattr(module, _FUNCTION))]
            setattr(module, _GENERATOR, _followed(_originals[0][0]))
            setattr(module, _FUNCTION, _without_reentry(module, _originals[0][1]))


def _put_back(module: Any) -> None:
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            for name, original in zip((_GENERATOR, _FUNCTION), _originals.pop(), strict=True):
                setattr(module, name, original)


def _followed(original: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
    """What runs before and after a checkpointed part, for the thread whose masks are held; others get torch's own."""

    def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[None]:
        if not _running.holds:
            yield from original(function, *args, **kwargs)
            return
        if torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is not None:
            raise NotImplementedError("a checkpointed part has no rule for vmap")
        hold = _running.holds[-1]
        first = len(hold.answers)
        answers: list[Answer] = []

        def again(*own: Any, **more: Any) -> Any:
            with hold.again(answers):
                return function(*own, **more)

        inner = original(again, *args, **kwargs)
        next(inner)
        try:
            yield
        except BaseException as error:
            inner.throw(error)  # type: ignore[attr-defined]
            raise
        answers += hold.answers[first:]
        yield from inner

    return around


def _without_reentry(module: Any, original: Any) -> Any:
    class Function:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            if not _running.holds:
                return original.apply(function, preserve, *args)
            return module.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)

    return Function
