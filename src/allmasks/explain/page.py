"""How a topic is shown: a title, short lines of text, tables, pictures. Plain data, rendered only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from allmasks.language import Translate, translator
from allmasks.results import Reported

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Page", "Picture", "Series", "Table", "Topic", "number", "numbers", "rate"]


def number(value: float, digits: int = 6) -> str:
    """A number as people write it.

    >>> number(18.0), number(-1.0), number(1 / 3), number(-0.0)
    ('18', '-1', '0.333333', '0')
    """
    return f"{float(value) + 0.0:.{digits}g}"


def numbers(values: Iterable[float], digits: int = 6) -> str:
    """Several numbers, separated by spaces."""
    return "  ".join(number(v, digits) for v in np.asarray(values, np.float64).ravel())


def rate(values: ArrayLike) -> str:
    """Numbers that are all one as that one, others as `numbers`."""
    found = np.asarray(values, np.float64)
    return number(found[0]) if np.all(found == found[0]) else numbers(found)


@dataclass(frozen=True)
class Table:
    """A table: column heads, rows of text, and optionally a title."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@dataclass(frozen=True)
class Series:
    """Numbers of a picture: bars beside one another, a line or points; `errors` are bars either way."""

    name: str
    kind: Literal["bars", "line", "points"]
    x: Sequence[float | str]
    y: Sequence[float]
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Picture:
    """Series over one horizontal axis; a terminal leaves it out, the numbers are in the tables."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    logarithmic: bool = False


@dataclass
class Page:
    """A title and, in reading order, paragraphs (str), tables and pictures."""

    title: str
    parts: list[str | Table | Picture] = field(default_factory=list)

    def say(self, *lines: str) -> Page:
        """Add a paragraph of one or more lines."""
        self.parts.append("\n".join(lines))
        return self

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Page:
        """Add a table."""
        self.parts.append(Table(columns, rows, title))
        return self

    def draw(self, picture: Picture) -> Page:
        """Add a picture."""
        self.parts.append(picture)
        return self

    def show(self, console: Console) -> None:
        """Print to a rich console. Nothing in the text is read as markup."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        console.print(Text(self.title, style="bold"))
        for part in self.parts:
            if isinstance(part, Picture):
                continue
            console.print()
            if isinstance(part, str):
                console.print(Text(part))
                continue
            table = RichTable(
                title=Text(part.title) if part.title else None,
                title_justify="left",
                box=box.SIMPLE_HEAD,
                pad_edge=False,
            )
            for i, column in enumerate(part.columns):
                table.add_column(Text(column), justify="left" if i == 0 else "right")
            for row in part.rows:
                table.add_row(*(Text(cell) for cell in row))
            console.print(table)


class Topic(Reported):
    """Base of every topic's result."""

    def page(self, lang: str = "en") -> Page:
        """The result as a page to read, "en" or "ko".

        Raises
        ------
        ValueError : a language that the catalogs do not hold.
        """
        return self._page(translator(lang))

    def _page(self, _: Translate) -> Page:
        raise NotImplementedError
