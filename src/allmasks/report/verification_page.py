"""A verification as an HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allmasks.language import translator
from allmasks.report.html import fill
from allmasks.report.text import clean, said
from allmasks.report.verification_terminal import finding_line, headline, summary, tested_rows

if TYPE_CHECKING:
    from allmasks.verification import Verification

__all__ = ["render"]


def render(found: Verification, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    faults = [
        {
            "name": finding.fault,
            "where": clean(finding.where),
            "sentence": said(finding.sentence, _),
            "told": finding_line(finding, _),
        }
        for finding in found.findings
    ]
    return fill(
        "verification.html.j2",
        _,
        lang,
        {},
        model=clean(found.model_name),
        headline=headline(found, _),
        faults=faults,
        rows=tested_rows(found, _),
        summary=summary(found, _),
        notes=[said(note, _) for note in found.notes],
        seconds=f"{found.seconds:.1f}",
    )
