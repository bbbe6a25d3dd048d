"""Uniform draws of a woken module: each is compared with a number, and which number is found by trying.

Every call of the module is looked at by itself: what it gives with the numbers drawn being v, beside what it gives in
eval mode for the same inputs. A module that is called several times goes on in eval mode after each call, so that the
next one has the inputs that it has in eval mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from allmasks.sites.alike import alike, distance, identical
from allmasks.sites.borrow import borrowed
from allmasks.sites.draws import HIGHEST
from allmasks.sites.left_off import WAY_ON
from allmasks.sites.naming import modules_at
from allmasks.sites.probe import Inputs
from allmasks.sites.trace import output_tensors, trace

__all__ = ["LOWEST", "Threshold", "find_thresholds", "same_at_each_call"]

LOWEST = 2.0**-11
_BISECTIONS = 26
_NOT_ONE = f"what it draws is not compared with one threshold; {WAY_ON}"
_NEITHER = f"neither its mean over what it draws nor any one outcome is its output in eval mode; {WAY_ON}"
_SEVERAL = (
    "it draws uniform numbers more than once in a call, and neither end of what it draws is its output in eval mode; "
    f"{WAY_ON}"
)
_CHANGES = (
    "it behaves differently in training mode even where nothing is dropped, so it cannot be woken; switch that part "
    f"off in the model's configuration, {WAY_ON}"
)


@dataclass(frozen=True)
class Threshold:
    """A uniform draw that is compared with `at`; `low_keeps`: numbers below it keep the unit."""

    at: float
    low_keeps: bool
    mean_preserving: bool = True


_NO_EFFECT = Threshold(0.0, low_keeps=False)
"""No number below 0 is drawn: nothing is dropped."""


def find_thresholds(model: nn.Module, given: Inputs, path: str, names: Sequence[str]) -> dict[str, Threshold] | str:
    """Where each of a module's uniform draws tips over; empty if none ever does; a sentence if one is no dropout."""
    calls = _Calls(model, given, path, names)
    found: dict[str, Threshold] = {}
    for call, drawn in enumerate(calls.drawn()):
        side: float = HIGHEST
        if len(drawn) > 1:
            plain = calls.plain(call)
            sides = [v for v in (HIGHEST, LOWEST) if alike(calls.outcome(call, dict.fromkeys(names, v)), plain)]
            if not sides:
                return _SEVERAL
            side = sides[0]
        for name in drawn:
            threshold = _find(calls, call, name, dict.fromkeys(names, side) if len(drawn) > 1 else None)
            if isinstance(threshold, str):
                return threshold
            found[name] = threshold
    return found if any(threshold is not _NO_EFFECT for threshold in found.values()) else {}


def _find(calls: _Calls, call: int, name: str, others: dict[str, float] | None) -> Threshold | str:
    """The threshold of one draw in one call; `others`: what the rest of its draws are, all the same where None."""

    def outcome(v: float) -> list[Tensor]:
        return calls.outcome(call, dict.fromkeys(calls.names, v) if others is None else {**others, name: v})

    low, high, plain = outcome(LOWEST), outcome(HIGHEST), calls.plain(call)
    if identical(low, high):
        return _NO_EFFECT if alike(low, plain) else _CHANGES
    at = _tipping_point(calls.module, outcome, low, high)
    if at is None:
        return _NOT_ONE
    mixed = [at * a.double() + (1 - at) * b.double() for a, b in zip(low, high, strict=True)]
    fits = []
    if alike(mixed, plain):
        small, large = (sum(float(t.double().norm()) for t in side) for side in (low, high))
        fits.append((distance(mixed, plain), 0, Threshold(at, low_keeps=small > large)))
    fits += [
        (distance(side, plain), 1, Threshold(at, low_keeps, mean_preserving=False))
        for side, low_keeps in ((high, False), (low, True))
        if alike(side, plain)
    ]
    # The effect may be smaller than what counts as rounding: then several fit, and the nearest is meant.
    return min(fits, key=lambda fit: fit[:2])[2] if fits else _NEITHER


