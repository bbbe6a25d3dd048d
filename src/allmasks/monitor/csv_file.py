"""A monitor's CSV file: whole after every row, whatever happens between two of them."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from allmasks.files import check_writable, naming, write_text
from allmasks.monitor.reading import LOG, Reading

__all__ = ["CsvFile"]

_FIRST = ["epoch", "guarantee", "n_masks"]
_LONGEST = 1000
"""Characters of a reason: readers of CSV have a limit."""


class CsvFile:
    """A CSV file of readings; its columns are those of the first reading.

    A row that could not be written waits, and is written with the next one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = check_writable(path, "csv")
        self._header: list[str] | None = None
        self._waiting: list[tuple[int, Reading]] = []

    def go_on_from(self, epoch: int) -> None:
        """Keep the rows up to an epoch. A last row that was torn when its writer died is left out, blank ones too.

        Raises
        ------
        ValueError : a file that no monitor wrote; it is left as it is.
        """
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", newline="", errors="replace") as file:
            text = file.read()
        # Read as it was written: a site's name may hold what ends a line.
        whole_lines = io.StringIO(text[: text.rfind("\n") + 1], newline="")
        rows = [row for row in csv.reader(whole_lines) if row]
        if not rows or rows[0][: len(_FIRST)] != _FIRST:
            raise ValueError(f"csv {self.path} is not a monitor's file: give another name, or remove it")
        self._header = rows[0]
        whole = [row for row in rows[1:] if len(row) == len(rows[0]) and row[0].isdecimal() and int(row[0]) <= epoch]
        write_text(self.path, "".join(_line(row) for row in [rows[0], *whole]))

    def add(self, epoch: int, reading: Reading) -> None:
        """Write a reading, after those that wait."""
        self._waiting.append((epoch, reading))
        while self._waiting:
            self._add(*self._waiting[0])
            del self._waiting[0]

    def _add(self, epoch: int, reading: Reading) -> None:
        scalars = reading.scalars(prefix="")
        if self._header is None or not self.path.exists():
            header = self._header or [*_FIRST, *scalars, "reason"]
            write_text(self.path, _line(header))
            self._header = header
        odd = sorted(set(scalars) - set(self._header))
        if odd:
            LOG.warning("csv %s has columns of other dropout sites; without a column: %s", self.path, ", ".join(odd))
        cells = {name: repr(value) for name, value in scalars.items() if math.isfinite(value)}
        cells["reason"] = " ".join((reading.reason or "").split())[:_LONGEST]
        row = [
            epoch,
            reading.guarantee,
            reading.n_masks,
            *(cells.get(name, "") for name in self._header[len(_FIRST) :]),
        ]
        with naming(self.path), self.path.open("a+b") as file:
            _end_whole(file)
            file.write(_line(row).encode())


def _end_whole(file: Any) -> None:
    """Take away a last row that was written in part, when the disk was full."""
    size = file.seek(0, io.SEEK_END)
    back, tail = 2**10, b""
    while len(tail) < size and b"\n" not in tail:  # many sites make long rows
        back = min(size, 8 * back)
        file.seek(size - back)
        tail = file.read(back)
    if not tail.endswith(b"\n"):
        file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _line(row: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()
