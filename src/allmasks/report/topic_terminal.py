"""A worked example on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from allmasks.explain import Topic

__all__ = ["show"]


def show(found: Topic, console: Console, lang: str = "en") -> None:
    """Print the example's text and tables.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    found.page(lang).show(console)
