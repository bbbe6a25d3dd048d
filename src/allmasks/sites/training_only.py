"""Dropout that only happens while a module's training flag is set, and is not even called in eval mode.

Such a module is woken alone: its own flag is set, its children's and everybody else's are not. It may be woken where
the model's output, with every draw in it replaced by what drops nothing, equals the output in eval mode; otherwise
its dropout is refused by name. Draws of uniform numbers have no such value of their own: for them the outputs on both
sides of the threshold, weighted with their probabilities, must give the module's output in eval mode.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from torch import nn

from allmasks.sites.alike import alike
from allmasks.sites.borrow import borrowed
from allmasks.sites.draws import HIGHEST
from allmasks.sites.left_off import WAY_ON, LeftOff
from allmasks.sites.naming import parent_of, path_of
from allmasks.sites.probe import Inputs
from allmasks.sites.site import DropoutSite
from allmasks.sites.thresholds import LOWEST, Threshold, find_thresholds, same_at_each_call
from allmasks.sites.trace import Draw, Trace, trace
from allmasks.sites.unexplained import without_effect

__all__ = ["TrainingOnly", "look_in_training"]


@dataclass
class TrainingOnly:
    """What training mode shows that eval mode does not.

    Attributes
    ----------
    awake : paths of modules to wake so that their dropout can be given masks.
    owners : by site name, the module to wake for it.
    thresholds : by site name, for uniform draws.
    refused : sites that cannot be given masks, with the reason.
    tried : paths that have been looked at.
    """

    awake: frozenset[str] = frozenset()
    owners: dict[str, str] = field(default_factory=dict)
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    refused: list[DropoutSite] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    @property
    def nothing_dropped(self) -> dict[str, float]:
        """By name of a uniform draw, a number that keeps."""
        return {name: LOWEST if found.low_keeps else HIGHEST for name, found in self.thresholds.items()}

    @property
    def rest(self) -> dict[str, float | None]:
        """By name of a uniform draw, the number that drops nothing; None where only eval mode does."""
        numbers = self.nothing_dropped
        return {
            name: None if found.mean_preserving and found.at > 0 else numbers[name]
            for name, found in self.thresholds.items()
        }

    def who(self, name: str) -> str:
        """The module to wake for a site."""
        return self.owners.get(name, path_of(name))


def look_in_training(
    model: nn.Module, given: Inputs, in_eval: Trace, in_train: Trace, result: TrainingOnly, left: LeftOff
) -> None:
    """Find what only training mode draws, and wake the modules that may be; what has been tried is not tried again."""
    calls: dict[str, list[str]] = {}
    for name, seen in in_train.seen.items():
        if name not in in_eval.seen and seen.call.p > 0 and not left.takes(name):
            calls.setdefault(path_of(name), []).append(name)
    known = {*in_eval.draws, *in_eval.hosts}
    draws: dict[str, list[Draw]] = {}
    for draw in (*in_train.draws, *in_train.hosts):
        if draw not in known:
            draws.setdefault(draw.path, []).append(draw)
    harmless: bool | None = None  # whether what cannot be given masks has no effect: asked when there is such
    for path in dict.fromkeys((*calls, *draws)):
        if path in result.tried:
            continue
        result.tried.add(path)
        if path not in calls and _all_left(draws[path], left):
            continue
        reason = _try_path(model, given, in_eval, path, calls.get(path, []), draws.get(path, []), result)
        if reason is None:
            continue
        if path not in calls:
            harmless = without_effect(model, given, in_train) if harmless is None else harmless
            if harmless:
                continue
        named: list[tuple[tuple[str, ...], str, float]] = [
            ((name,), in_train.seen[name].call.kind, in_train.seen[name].call.p) for name in calls.get(path, [])
        ]
        named += [(draw.names, draw.op, math.nan) for draw in dict.fromkeys(draws.get(path, []))]
        for names, kind, p in named:
            name = names[0]
            if left.takes(*names):
                continue
            result.refused.append(DropoutSite(name, kind, p, (), 0, controllable=False, reason=reason))


def _all_left(draws: list[Draw], left: LeftOff) -> bool:
    """Whether all of these draws are left off. Some may be sites, each with a number of its own in its name."""
    made: Counter[str] = Counter()
    names = []
    for draw in draws:
        made[draw.name] += 1
        number = "" if made[draw.name] == 1 else f"#{made[draw.name]}"
        names.append((draw.name + number, *draw.names[1:]))
    return all(left.takes(*each) for each in names)


def _try_path(
    model: nn.Module,
    given: Inputs,
    in_eval: Trace,
    path: str,
    calls: list[str],
    draws: list[Draw],
    result: TrainingOnly,
) -> str | None:
    """Wake one module alone; accept it, or say why not."""
    if any(draw.scripted for draw in draws):
        return "it is TorchScript, whose dropout cannot be reached from outside; pass the module it was made from"
    path = _who_decides(model, given, path, calls)
    awake = frozenset((path,))
    try:
        with borrowed(model):
            trial = trace(model, given, train=False, wake=awake)
    except Exception as error:
        return f"it fails with only its own training flag set ({type(error).__name__}: {error}); {WAY_ON}"
    new = {name: seen for name, seen in trial.seen.items() if name not in in_eval.seen}
    uniform = [name for name, seen in new.items() if seen.call.kind == "uniform"]
    stray = [draw for draw in (*trial.draws, *trial.hosts) if draw not in (*in_eval.draws, *in_eval.hosts)]
    refusal = next((seen.call.refusal for seen in new.values() if seen.call.refusal), None)
    if stray:
        return _unknown_draw(stray[0])
    if refusal is not None:
        return refusal
    if not new:
        return f"it is called in training mode only; {WAY_ON}"
    if uniform:
        try:
            found = find_thresholds(model, given, path, uniform)
        except Exception as error:
            return f"it fails with only its own training flag set ({type(error).__name__}: {error}); {WAY_ON}"
        if isinstance(found, str):
            return found
        if not found and len(uniform) == len(new):
            return None  # what it draws has no effect
        result.thresholds |= found
    elif not (alike(trial.tensors(), in_eval.tensors()) and same_at_each_call(model, given, path)):
        return f"it behaves differently in training mode even where nothing is dropped, so it cannot be woken; {WAY_ON}"
    result.awake |= awake
    result.owners |= dict.fromkeys(new, path)
    return None


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
    of = f" for {draw.values[0]}" if draw.values else ""
    return f"it calls {draw.op}{of} in training mode, which is not known as dropout; {WAY_ON}"
