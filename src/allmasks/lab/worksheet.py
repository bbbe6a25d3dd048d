"""The questions of all chapters as a sheet to fill in, and what is said of the answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from allmasks.lab import chapters
from allmasks.lab.protocol import Chapter
from allmasks.language import translator

__all__ = ["Checked", "check", "worksheet"]

_LINE = re.compile(r"^\s*(?:Answer|답)\s+(\d+)\s*:[ \t]*(.*?)\s*$", re.M)
_BLANK = re.compile(r"[_\s]*")


def worksheet(lang: str = "en") -> str:
    """Markdown: for every chapter its question and a line for the answer.

    >>> "Answer 1: ____" in worksheet("en"), "답 1: ____" in worksheet("ko")
    (True, True)
    """
    _ = translator(lang)
    head = _("Dropout lab: worksheet")
    how = _("Open `allmasks lab --lang {lang}`, move the controls, and write a number on each line.").format(lang=lang)
    then = _("`allmasks lab --check FILE --lang {lang}` says which answers are right.").format(lang=lang)
    parts = [f"# {head}\n\n{how} {then}\n"]
    for found in chapters():
        title = f"## {found.number}. {found.title[lang]}"
        question = f"{found.asks[lang]}\n\n**{_('Question.')}** {found.question.text[lang]}"
        parts.append(f"{title}\n\n{question}\n\n{_('Answer {number}').format(number=found.number)}: ____\n")
    return "\n".join(parts)


@dataclass(frozen=True)
class Checked:
    """One answer: what was given (None: nothing), whether it is right, and what to do about it."""

    chapter: Chapter
    given: str | None
    right: bool
    sentence: str


def check(text: str, lang: str = "en") -> list[Checked]:
    """What is said of the answers of a filled-in worksheet, chapter by chapter.

    Raises
    ------
    ValueError : the text has no line for an answer: it is no worksheet.
    """
    _ = translator(lang)
    answers = {int(number): answer for number, answer in _LINE.findall(text)}
    if not answers:
        raise ValueError(_("there is no line “Answer 1: …”: write a worksheet with --worksheet FILE first"))
    found = []
    for chapter in chapters():
        if chapter.number not in answers:
            continue
        given = answers[chapter.number]
        where = chapter.question.where[lang]
        if _BLANK.fullmatch(given):
            found.append(Checked(chapter, None, False, _("no answer yet. {where}").format(where=where)))
            continue
        try:
            value = float(given.replace(",", ".").replace("−", "-").replace("%", ""))
        except ValueError:
            found.append(Checked(chapter, given, False, _("{given!r} is no number").format(given=given)))
            continue
        right = abs(value - chapter.question.answer()) <= chapter.question.tolerance + 1e-9
        found.append(
            Checked(chapter, given, right, _("Right.") if right else _("Not yet. {where}").format(where=where))
        )
    return found
