"""Randomness of training mode that no site stands for, which is refused whatever the generator's seed happens to do.

Masks are planted, the same in every pass, and the model runs in training mode. What else it draws is forced to both
ends of what can be drawn and to what lies between, and drawn as it comes: an output that changes by that is random
beyond its sites. Draws of one number all alike are not enough: a mask that is divided by its own mean (DropBlock) makes
of every constant the identity. Where no draw is seen, training mode is held against eval mode under the same masks.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.results import Note
from allmasks.sites.alike import alike, identical
from allmasks.sites.calls import Call
from allmasks.sites.left_off import WAY_ON, LeftOff
from allmasks.sites.probe import Inputs
from allmasks.sites.site import DropoutSite
from allmasks.sites.trace import Draw, Trace, trace

__all__ = ["random_beyond", "without_effect"]

_AS_IT_COMES = 4
_TOP = 1.0 - 2.0**-8
_NUMBERS = (0.0, 1.0 - 2.0**-32, *((k + 0.5) / 8 for k in range(8)))
"""What generators outside torch are made to give."""


def without_effect(model: nn.Module, given: Inputs, in_train: Trace) -> bool:
    """Whether nothing that training mode draws changes the output: drop path of rate 0 draws and forgets it."""
    return _unchanged(functools.partial(trace, model, given, train=True), in_train)


def random_beyond(
    model: nn.Module,
    given: Inputs,
    sites: Iterable[DropoutSite],
    thresholds: Mapping[str, float],
    awake: frozenset[str],
    notes: list[str],
    left: LeftOff,
) -> DropoutSite | None:
    """What is random in training mode beside these sites, as a site that cannot be given masks; None if nothing is.

    Parameters
    ----------
    thresholds : by site name, for uniform draws.
    left : what is left off deliberately, and drawn alike in every pass here.
    """
    rates = {site.name: site.call_rate for site in sites if site.p > 0}

    def still(draw: Draw) -> bool:
        return left.takes(*draw.names)

    def run(*, train: bool = True, **how: Any) -> Trace:
        answer = functools.partial(_planted, rates, thresholds, train)
        return trace(model, given, train=train, wake=awake, answer=answer, rates=rates, still=still, **how)

    try:
        first = run()
    except Exception:  # the model bears no other masks than its own; what it draws beside them has been looked at
        return None
    outside = [*first.moved, *first.own, *{"the system" for draw in first.hosts if draw.of_system}]
    if not (outside or first.draws):
        if alike(first.tensors(), run(train=False).tensors()):
            return None
        # Statistics and heads for training are no randomness: eval mode's are meant.
        if all(alike(first.tensors(), run().tensors()) for _ in range(_AS_IT_COMES)):
            if not first.left:  # else that is the difference
                notes.append(
                    Note(
                        "In training mode the model's output differs from that in eval mode under the same masks by "
                        "what is not random, such as heads or scales that only training has; eval mode is meant here."
                    )
                )
            return None
        return _refused(
            "(root):random", "in training mode its output changes from pass to pass by nothing it is seen to draw"
        )
    if not _unforceable(first) and _unchanged(run, first):
        if outside:
            notes.append(
                Note(
                    "In training mode the model draws from {generators}; its output was the same in {n} passes, so "
                    "this was taken to have no effect.",
                    generators=" and ".join(outside),
                    n=_AS_IT_COMES,
                )
            )
        return None
    if first.draws:
        draw = first.draws[0]
        return _refused(f"{draw.path}:{draw.op}", f"it calls {draw.op} in training mode, which is not known as dropout")
    name = f"{first.hosts[0].path}:{first.hosts[0].op}" if first.hosts else "(root):random"
    return _refused(name, f"in training mode the model draws from {' and '.join(outside)}, which no mask can stand for")


def _refused(name: str, reason: str) -> DropoutSite:
    op = name.rpartition(":")[2]
    return DropoutSite(name, op, math.nan, (), 0, controllable=False, reason=f"{reason}; {WAY_ON}")


def _unforceable(seen: Trace) -> bool:
    """Whether a generator has been drawn from that cannot be told what to give: then the seed would decide."""
    return any("numpy.random._generator" in name for name in seen.own)


def _unchanged(run: Callable[..., Trace], first: Trace) -> bool:
    """Whether the output is the same whatever is drawn beside the masks."""
    ways: list[dict[str, Any]] = [{}] * _AS_IT_COMES
    ways += [{"fill": fill} for fill in (_constant(0.0), _constant(_TOP), _mixed(0), _mixed(1))]
    if first.moved or first.own or any(draw.of_system for draw in first.hosts):
        ways += [{"hosts": number} for number in _NUMBERS]
    try:
        still = run(fill=_constant(0.0), hosts=0.0).tensors()
        # Kernels that add up in any order differ in the last bits from themselves.
        same = identical if identical(still, run(fill=_constant(0.0), hosts=0.0).tensors()) else alike
        return all(same(still, run(**how).tensors()) for how in ways)
    except Exception:
        return False


def _constant(value: float) -> Callable[[Tensor], object]:
    return lambda drawn: drawn.fill_(value)


def _mixed(seed: int) -> Callable[[Tensor], object]:
    """Numbers from all of [0, 1), or both bits, in no order."""

    def fill(drawn: Tensor) -> None:
        order = torch.randperm(drawn.numel(), generator=torch.Generator().manual_seed(seed))
        bits = bool(((drawn == 0) | (drawn == 1)).all())
        numbers = (order % 2).double() if bits else order.double() / max(drawn.numel(), 1)
        drawn.copy_(numbers.reshape(drawn.shape))

    return fill


def _planted(rates: Mapping[str, float], thresholds: Mapping[str, float], train: bool, call: Call) -> Tensor | None:
    """A mask of a call, the same in every pass. In training mode uniform numbers are given as such."""
    if call.name not in rates:
        return None
    # NumPy's, lest the draws be taken for the model's.
    rng = np.random.default_rng(zlib.crc32(call.name.encode()))
    kept = torch.from_numpy(np.asarray(rng.random(call.mask_shape) < 0.5))
    if call.kind == "uniform" and train:
        at = thresholds[call.name]
        inside = torch.from_numpy(np.asarray(rng.uniform(0.02, 0.98, call.mask_shape)))
        numbers: Callable[..., Any] = call.identity
        call.identity = functools.partial(numbers, torch.where(kept, at + (1.0 - at) * inside, at * inside))
        return None
    return kept.to(call.input.device)
