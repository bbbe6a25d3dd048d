"""The languages that allmasks speaks: messages are English, and a catalog beside this file holds the others."""

from __future__ import annotations

import gettext
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import TypeVar

__all__ = ["LANGUAGES", "N_", "Text", "Translate", "translator"]

LANGUAGES = ("en", "ko")
Translate = Callable[[str], str]


Message = TypeVar("Message", bound=str)


@dataclass(frozen=True)
class Text:
    """The same words in both languages, where they stand beside what they are about and not in a catalog."""

    en: str
    ko: str

    def __getitem__(self, lang: str) -> str:
        return self.ko if lang == "ko" else self.en


def N_(message: Message) -> Message:
    """Mark a message for translation where it is looked up later."""
    return message


def translator(lang: str) -> Translate:
    """The function that turns an English message into `lang`.

    Raises
    ------
    ValueError : a language that the catalogs do not hold.

    Examples
    --------
    >>> translator("ko")("penalty")
    '페널티'
    """
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    if lang == "en":
        return str
    with (resources.files(__package__) / "locale" / lang / "LC_MESSAGES" / "allmasks.mo").open("rb") as file:
        catalog = gettext.GNUTranslations(file)
    # gettext keeps the catalog's header under the empty message.
    return lambda message: catalog.gettext(message) if message else ""
