"""One test before it is judged: its p-value by itself, and what would be said if it failed."""

from __future__ import annotations

from dataclasses import dataclass

from allmasks.results import Note

__all__ = ["Trial"]


@dataclass(frozen=True)
class Trial:
    """As `Finding`, with the p-value of this test alone."""

    site: str
    property: str
    expected: str
    seen: str
    p_value: float
    fault: str
    where: str
    sentence: Note

    @staticmethod
    def passed(site: str, property: str, expected: str, seen: str) -> Trial:
        """A test without chance that found nothing."""
        return Trial(site, property, expected, seen, 1.0, "", site, Note("nothing was found"))
