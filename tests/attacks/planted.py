"""Faults planted deep in the library, one at a time: the attack must find each within a minute, and not without it."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attacks import core

SECONDS = 60.0


@dataclass(frozen=True)
class Planted:
    """A fault: the room that must find it, how it is planted, and a word of the kinds of fault it shows as."""

    name: str
    room: str
    plant: Callable[[], Any]
    shows_as: tuple[str, ...]

    def shown_by(self, fault: core.Fault) -> bool:
        return any(word in fault.kind for word in self.shows_as)


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """An attribute, or a function wherever the library has imported it by its name, wrapped for a while."""
    original = owner.__dict__[name]
    places = [owner]
    if not isinstance(owner, type):
        places += [m for key, m in list(sys.modules.items()) if key.startswith("allmasks") and m is not owner]
    changed = [place for place in places if getattr(place, "__dict__", {}).get(name) is original]
    other = wrap(original)
    for place in changed:
        setattr(place, name, other)
    try:
        yield
    finally:
        for place in changed:
            setattr(place, name, original)


def _module(name: str) -> Any:
    return importlib.import_module(f"allmasks.{name}")


def _value() -> Any:
    """The variance of a score is off in the tenth digit."""
    return replaced(_module("scores.score").ScoreProblem, "variance", lambda f: lambda self: f(self) * (1 + 1e-10))


def _model_value() -> Any:
    """One mask of all counts a billionth too much."""

    def wrap(chunks: Any) -> Any:
        def off(self: Any, *args: Any, **kwargs: Any) -> Any:
            for chunk in chunks(self, *args, **kwargs):
                chunk.weight[-1] *= 1 + 1e-9
                yield chunk

        return off

    return replaced(_module("over_masks.sources").EveryMask, "chunks", wrap)


def _gradient() -> Any:
    def wrap(gradient: Any) -> Any:
        def off(*args: Any, **kwargs: Any) -> Any:
            found = gradient(*args, **kwargs)
            found.weights = found.weights * (1 + 1e-6)
            return found

        return off

    return replaced(_module("scores.score").ScoreProblem, "gradient", wrap)


def _model_gradient() -> Any:
    def wrap(summed: Any) -> Any:
        return lambda *args: tuple(g * (1 + 1e-5) for g in summed(*args))

    return replaced(_module("over_masks.derivatives"), "_summed", wrap)


def _second() -> Any:
    """The derivative of a derivative is off in the fifth digit."""

    def wrap(backward: Any) -> Any:
        def off(*args: Any) -> Any:
            return tuple(None if g is None else g * (1 + 1e-5) for g in backward.__func__(*args))

        return staticmethod(off)

    return replaced(_module("over_masks.derivatives")._Gradient, "backward", wrap)


def _small_error() -> Any:
    return replaced(_module("replicates"), "standard_error", lambda f: lambda *args, **kw: f(*args, **kw) / 3)


def _coverage() -> Any:
    """Units are kept three percent too often."""

    def wrap(draw: Any) -> Any:
        return lambda self, seed, site, masks, examples, keep: draw(self, seed, site, masks, examples, keep * 1.03)

    return replaced(_module("samplers").LatinHypercube, "draw", wrap)


def _nan() -> Any:
    import numpy as np

    def wrap(form: Any) -> Any:
        def off(problem: Any, *args: Any, **kwargs: Any) -> Any:
            found = form(problem, *args, **kwargs)
            found.value = np.where(np.abs(problem.mean()) > 200, np.nan, found.value)
            return found

        return off

    return replaced(_module("scores.formulas"), "closed_form", wrap)


def _weights_kept() -> Any:
    return replaced(_module("sites.state").State, "settle", lambda settle: lambda self, *args, **kwargs: None)


@contextmanager
def _site_off() -> Iterator[None]:
    """A site is found, and its mask never put in."""
    import torch.nn.functional as F

    parsers = _module("sites.calls").PARSERS
    original = parsers[F.dropout1d]

    def parse(*args: Any, **kwargs: Any) -> Any:
        call = original(*args, **kwargs)
        call.apply = lambda kept, p: call.input
        return call

    parsers[F.dropout1d] = parse
    try:
        yield
    finally:
        parsers[F.dropout1d] = original


def _rounded_up() -> Any:
    """K is rounded up to whole blocks of eight."""
    return replaced(_module("sampling"), "blocks_of", lambda f: lambda sampler, k: f(sampler, -(-int(k) // 8) * 8))


PLANTED = (
    Planted("value", "scores", _value, ("squared_error ClosedForm",)),
    Planted("a model's value", "models", _model_value, ("Enumeration per_example off", "Enumeration value off")),
    Planted("gradient", "scores", _gradient, ("grad weights",)),
    Planted("a model's gradient", "models", _model_gradient, ("gradient",)),
    Planted("second derivative", "models", _second, ("second derivative",)),
    Planted("an error too small by 3", "statistical", _small_error, ()),
    Planted("coverage", "statistical", _coverage, ()),
    Planted("NaN under an exact guarantee", "scores", _nan, ("NaN, exact",)),
    Planted("weights not given back", "models", _weights_kept, ("parameters not given back",)),
    Planted("a site left off", "models", _site_off, ("Enumeration per_example off", "Enumeration value off")),
    Planted("K not honoured", "scores", _rounded_up, ("K is not honoured",)),
)


def find(planted: Planted, seed: int, seconds: float = SECONDS) -> tuple[bool, float, str]:
    """Whether the attack finds a planted fault, and only with it; in how many seconds; and what it saw."""
    from attack import room
    from attacks.statistical import coverage

    start = time.monotonic()
    if planted.room == "statistical":
        said: list[str] = []
        with planted.plant():
            failed = coverage(seed, 1000, seconds, say=said.append, only="everyday", until_fault=True)
        return failed, time.monotonic() - start, said[0][:100]
    hunter, seen = room(planted.room), []
    with planted.plant():
        tally = core.attack(
            hunter, seed, seconds=seconds, show=0, say=lambda text: None,
            stop_at=lambda fault: planted.shown_by(fault) and not seen.append(fault),
        )  # fmt: skip
    took = time.monotonic() - start
    if tally.stopped is None:
        return False, took, f"{tally.accepted} cases, nothing seen"
    case = hunter.draw(core.generator(seed, hunter.name, tally.stopped))
    if any(planted.shown_by(fault) for fault in core.examine(hunter, case)):
        return False, took, f"seen without it too: {seen[0].kind}"
    return True, took, f"case {tally.stopped}: {seen[0].kind}"


def hunt(seed: int) -> int:
    """Plant and find every fault; 1 where one was not found."""
    missed = 0
    for planted in PLANTED:
        found, took, what = find(planted, seed)
        missed += not found
        print(f"{'found' if found else 'MISSED':<8}{planted.name:<32}{took:>5.0f} s  {what}", flush=True)
    return int(missed > 0)
