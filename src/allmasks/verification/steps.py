"""Running somebody's training step as it is, and leaving nothing of it behind."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.nn import rng_state, set_rng_state
from allmasks.sites import borrowed
from allmasks.sites.borrow import written_by_pass

__all__ = ["Passes", "Step", "all_kept", "give_back", "project"]

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_HELD = (nn.Module, *_GENERATORS)


class _Held(nn.Module):
    """What a step holds beside the model, so that it is kept as a model is."""

    def __init__(self, held: list[Any]) -> None:
        super().__init__()
        self.held = held


def _reached(function: Any, depth: int = 4) -> list[Any]:
    """Modules and generators that a step's function holds: in its closure, its defaults, its object, its globals."""
    if depth == 0 or function is None:
        return []
    if isinstance(function, _HELD):
        return [function]
    if isinstance(function, functools.partial):
        parts = [function.func, *function.args, *function.keywords.values()]
        return [one for part in parts for one in _reached(part, depth - 1)]
    if isinstance(function, list | tuple):
        return [one for part in function for one in _reached(part, depth - 1)]
    if isinstance(function, dict):
        return [one for part in function.values() for one in _reached(part, depth - 1)]
    found: list[Any] = []
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, type):
        found += _reached(owner if isinstance(owner, nn.Module) else dict(getattr(owner, "__dict__", {})), depth - 1)
    wrapped = getattr(function, "__wrapped__", None)
    found += _reached(wrapped, depth - 1)
    code = getattr(function, "__code__", None)
    if code is not None:
        for cell in getattr(function, "__closure__", None) or ():
            try:
                found += _reached(cell.cell_contents, depth - 1)
            except ValueError:  # not filled yet
                continue
        found += _reached(list(getattr(function, "__defaults__", None) or ()), depth - 1)
        known = getattr(function, "__globals__", {})
        for name in code.co_names:
            value = known.get(name)
            if isinstance(value, _HELD) or (
                callable(value) and getattr(value, "__globals__", None) is known and value is not function
            ):
                found += _reached(value, depth - 1)
    elif not isinstance(function, type) and callable(function) and hasattr(function, "__dict__"):
        found += _reached(vars(function), depth - 1)
    return found


@contextmanager
def all_kept(model: nn.Module, step: Any) -> Iterator[list[nn.Module]]:
    """The model and whatever the step holds are at the end as before: bytes, flags, gradients and generators.

    Yields the modules whose training flags the step may look at.
    """
    reached = list({id(one): one for one in _reached(step)}.values())
    others = [one for one in reached if isinstance(one, nn.Module) and one is not model]
    modules = list({id(m): m for root in (model, *others) for m in root.modules()}.values())
    flags = [(module, module.training) for module in modules]
    seeds = rng_state()
    with ExitStack() as stack:
        stack.callback(_seeds_back, seeds)
        stack.enter_context(borrowed(model))
        for one in others:
            stack.enter_context(borrowed(one))
        held = [one for one in reached if isinstance(one, _GENERATORS)]
        if held:
            stack.enter_context(borrowed(_Held(held)))
        for module, flag in flags:
            module.training = flag
        parameters = {id(p): p for module in modules for p in module.parameters(recurse=False)}.values()
        for parameter in parameters:
            parameter.grad = None
        yield modules


def _seeds_back(before: dict[str, Any]) -> None:
    if rng_state()["seeds"] != before["seeds"]:
        set_rng_state(before)


