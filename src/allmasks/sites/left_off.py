"""Randomness of training that is named and deliberately left off: it stays as in eval mode, and results say so."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import nn

from allmasks.results import Note
from allmasks.sites.naming import ROOT, parent_of, path_of
from allmasks.sites.site import DropoutSite

__all__ = ["WAY_ON", "WAY_ON_IN_EVAL_MODE", "LeftOff", "by_reason", "patterns_of", "with_way_on"]

WAY_ON = (
    "register the function or module that draws with am.register_dropout, or leave it off by its name, "
    "leave_off=(...): see how-to/my-model-was-refused in the documentation"
)
"""How whoever is refused goes on."""

WAY_ON_IN_EVAL_MODE = (
    "register them with am.register_dropout, off=True where they are no dropout: see how-to/my-model-was-refused in "
    "the documentation"
)
"""The same where it is eval mode that draws."""


def with_way_on(site: DropoutSite) -> DropoutSite:
    """The site, whose refusal says how to go on."""
    if site.controllable or WAY_ON in str(site.reason):
        return site
    return replace(site, reason=f"{site.reason}; {WAY_ON}")


def by_reason(refused: Iterable[DropoutSite]) -> str:
    """Sites that cannot be given masks, those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for site in refused:
        reasons.setdefault(str(site.reason), []).append(site.name)
    parts = []
    for reason, names in reasons.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts.append(f"{', '.join(names[:_NAMED])}{more} ({reason})")
    return "; ".join(parts)


_NAMED = 8
"""Names that a note spells out."""


def patterns_of(leave_off: str | Sequence[str]) -> tuple[str, ...]:
    """What `leave_off` was given, as a tuple of patterns.

    >>> patterns_of("encoder.*"), patterns_of(["a", "b:rand"])
    (('encoder.*',), ('a', 'b:rand'))

    Raises
    ------
    TypeError : if it is no string and no sequence of strings.
    ValueError : if one of them is empty.
    """
    given = (leave_off,) if isinstance(leave_off, str) else leave_off
    patterns = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            'leave_off must be names of sites or modules, such as leave_off=("encoder.layerdrop", "*:rand"), got '
            f"{leave_off!r}"
        )
    if not all(patterns):
        raise ValueError("leave_off holds an empty name; a pattern must match the name of a site or of a module")
    return patterns


class LeftOff:
    """Asked of each name that a look at a model meets: is this left off? It remembers what was.

    A pattern, as `fnmatch` has them, is held against the name as it is printed, against it without the package of a
    function ("numpy.random.rand"), and against the path of the module and of each module around it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._met: dict[str, set[str]] = {pattern: set() for pattern in patterns}
        self.names: dict[str, None] = {}

    def takes(self, name: str, *others: str, random: bool = True) -> bool:
        """Whether this is left off, by its name or another; `random`: whether it draws, and so is worth a word."""
        path, _, op = name.partition(":") if ":" in name else (path_of(name), "", "")
        forms = {name, path, f"{path}:{op.rpartition('.')[2]}" if op else name, *others}
        around: str | None = path
        while around is not None and (around != ROOT or path == ROOT):
            forms.add(around)
            around = parent_of(around)
        found = False
        for pattern in self.patterns:
            if any(fnmatch.fnmatchcase(form, pattern) for form in forms):
                self._met[pattern].add(name)
                found = True
        if found and random:
            self.names[name] = None
        return found

    def check(self, model: nn.Module, met: Iterable[str]) -> None:
        """Raise ValueError if a pattern is the name of nothing: what it was meant for would be averaged over.

        Parameters
        ----------
        met : names of the random calls that there are, for the message.
        """
        paths = [path or ROOT for path, _ in model.named_modules()]
        for pattern, names in self._met.items():
            if not names and not fnmatch.filter(paths, pattern):
                there = ", ".join(list(dict.fromkeys(met))[:12]) or "none at all"
                raise ValueError(
                    f"leave_off names {pattern!r}, which matches no dropout site, no random call and no module of "
                    f"this model; it has {there}"
                )

    def notes(self) -> list[str]:
        """What every result says of it."""
        if not self.names:
            return []
        names = list(self.names)
        shown = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            return [
                Note(
                    "Left off, as leave_off asks, and so as in eval mode: {names} and {more} more.",
                    names=shown,
                    more=len(names) - _NAMED,
                )
            ]
        return [Note("Left off, as leave_off asks, and so as in eval mode: {names}.", names=shown)]
