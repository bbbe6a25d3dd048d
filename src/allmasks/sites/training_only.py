"""Dropout that only happens while a module's training flag is set, and is not even called in eval mode.

Such a module is woken alone: its own flag is set, its children's and everybody else's are not. It may be woken where
the model's output, with every draw in it replaced by what drops nothing, equals the output in eval mode; otherwise
its dropout is refused by name. Draws of uniform numbers have no such value of their own: for them the outputs on both
sides of the threshold, weighted with their probabilities, must give the module's output in eval mode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from allmasks.results import Note
from allmasks.sites.borrow import borrowed
from allmasks.sites.draws import HIGHEST
from allmasks.sites.naming import modules_at, parent_of, path_of
from allmasks.sites.probe import Inputs
from allmasks.sites.site import DropoutSite
from allmasks.sites.trace import Draw, Trace, output_tensors, trace

__all__ = ["TrainingOnly", "look_in_training"]

_GENERATOR_PASSES = 4
_BISECTIONS = 26


@dataclass(frozen=True)
class Threshold:
    """A uniform draw that is compared with `at`; `low_keeps`: numbers below it keep the unit."""

    at: float
    low_keeps: bool
    mean_preserving: bool = True


@dataclass
class TrainingOnly:
    """What training mode shows that eval mode does not.

    Attributes
    ----------
    awake : paths of modules to wake so that their dropout can be given masks.
    owners : by site name, the module to wake for it.
    thresholds : by site name, for uniform draws.
    refused : sites that cannot be given masks, with the reason.
    """

    awake: frozenset[str] = frozenset()
    owners: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    refused: list[DropoutSite] = field(default_factory=list)

    def who(self, name: str) -> str:
        """The module to wake for a site."""
        return self.owners.get(name, path_of(name))


def look_in_training(
    model: nn.Module, given: Inputs, in_eval: Trace, in_train: Trace, notes: list[str]
) -> TrainingOnly:
    """Find what only training mode draws, and wake the modules that may be."""
    result = TrainingOnly()
    calls: dict[str, list[str]] = {}
    for name, seen in in_train.seen.items():
        if name not in in_eval.seen and seen.call.p > 0:
            calls.setdefault(path_of(name), []).append(name)
    known = set(in_eval.draws)
    draws: dict[str, list[Draw]] = {}
    for draw in in_train.draws:
        if draw not in known:
            draws.setdefault(draw.path, []).append(draw)
    if draws and not calls and not _draws_matter(model, given, in_eval):
        draws = {}
    for path in dict.fromkeys((*calls, *draws)):
        _try_path(model, given, in_eval, in_train, path, calls.get(path, []), draws.get(path, []), result)
    moved = [generator for generator in in_train.moved if generator not in in_eval.moved]
    if moved:
        _other_generators(model, given, in_eval, " and ".join(moved), notes, result)
    return result


def _try_path(
    model: nn.Module,
    given: Inputs,
    in_eval: Trace,
    in_train: Trace,
    path: str,
    calls: list[str],
    draws: list[Draw],
    result: TrainingOnly,
) -> None:
    """Wake one module alone; accept it, or write down why not."""
    scripted = [draw for draw in draws if draw.scripted]
    reason = None
    if scripted:
        reason = "it is TorchScript, whose dropout cannot be reached from outside; pass the module it was made from"
    else:
        path = _who_decides(model, given, path, calls)
        awake = frozenset((path,))
        try:
            with borrowed(model):
                trial = trace(model, given, train=False, wake=awake)
        except Exception as error:
            reason = f"it fails with only its own training flag set ({type(error).__name__}: {error})"
        else:
            new = {name: seen for name, seen in trial.seen.items() if name not in in_eval.seen}
            uniform = [name for name, seen in new.items() if seen.call.kind == "uniform"]
            stray = [draw for draw in trial.draws if draw not in in_eval.draws]
            refusal = next((seen.call.refusal for seen in new.values() if seen.call.refusal), None)
            if stray:
                reason = _unknown_draw(stray[0])
            elif refusal is not None:
                reason = refusal
            elif uniform and len(new) == 1:
                found = _find_threshold(model, given, in_eval, path, uniform[0])
                if found is None:
                    return  # what it draws has no effect
                if isinstance(found, Threshold):
                    result.thresholds[uniform[0]] = found
                    result.awake |= awake
                    result.owners[uniform[0]] = path
                    return
                reason = found
            elif uniform:
                reason = (
                    "it draws uniform numbers more than once in a pass, so none of them can be left out alone; "
                    "register the function or module that draws with am.register_dropout"
                )
            elif not new:
                reason = "it is called in training mode only"
            elif _same(trial, in_eval):
                result.awake |= awake
                result.owners |= dict.fromkeys(new, path)
                return
            else:
                reason = (
                    "it behaves differently in training mode even where nothing is dropped, so it cannot be woken; "
                    "register its dropout with am.register_dropout"
                )
    named = [(name, in_train.seen[name].call.kind, in_train.seen[name].call.p) for name in calls]
    named += [(f"{draw.path}:{draw.op}", draw.op, math.nan) for draw in dict.fromkeys(draws)]
    for name, kind, p in named:
        result.refused.append(DropoutSite(name, kind, p, (), 0, controllable=False, reason=reason))


def _who_decides(model: nn.Module, given: Inputs, path: str, calls: list[str]) -> str:
    """The module whose flag decides on these calls: the one that makes them, or the nearest one around it."""
    around: str | None = path
    while calls and around is not None:
        try:
            with borrowed(model):
                if set(calls) & trace(model, given, train=False, wake=frozenset((around,))).seen.keys():
                    return around
        except Exception:
            break
        around = parent_of(around)
    return path


def _unknown_draw(draw: Draw) -> str:
    return (
        f"it calls {draw.op} in training mode, which is not known as dropout: register the function or module that "
        "draws with am.register_dropout"
    )


def _other_generators(
    model: nn.Module, given: Inputs, in_eval: Trace, names: str, notes: list[str], result: TrainingOnly
) -> None:
    if all(_same_as_eval(model, given, in_eval, None) for _ in range(_GENERATOR_PASSES)):
        notes.append(
            Note(
                "In training mode the model draws from {generators}; its output was the same in {n} passes, so this "
                "was taken to have no effect.",
                generators=names,
                n=_GENERATOR_PASSES,
            )
        )
        return
    reason = f"in training mode the model draws from {names}, which no mask can stand for"
    result.refused.append(DropoutSite("(root):random", "random", math.nan, (), 0, controllable=False, reason=reason))


def _draws_matter(model: nn.Module, given: Inputs, in_eval: Trace) -> bool:
    """Whether stray draws of training mode change anything: tried at both ends of what can be drawn.

    Stochastic depth with rate 0, for one, draws a number and never uses it.
    """
    return not all(_same_as_eval(model, given, in_eval, extreme) for extreme in (0.0, 1.0 - 2**-8))


def _same_as_eval(model: nn.Module, given: Inputs, in_eval: Trace, extreme: float | None) -> bool:
    try:
        with borrowed(model):
            # borrowed() puts generators back, so move them on: each pass draws something else.
            other = trace(model, given, train=True, extreme=extreme)
    except Exception:
        return False
    return other.seen.keys() == in_eval.seen.keys() and _same(other, in_eval)


def _same(one: Trace, other: Trace) -> bool:
    return _equal(one.tensors(), other.tensors())


def _equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in zip(ours, theirs, strict=True)
    )


# -- uniform draws ---------------------------------------------------------------------------------------------


def _find_threshold(model: nn.Module, given: Inputs, in_eval: Trace, path: str, name: str) -> Threshold | str | None:
    """Where a module's uniform draw tips over; None if it never does, a sentence if it is no dropout."""
    module = modules_at(model, path)[-1]

    def outcome(v: float) -> tuple[list[Tensor], list[Tensor]]:
        """The module's output and the model's, all numbers drawn being v."""
        with borrowed(model), _watched(module) as outputs:
            result = trace(model, given, train=False, wake=frozenset((path,)), constants={name: v})
        return [t for output in outputs for t in output_tensors(output)], result.tensors()

    lowest = 2.0**-11
    low, high = outcome(lowest), outcome(HIGHEST)
    if _equal(low[0], high[0]) and _equal(low[1], high[1]):
        if _equal(low[1], in_eval.tensors()):
            return None
        return "it behaves differently in training mode even where nothing is dropped, so it cannot be woken"
    at = _tipping_point(module, outcome, low[0], high[0], lowest)
    if at is None:
        return "what it draws is not compared with one threshold; register it with am.register_dropout"
    with borrowed(model), _watched(module) as outputs:
        trace(model, given, train=False)
    plain = [t for output in outputs for t in output_tensors(output)]
    mixed = [at * a.double() + (1 - at) * b.double() for a, b in zip(low[0], high[0], strict=True)]
    if _equal(mixed, plain):
        small, large = (sum(float(t.double().norm()) for t in side[0]) for side in (low, high))
        return Threshold(at, low_keeps=small > large)
    for side, low_keeps in ((high, False), (low, True)):
        if _equal(side[1], in_eval.tensors()):
            return Threshold(at, low_keeps, mean_preserving=False)
    return (
        "neither its mean over what it draws nor any one outcome is its output in eval mode; register it with "
        "am.register_dropout"
    )


def _tipping_point(
    module: nn.Module, outcome: Any, low: list[Tensor], high: list[Tensor], lowest: float
) -> float | None:
    """The threshold: one of the module's own numbers where one fits, else by bisection."""
    own = [v for v in vars(module).values() if isinstance(v, float) and 0 < v < 1]
    for candidate in dict.fromkeys(c for v in own for c in (v, 1 - v)):
        before, after = outcome(max(candidate - 1e-5, 0.0))[0], outcome(min(candidate + 1e-5, HIGHEST))[0]
        if _equal(before, low) and _equal(after, high):
            return candidate
    a, b = lowest, HIGHEST
    for _ in range(_BISECTIONS):
        middle = (a + b) / 2
        here = outcome(middle)[0]
        if _equal(here, low):
            a = middle
        elif _equal(here, high):
            b = middle
        else:
            return None  # not two outcomes but many
    return (a + b) / 2


@contextmanager
def _watched(module: nn.Module) -> Iterator[list[Any]]:
    """The outputs of a module's calls, seen by a hook that is gone afterwards."""
    outputs: list[Any] = []

    def look(seen: nn.Module, args: Any, output: Any) -> None:
        if seen is module:
            outputs.append(torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), output))

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        yield outputs
    finally:
        handle.remove()