@torch.no_grad()
def give_back(held: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Buffers hold again what they held."""
    for buffer, before in held:
        buffer.copy_(before)


@dataclass
class Passes:
    """(K,) losses of passes, and the first of them's gradients along some directions (G, directions)."""

    losses: list[float] = field(default_factory=list)
    along: list[list[float]] = field(default_factory=list)


class Step:
    """A step that gives the loss: the user's own, or the model's in train mode.

    Parameters
    ----------
    call : () -> the scalar loss.
    own : whether it is the user's, with flags as the user has set them.
    modules : whose flags are set for eval mode.
    """

    def __init__(self, model: nn.Module, call: Callable[[], Any], own: bool, modules: Sequence[nn.Module]) -> None:
        self.model, self.call, self.own, self.modules = model, call, own, modules
        self.flags = [module.training for module in modules]
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.has_gradient = bool(self.parameters)
        self.generators: dict[int, tuple[torch.Generator, Tensor]] = {}
        """Generators that were passed to a draw, with their states before."""
        self.looked = False
        self.moved_buffers: list[str] = []

    def in_train_mode(self) -> None:
        if self.own:
            for module, flag in zip(self.modules, self.flags, strict=True):
                module.training = flag
        else:
            self.model.train()

    def in_eval_mode(self) -> None:
        for module in self.modules:
            module.training = False

    def loss(self) -> Tensor:
        """The loss of one pass, checked."""
        with torch.enable_grad():
            value = self.call()
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = torch.tensor(float(value), dtype=torch.float64)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"step() must return the scalar loss of one training forward on the batch, it returned {got}; for one "
                "loss per example return their mean"
            )
        value = value.reshape(())
        if not math.isfinite(float(value.detach())):
            raise ValueError(
                f"step() returned a loss that is not finite ({float(value.detach())}); look at the batch, the weights, "
                "or a loss scale that overflows"
            )
        return value

    def back(self, loss: Tensor) -> list[Tensor | None] | None:
        """Gradients of the model's parameters; None where the loss reaches none of them."""
        if not self.has_gradient:
            return None
        if loss.requires_grad and not self.went_back():
            loss.backward()
        grads = [p.grad for p in self.parameters]
        for module in self.modules:
            for parameter in module.parameters(recurse=False):
                parameter.grad = None
        self.has_gradient = any(grad is not None for grad in grads)
        return [None if g is None else g.detach() for g in grads] if self.has_gradient else None

    def went_back(self) -> bool:
        """Whether the step has gone back by itself: gradients are taken away after each pass."""
        return any(p.grad is not None for p in self.parameters)

    def buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Every buffer, and a copy of what it holds."""
        held = [b for module in self.modules for b in module.buffers(recurse=False)]
        return [(buffer, buffer.detach().clone()) for buffer in held]

    def look_for_traces(self) -> None:
        """After the first pass: parameters must not have moved; buffers that have are named."""
        if self.looked:
            return
        self.looked = True
        written = {id(tensor) for tensor in written_by_pass(self.model)}
        moved = [name for name, p in self.model.named_parameters() if id(p) in written]
        if moved:
            raise ValueError(
                f"step() moved the parameters ({', '.join(moved[:3])}{', …' if len(moved) > 3 else ''}); pass the "
                "training forward alone, without optimizer.step(), so that every pass has the same law. They are as "
                "before again; the optimizer's own state is not"
            )
        self.moved_buffers = [name for name, b in self.model.named_buffers() if id(b) in written]

    def run(self, passes: int, gradients: int, directions: Sequence[Sequence[Tensor | None]], tick: Any) -> Passes:
        """So many passes in train mode, the first `gradients` of them with their gradients along the directions."""
        done = Passes()
        for k in range(passes):
            self.in_train_mode()
            loss = self.loss()
            done.losses.append(float(loss.detach()))
            if k < gradients:
                grads = self.back(loss)
                if grads is not None:
                    done.along.append(project(grads, directions))
            elif self.went_back():
                self.back(loss)  # a step that goes back by itself leaves gradients behind
            self.look_for_traces()
            tick(1)
        return done

    def in_eval(self, times: int) -> tuple[list[float], bool]:
        """(losses of passes in eval mode, whether the step left the flags alone)."""
        losses = []
        for _ in range(times):
            self.in_eval_mode()
            loss = self.loss()
            losses.append(float(loss.detach()))
            self.back(loss)
        return losses, not any(module.training for module in self.modules)


def project(gradients: Sequence[Tensor | None], directions: Sequence[Sequence[Tensor | None]]) -> list[float]:
    """Inner products with each direction, in float64."""
    return [
        sum(
            float(g.double().flatten() @ d.double().flatten())
            for g, d in zip(gradients, direction, strict=True)
            if g is not None and d is not None
        )
        for direction in directions
    ]
