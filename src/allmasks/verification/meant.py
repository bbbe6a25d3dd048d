"""What is meant: the dropout sites that a model should have, as a mapping or a TOML file, with patterns."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from allmasks.results import Note
from allmasks.sites import DropoutSite
from allmasks.sites.draws import DRAWN
from allmasks.sites.naming import path_of
from allmasks.verification.trial import Trial

__all__ = ["SHARING", "Meant", "against_meant", "fitting", "rate_trial", "read_meant", "sharing_of", "written"]

SHARING = ("element", "time", "channel", "row", "batch")
"""A bit for each element; one over time, for each unit; one a channel; one an example; one for all examples."""

_TOLERANCE = 1e-6
"""Rates that a model computes in float32 are not those of its configuration to the last digit."""


@dataclass(frozen=True)
class Meant:
    """What is expected of the sites whose names fit a pattern; None where nothing is said."""

    p: float | None = None
    kind: str | None = None
    sharing: str | None = None


def sharing_of(site: DropoutSite) -> str:
    """Which elements share a bit, read off the shape of one example's mask.

    >>> sharing_of(DropoutSite("a", "dropout", 0.1, (3, 8), 24))
    'element'
    >>> sharing_of(DropoutSite("a", "dropout2d", 0.1, (3, 1, 1), 3))
    'channel'
    """
    shape = site.shape
    if site.batch_dim is None:
        return "batch"
    if site.units == 1:
        return "row"
    if len(shape) > 1 and shape[-1] == 1:
        return "channel"
    if len(shape) > 1 and 1 in shape[:-1] and site.kind != "attention":
        return "time"
    return "element"


def read_meant(expect: Any) -> dict[str, Meant] | None:
    """The expectation of a mapping {name or pattern: p, or {"p", "kind", "sharing"}} or of a TOML file's table [sites].

    Raises
    ------
    ValueError, TypeError, OSError : what is wrong with it, and where.
    """
    if expect is None:
        return None
    source = "expect"
    if isinstance(expect, str | Path):
        source = str(expect)
        try:
            expect = tomllib.loads(Path(expect).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as problem:
            raise ValueError(f"{source} is no TOML: {problem}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{source} is no text in UTF-8") from None
        if not isinstance(expect.get("sites"), Mapping):
            raise ValueError(f"{source} has no table [sites]; `allmasks sites --write {source}` writes one")
        expect = expect["sites"]
    if not isinstance(expect, Mapping):
        raise TypeError(
            f"expect must be a mapping of sites to p, or the path of a TOML file, got {type(expect).__name__}"
        )
    return {str(name): _meant(source, str(name), value) for name, value in expect.items()}


def _meant(source: str, name: str, value: Any) -> Meant:
    given = dict(value) if isinstance(value, Mapping) else {"p": value}
    unknown = sorted(given.keys() - {"p", "kind", "sharing"})
    if unknown:
        raise ValueError(f"{source}: {name!r} has {', '.join(unknown)}; known are p, kind and sharing")
    p, kind, sharing = given.get("p"), given.get("kind"), given.get("sharing")
    if p is not None:
        if isinstance(p, bool) or not isinstance(p, int | float):
            raise ValueError(f"{source}: p of {name!r} must be a number, got {p!r}")
        if not 0 <= p < 1:
            raise ValueError(f"{source}: p of {name!r} must lie in [0, 1), got {p!r}")
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"{source}: kind of {name!r} must be a string, got {kind!r}")
    if sharing is not None and sharing not in SHARING:
        raise ValueError(f"{source}: sharing of {name!r} must be one of {', '.join(SHARING)}, got {sharing!r}")
    return Meant(None if p is None else float(p), kind, sharing)


def written(sites: Sequence[DropoutSite]) -> str:
    """The sites as a TOML file that `read_meant` reads back."""
    lines = [
        "# The dropout sites that this model is meant to have. Written by allmasks; edit it where more is meant.",
        '# Names may hold the patterns * and ?; p, kind and sharing may be left out: "name" = 0.1 gives p alone.',
        "[sites]",
    ]
    for site in sites:
        lines += ["", f"[sites.{_quoted(site.name)}]"]
        if not math.isnan(site.p):
            lines.append(f"p = {float(f'{site.p:.7g}')!r}")
        lines += [f"kind = {_quoted(site.kind)}", f"sharing = {_quoted(sharing_of(site))}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")


def fitting(patterns: Sequence[str], name: str) -> str | None:
    """The pattern that a site's name fits: its own name before its module's path before patterns."""
    if name in patterns:
        return name
    if path_of(name) in patterns and "#" not in name:
        return path_of(name)
    for pattern in patterns:
        plain = pattern.replace("[", "[[]")  # brackets are part of a name
        if ("*" in pattern or "?" in pattern) and (fnmatchcase(name, plain) or fnmatchcase(path_of(name), plain)):
            return pattern
    return None


def against_meant(model: nn.Module, sites: Sequence[DropoutSite], meant: Mapping[str, Meant]) -> list[Trial]:
    """What the model's sites are against what is meant: no chance in it."""
    patterns = list(meant)
    met: set[str] = set()
    trials = []
    for site in sites:
        pattern = fitting(patterns, site.name)
        if pattern is None:
            if site.p != 0:
                trials.append(_unexpected(site, patterns))
            continue
        met.add(pattern)
        trials += _one(site, meant[pattern])
    for pattern in patterns:
        if pattern not in met and meant[pattern].p != 0:
            trials.append(_missing(model, pattern, meant[pattern]))
    return trials


