"""Borrowing a model: eval semantics inside, and everything back as it was on the way out, however one leaves."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from allmasks.sites.sharding import sharded_parts

__all__ = ["borrowed", "generator_states"]


@contextmanager
def borrowed(model: nn.Module, filled: Sequence[Tensor] = ()) -> Iterator[None]:
    """The model in eval mode; flags, buffers, gradients and every global generator are put back at the end.

    Flags are set one by one: `model.eval()` may be overridden, and a flag that the user has set alone must come
    back alone. May be nested. `filled` are values that the buffers have inside, if there are any.

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
    modules = list(model.modules())
    flags = [(module, module.training) for module in modules]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    # A pass leaves the outermost part's parameters gathered, each in place of the shard that was there.
    shards = [(part, list(map(id, part.parameters()))) for part in sharded_parts(model)]
    grad_mode = torch.is_grad_enabled()
    states = generator_states()
    try:
        for module in modules:
            module.training = False
        with torch.no_grad():
            for own, value in zip(model.buffers(), filled, strict=False):
                own.copy_(value)
        yield
    finally:
        for part, before in reversed(shards):
            if list(map(id, part.parameters())) != before:
                part.reshard()  # type: ignore[operator]
        for module, flag in flags:
            module.training = flag
        with torch.no_grad():
            for module, name, buffer, version, copy in buffers:
                if buffer._version != version:
                    buffer.copy_(copy)
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
        for parameter, grad in grads:
            if parameter.grad is not grad:
                parameter.grad = grad
        torch.set_grad_enabled(grad_mode)
        _set_generator_states(states)


def generator_states() -> dict[str, Any]:
    """The state of each global generator a model might draw from."""
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - the legacy generator is the one models draw from
        "python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def _set_generator_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


def moved_generators(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Which generators beside torch's have been drawn from between two calls of `generator_states`."""
    moved = []
    if before["python"] != after["python"]:
        moved.append("Python's random")
    old, new = before["numpy"], after["numpy"]
    if old[2:] != new[2:] or not np.array_equal(old[1], new[1]):
        moved.append("NumPy's global generator")
    return moved


def snapshot_tensor(value: Any) -> Any:
    """A detached copy of a tensor, or the thing itself."""
    return value.detach().clone() if isinstance(value, Tensor) else value
