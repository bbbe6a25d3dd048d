"""Borrowing a model: eval semantics inside, and everything back as it was on the way out, however one leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from allmasks.sites.settings import settings_kept
from allmasks.sites.sharding import is_sharded, sharded_parts
from allmasks.sites.state import State

__all__ = ["begin_pass", "borrowed", "state_of", "written_by_pass"]


class _Lent(threading.local):
    """The state of each model that is borrowed in this thread, the latest loan last."""

    def __init__(self) -> None:
        self.states: list[tuple[nn.Module, State]] = []


_lent = _Lent()


def state_of(model: nn.Module) -> State | None:
    """What is kept of a model that is borrowed."""
    return next((state for lent, state in reversed(_lent.states) if lent is model), None)


@contextmanager
def borrowed(model: nn.Module, filled: Sequence[Tensor] = ()) -> Iterator[None]:
    """The model in eval mode; all it holds, its flags, process-wide settings and generators are put back at the end.

    Flags are set one by one: `model.eval()` may be overridden, and a flag that the user has set alone must come
    back alone. May be nested. `filled` are values that the buffers have inside, if there are any. Whatever passes
    write into the model is undone before the next one by `begin_pass`, and at the end.

    Raises
    ------
    ValueError : if a parameter is still uninitialised (a lazy module that has never run).
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"parameter {name!r} of {type(model).__name__} is uninitialised; run the model once on a batch so "
                "that its lazy modules take their shapes"
            )
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        stack.enter_context(settings_kept())
        if state_of(model) is None or filled:
            stack.enter_context(_kept(model))
        if filled:
            with torch.no_grad():
                for own, value in zip(model.buffers(), filled, strict=False):
                    own.copy_(value)
            stack.enter_context(_kept(model))
        stack.enter_context(_in_eval_mode(model))
        yield


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Everything that the model holds is at the end what it is now."""
    state = State(model, only_buffers=is_sharded(model))
    _lent.states.append((model, state))
    try:
        yield
    finally:
        _lent.states.pop()
        state.settle(closely=True)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    flags = [(module, module.training) for module in modules]
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    # A pass leaves the outermost part's parameters gathered, each in place of the shard that was there.
    shards = [(part, list(map(id, part.parameters()))) for part in sharded_parts(model)]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for part, before in reversed(shards):
            if list(map(id, part.parameters())) != before:
                part.reshard()  # type: ignore[operator]
        state = state_of(model)
        if state is not None:
            state.settle()
        for module, flag in flags:
            module.training = flag
        for parameter, grad in grads:
            if parameter.grad is not grad:
                parameter.grad = grad


def begin_pass(model: nn.Module) -> None:
    """To be called before each pass of a borrowed model, so that all passes begin from the same state."""
    state = state_of(model)
    if state is not None:
        state.begin()


def written_by_pass(model: nn.Module) -> list[Tensor]:
    """What of a borrowed model's tensors the pass that was just made has changed."""
    state = state_of(model)
    return [] if state is None else state.written()
