"""A chapter as one HTML page: served, asking its server for answers, or static, with all of its answers inside."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from allmasks.files import write_text
from allmasks.lab import chapters
from allmasks.lab.payload import about, payload
from allmasks.lab.protocol import Answer, Chapter, Settings
from allmasks.language import LANGUAGES, Text, translator
from allmasks.report.html import fill

__all__ = ["LARGEST", "answers", "computed", "file_name", "live_page", "static_page", "write_pages"]

LARGEST = 3_000_000
"""Bytes of a static page: what an e-mail carries."""

Computed = tuple[Settings, list[Answer]]

NAMES = {"en": Text("English", "English"), "ko": Text("한국어", "한국어")}


def file_name(chapter: Chapter, lang: str) -> str:
    """The static page's name: its English one has no language in it."""
    return f"{chapter.number:02d}-{chapter.key}{'' if lang == 'en' else '.' + lang}.html"


def live_page(chapter: Chapter, lang: str) -> str:
    """The page that asks its server."""
    return _page(chapter, lang, lambda other, tongue: f"/{other.key}?lang={tongue}", {}, server=True)


def static_page(chapter: Chapter, lang: str, found: list[Computed] | None = None) -> str:
    """The page with an answer for each stop of its controls inside, compressed; `found`, if they are at hand."""
    told = answers(chapter, lang, found)
    return _page(chapter, lang, file_name, {"answers": packed(told)}, server=False)


def computed(chapter: Chapter) -> list[Computed]:
    """For each combination of stops, the last control's changing fastest: the values, and the answer or, of a training,
    all pictures on the way."""
    found = []
    for values in product(*(control.stops for control in chapter.controls)):
        settings = chapter.settle(dict(zip((control.key for control in chapter.controls), values, strict=True)))
        steps = [step for step in chapter.steps(settings) if isinstance(step, Answer)]
        found.append((settings, steps if chapter.live else steps[-1:]))
    return found


def answers(chapter: Chapter, lang: str, found: list[Computed] | None = None) -> list[Any]:
    """What the page holds of each: an answer, or a list of pictures where training is watched."""
    told = [
        [payload(chapter, step, settings, lang) for step in steps] for settings, steps in found or computed(chapter)
    ]
    return told if chapter.live else [one[0] for one in told]


def packed(value: Any) -> str:
    """JSON, compressed, as text that a script element can hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def write_pages(folder: Path, langs: tuple[str, ...] = LANGUAGES, tell: Callable[[Path], None] | None = None) -> None:
    """Every chapter's static page in each language, each file whole or not there.

    Raises
    ------
    ValueError : a page grew beyond `LARGEST` bytes.
    """
    for chapter in chapters():
        found = computed(chapter)
        for lang in langs:
            text = static_page(chapter, lang, found)
            if len(text.encode()) > LARGEST:
                raise ValueError(f"chapter {chapter.key} takes {len(text.encode())} bytes, more than {LARGEST}")
            path = write_text(folder / file_name(chapter, lang), text)
            if tell is not None:
                tell(path)


def _page(
    chapter: Chapter, lang: str, address: Callable[[Chapter, str], str], content: dict[str, Any], *, server: bool
) -> str:
    _ = translator(lang)
    script = {
        "chapter": about(chapter, lang, static=not server),
        "lang": lang,
        "server": server,
        "words": {
            "gone": _("The lab's server does not answer: start `allmasks lab` again."),
            "copied": _("copied"),
            "right": _("Right."),
            "not_yet": _("Not yet. {where}").format(where=chapter.question.where[lang]),
            "no_number": _("Write a number."),
            "progress": _("{share} % done"),
            "stopped": _("Stopped."),
        },
        "question": {"answer": float(chapter.question.answer()), "tolerance": chapter.question.tolerance},
        **content,
    }
    return fill(
        "lab.html.j2",
        _,
        lang,
        script,
        room="allmasks.lab",
        server=server,
        chapter=chapter,
        contents=[(other.number, other.title[lang], address(other, lang), other is chapter) for other in chapters()],
        other_languages=[
            (tongue, NAMES[tongue][lang], address(chapter, tongue)) for tongue in LANGUAGES if tongue != lang
        ],
        module=chapter.work.__module__,
    )
