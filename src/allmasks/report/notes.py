"""What an audit noted, said in the report's language: sentences of other rooms, known here by their pattern."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from allmasks.report.text import N_, Translate, clean

if TYPE_CHECKING:
    from allmasks.diagnose import Audit

__all__ = ["notes", "translated"]

_SENTENCES = (
    N_("The loader shuffles or drops examples; all examples were taken, in the data set's own order."),
    N_(
        "No dropout was found, so E_m[L] is the loss in eval mode. Hand-written dropout is seen once it is registered "
        "with am.register_dropout."
    ),
    N_("{site} ({kind}) does not keep the mean: eval mode is not the loss at its mean mask."),
    N_("{site} drops units in eval mode too; here eval mode means that it is held at its mean mask."),
    N_(
        "The model could not be run in training mode on these inputs ({error}), so dropout that only acts there was "
        "not looked for."
    ),
    N_(
        "In training mode the model draws from {generators}; its output was the same in {n} passes, so this was taken "
        "to have no effect."
    ),
    N_("{site} was not measured unit by unit: {why}."),
    N_("Of {count} sites, the {most} that add most were measured unit by unit; am.diagnose takes any."),
    N_("One mask cannot show an error, so it is nan; draw 2 or more."),
    N_("{k} masks drawn together cannot show an error, so it is nan; draw {more} or more."),
    N_("{k} masks cannot show the loss's tails, so the error is not to be trusted; {more} can."),
    N_("All {k} masks gave the same loss, which proves nothing, so the error is nan; an exact method can tell."),
    N_(
        "Units that are kept or dropped too seldom for {k} masks to show it would change the loss, so the error is not "
        "to be trusted; about {more} masks can, or an exact method."
    ),
    N_(
        "A few of the {k} masks carry the loss, so the error is not to be trusted; about {more} masks can, or an exact "
        "method."
    ),
    N_("{cap} stopped the run at {k} masks; a tolerance takes {more} or more."),
    N_("{tolerance} stopped the run at {k} masks, before {cap}."),
    N_(
        "{cap} stopped the run at {k} masks: {tolerance} takes about {more}, so the error may be larger than asked for."
    ),
    N_("{cap} stopped the run at {k} masks; {tolerance} may take more."),
)
_REASONS = (
    N_("it has {units} units, more than {limit}; call one instrument of am.diagnose at a time"),
    N_("it has a single unit"),
    N_("alpha dropout puts a constant in a dropped unit's place, so a unit is never removed"),
    N_("its examples do not lie along an axis of their own"),
    N_("its units are attention weights, of which every query has its own"),
)


def notes(audit: Audit, _: Translate) -> list[str]:
    """What the audit noted, translated where the sentence is known."""
    return [clean(translated(note, _)) for note in audit.notes]


def translated(sentence: str, _: Translate, among: tuple[str, ...] = _SENTENCES) -> str:
    """The sentence with its names and numbers in another language; as it is where no pattern fits.

    >>> from allmasks.report.text import translator
    >>> translated("drop was not measured unit by unit: it has a single unit.", translator("ko"))
    'drop: 유닛별로 측정하지 않았습니다(유닛이 하나뿐입니다).'
    """
    for message in among:
        match = _pattern(message).fullmatch(sentence)
        if match is not None:
            found = match.groupdict()
            if "why" in found:
                found["why"] = translated(found["why"], _, _REASONS)
            return _(message).format(**found)
    return sentence


@cache
def _pattern(message: str) -> re.Pattern[str]:
    """A message with fields as an expression that finds them again."""
    parts = re.split(r"\{(\w+)\}", message)
    text = "".join(f"(?P<{part}>.+)" if i % 2 else re.escape(part) for i, part in enumerate(parts))
    return re.compile(text, re.DOTALL)
