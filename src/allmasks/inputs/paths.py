"""Files that are named on the command line, and the first words about what is wrong with them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["existing", "first_line", "some"]


def existing(path: str | Path, option: str) -> Path:
    """The path of a file that exists and is not empty, or an OSError or ValueError that names the option."""
    file = Path(path)
    if not file.exists():
        raise FileNotFoundError(f"{option} {file}: no such file")
    if not file.is_file():
        raise IsADirectoryError(f"{option} {file} is a folder: give a file")
    if file.stat().st_size == 0:
        raise ValueError(f"{option} {file}: the file is empty")
    return file


def first_line(problem: BaseException) -> str:
    """An exception's type and the first line of its text."""
    text = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {text[0]}" if text else type(problem).__name__


def some(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