def _tipping_point(
    module: nn.Module, outcome: Callable[[float], list[Tensor]], low: list[Tensor], high: list[Tensor]
) -> float | None:
    """The threshold: one of the module's own numbers where one fits, else by bisection."""

    def is_low(here: list[Tensor]) -> bool | None:
        if identical(here, low) or identical(here, high):
            return identical(here, low)
        near = alike(here, low), alike(here, high)
        return near[0] if near[0] != near[1] else None

    own = [v for v in vars(module).values() if isinstance(v, float) and 0 < v < 1]
    for candidate in dict.fromkeys(c for v in own for c in (v, 1 - v)):
        before, after = max(candidate - 1e-5, 0.0), min(candidate + 1e-5, HIGHEST)
        if is_low(outcome(before)) is True and is_low(outcome(after)) is False:
            return candidate
    a, b = LOWEST, HIGHEST
    for _ in range(_BISECTIONS):
        middle = (a + b) / 2
        here = is_low(outcome(middle))
        if here is None:
            return None  # not two outcomes but many
        a, b = (middle, b) if here else (a, middle)
    # In float32 the number compared with is the one nearest to what somebody wrote, up to 2^-25 off on either side.
    near = _shortest_between(a - 2.0**-24, b + 2.0**-24)
    return near if near == round(near, 6) else _shortest_between(a, b)


def _shortest_between(a: float, b: float) -> float:
    """The decimal of fewest digits in [a, b]: what somebody wrote in a configuration, where such a one fits.

    >>> _shortest_between(0.0999999996, 0.1000000041)
    0.1
    """
    middle = (a + b) / 2
    return next((near for digits in range(1, 17) if a <= (near := round(middle, digits)) <= b), middle)


def same_at_each_call(model: nn.Module, given: Inputs, path: str) -> bool:
    """Whether a woken module that drops nothing gives in each call what it gives in eval mode."""
    calls = _Calls(model, given, path, ())
    return all(alike(calls.outcome(k, {}), calls.plain(k)) for k in range(len(calls.drawn())))


@dataclass
class _Call:
    plain: list[Tensor]
    names: list[str] = field(default_factory=list)
    woken: list[Tensor] = field(default_factory=list)


class _Calls:
    """What the calls of one woken module give, for numbers drawn that we choose; each pass is made once."""

    def __init__(self, model: nn.Module, given: Inputs, path: str, names: Sequence[str]) -> None:
        self.model, self.given, self.path, self.names = model, given, path, names
        self.module = modules_at(model, path)[-1]
        self._passes: dict[tuple[float, ...], list[_Call]] = {}

    def drawn(self) -> list[list[str]]:
        """Which of the names each call draws."""
        return [call.names for call in self._calls(dict.fromkeys(self.names, HIGHEST))]

    def plain(self, call: int) -> list[Tensor]:
        """What a call gives in eval mode."""
        return self._calls(dict.fromkeys(self.names, HIGHEST))[call].plain

    def outcome(self, call: int, values: dict[str, float]) -> list[Tensor]:
        """What a call gives where these numbers are drawn."""
        calls = self._calls(values)
        return calls[call].woken if call < len(calls) else []

    def _calls(self, values: dict[str, float]) -> list[_Call]:
        key = tuple(values[name] for name in self.names)
        if key not in self._passes:
            names: list[str] = []
            with borrowed(self.model), _both_ways(self.module, names) as calls, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using `torch.compile")  # that a hook may see a part twice
                trace(
                    self.model,
                    self.given,
                    train=False,
                    wake=frozenset((self.path,)),
                    constants=values,
                    keep=lambda call: names.append(call.name) if call.name in self.names else None,
                )
            self._passes[key] = calls
        return self._passes[key]


@contextmanager
def _both_ways(module: nn.Module, names: list[str]) -> Iterator[list[_Call]]:
    """The calls of a module, each made in eval mode too and going on with that, seen by hooks that are gone after."""
    calls: list[_Call] = []
    begun: list[Any] = []

    def before(seen: nn.Module, args: Any) -> None:
        if seen is module:
            # A module may work in place.
            begun.append(torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), args))
            names.clear()

    def after(seen: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if seen is not module:
            return None
        woken, drawn = _copies(output), list(names)
        flag, module.training = module.training, False
        try:
            plain = module.forward(*begun.pop(), **kwargs)
        finally:
            module.training = flag
        calls.append(_Call(_copies(plain), drawn, woken))
        return plain

    hooks = (
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after, with_kwargs=True),
    )
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
            nn.modules.module._global_forward_hooks_with_kwargs.pop(hook.id, None)  # torch forgets this one


def _copies(output: Any) -> list[Tensor]:
    return [t.detach().clone() for t in output_tensors(output)]