def _unexpected(site: DropoutSite, patterns: Sequence[str]) -> Trial:
    base = site.name.partition("#")[0]
    told = f"p = {site.p:g}"
    if base != site.name and fitting(patterns, base) is not None:
        sentence = Note(
            "{site} drops although one call of it is expected: dropout acts twice on the same units, or the module is "
            "called once more than is meant.",
            site=site.name,
        )
        return Trial(site.name, "sites", "1 call", told, 0.0, "twice", site.name, sentence)
    sentence = Note(
        "{site} ({kind}, p = {p:.4g}) is not in the expectation: a site was added or renamed; expect it, or take it "
        "out.",
        site=site.name,
        kind=site.kind,
        p=site.p,
    )
    return Trial(site.name, "sites", "no site", told, 0.0, "unexpected_site", site.name, sentence)


def _missing(model: nn.Module, pattern: str, meant: Meant) -> Trial:
    wanted = "a site" if meant.p is None else f"p = {meant.p:g}"
    path = path_of(pattern)
    module = dict(model.named_modules()).get(path)
    if isinstance(module, nn.RNNBase) and module.num_layers == 1:
        sentence = Note(
            "{site} drops nothing: a recurrent layer of torch drops between its layers, and it has one; its dropout "
            "argument "
            "does nothing.",
            site=pattern,
        )
        return Trial(pattern, "sites", wanted, "no mask", 0.0, "never_ran", path, sentence)
    if module is not None and path == pattern:
        sentence = Note(
            "{site} is in the model and drops nothing: it is never called, or its call is another one than expected.",
            site=pattern,
        )
        return Trial(pattern, "sites", wanted, "no mask", 0.0, "never_ran", path, sentence)
    sentence = Note(
        "{site} is expected and the model has no such site: a dropout was lost or renamed, or a fast path without "
        "dropout is "
        "taken.",
        site=pattern,
    )
    return Trial(pattern, "sites", wanted, "no site", 0.0, "missing_site", path, sentence)


def _one(site: DropoutSite, meant: Meant) -> list[Trial]:
    trials = []
    if meant.p is not None and not math.isnan(site.p) and abs(site.p - meant.p) > _TOLERANCE:
        trials.append(rate_trial(site.name, site.name, meant.p, site.p, 0.0, told=True))
    elif meant.p is not None:
        trials.append(Trial.passed(site.name, "rate as expected", f"{meant.p:g}", f"{site.p:g}"))
    told = sharing_of(site)
    one_unit = site.shape == (1,) and site.kind not in DRAWN and meant.sharing in ("row", "element")
    if meant.sharing is not None and site.units > 0 and told != meant.sharing and not one_unit:
        trials.append(_shared(site, meant.sharing, told))
    wrong = any(trial.p_value == 0 for trial in trials)
    if meant.kind is not None and meant.kind != site.kind and site.kind not in DRAWN and not wrong:
        sentence = Note(
            "{site} is of kind {seen} where {expected} is expected.",
            site=site.name,
            seen=site.kind,
            expected=meant.kind,
        )
        trials.append(Trial(site.name, "kind", meant.kind, site.kind, 0.0, "unexpected_site", site.name, sentence))
    return trials


def _shared(site: DropoutSite, wanted: str, told: str) -> Trial:
    pair = {wanted, told}
    fault = "shared_by_examples" if "batch" in pair else "shared_over_time" if "time" in pair else "shared_by_units"
    sentence = Note(
        "{site} shares its bits by {seen} where {expected} is expected.", site=site.name, seen=told, expected=wanted
    )
    return Trial(site.name, "sharing", wanted, told, 0.0, fault, site.name, sentence)


def rate_trial(name: str, where: str, wanted: float, seen: float, p_value: float, *, told: bool = False) -> Trial:
    """A rate beside another, with what that looks like; `told` if it is a call's own and not a share of bits."""
    fields = {"site": name, "expected": wanted, "seen": seen}
    if seen == 0:
        sentence = Note(
            "{site} drops nothing where p = {expected:.4g} is meant: the rate never reached the call, or its "
            "training flag is "
            "off.",
            site=name,
            expected=wanted,
        )
        return Trial(name, "rate", f"{wanted:.4g}", "0", p_value, "off", where, sentence)
    close = 1e-4 if told else 0.02
    if abs(seen - (1 - wanted)) < close and abs(wanted - 0.5) > 0.02:
        sentence = Note(
            "{site} drops {seen:.4g} of its units where {expected:.4g} is meant: p and 1 − p are swapped (a keep "
            "probability "
            "was passed as p, or the reverse).",
            **fields,
        )
    elif abs(seen - (1 - (1 - wanted) ** 2)) < close and abs(seen - wanted) > 0.04:
        sentence = Note(
            "{site} drops {seen:.4g} of its units where {expected:.4g} is meant, which is what two masks one after "
            "the other "
            "do: dropout acts twice.",
            **fields,
        )
        return Trial(name, "rate", f"{wanted:.4g}", f"{seen:.4g}", p_value, "twice", where, sentence)
    else:
        sentence = Note(
            "{site} drops {seen:.4g} of its units where {expected:.4g} is meant: another rate reached the call than "
            "was set, "
            "or its random numbers are too coarse for it.",
            **fields,
        )
    return Trial(name, "rate", f"{wanted:.4g}", f"{seen:.4g}", p_value, "rate", where, sentence)
