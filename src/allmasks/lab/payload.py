"""An answer as the page reads it: words in its language, numbers as text beside their values, plain JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allmasks.lab.protocol import Answer, Chapter, Control, Number, Settings
from allmasks.language import Text, Translate, translator
from allmasks.report.text import guarantee_words, number, plus_minus

__all__ = ["about", "payload", "plain"]

DIGITS = 5
"""Significant digits of what is drawn; numbers beside the picture keep all of theirs."""


def plain(value: Any, lang: str) -> Any:
    """A figure's dictionaries and arrays as JSON holds them."""
    if isinstance(value, dict):
        return {k: plain(v, lang) for k, v in value.items()}
    if isinstance(value, Text):
        return value[lang]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), lang)
    if isinstance(value, list | tuple):
        return [plain(v, lang) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.{DIGITS}g}")
        return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded
    return value


def payload(chapter: Chapter, answer: Answer, settings: Settings, lang: str) -> dict[str, Any]:
    """What the page shows of an answer."""
    _ = translator(lang)
    return {
        "figure": plain(answer.figure, lang),
        "numbers": [_number(n, lang, _) for n in answer.numbers],
        "sentence": answer.sentence[lang],
        "code": chapter.code(**settings),
    }


def _number(found: Number, lang: str, _: Translate) -> dict[str, Any]:
    known = found.error is not None
    text = plus_minus(found.value, found.error, _) if found.error is not None else number(found.value, 6)
    kind = guarantee_words(found.guarantee, _) if known and found.guarantee is not None else ""
    value = found.value if math.isfinite(found.value) else None
    return {"key": found.key, "label": found.label[lang], "text": text, "kind": kind, "value": value}


def about(chapter: Chapter, lang: str, *, static: bool) -> dict[str, Any]:
    """The chapter itself, as the page's script reads it."""
    return {
        "key": chapter.key,
        "long": chapter.long,
        "live": chapter.live,
        "controls": [_control(control, lang, static) for control in chapter.controls],
    }


def _control(control: Control, lang: str, static: bool) -> dict[str, Any]:
    values = control.stops if static and control.kind != "pick" else control.values
    return {
        "key": control.key,
        "kind": control.kind,
        "label": control.label[lang],
        "values": list(values),
        "start": list(control.start) if control.kind == "pick" else control.start,
        "names": {} if control.names is None else {k: v[lang] for k, v in control.names.items()},
        "again": "" if control.again is None else control.again[lang],
    }
