"""How a topic is shown: a title, short lines of text, tables. Plain data, rendered by rich only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from allmasks.results import Result

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Page", "Table", "Topic", "number", "numbers", "rate"]


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


@dataclass
class Page:
    """A title and, in reading order, paragraphs (str) and tables."""

    title: str
    parts: list[str | Table] = field(default_factory=list)

    def say(self, *lines: str) -> Page:
        """Add a paragraph of one or more lines."""
        self.parts.append("\n".join(lines))
        return self

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Page:
        """Add a table."""
        self.parts.append(Table(columns, rows, title))
        return self

    def show(self, console: Console) -> None:
        """Print to a rich console. Nothing in the text is read as markup."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        console.print(Text(self.title, style="bold"))
        for part in self.parts:
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


class Topic(Result):
    """Base of every topic's result."""

    def page(self) -> Page:
        """The result as a page to read."""
        raise NotImplementedError
