"""What every command shares: where its output goes, and how it speaks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["JsonOption", "check_outputs", "check_seed", "console", "say", "write_json"]

JsonOption = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write every number here; - = stdout.")]


def check_seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"--seed must lie in 0 … 2**64 - 1, got {seed}")
    return seed


def check_outputs(out: str | None, json_file: str | None) -> None:
    """Refuse paths that cannot be written, before any long work."""
    from allmasks.files import check_writable

    targets = [(option, path) for option, path in (("--out", out), ("--json", json_file)) if path and path != "-"]
    if out == "-":
        raise ValueError("--out must be a file name: a report is not for the terminal")
    for option, path in targets:
        check_writable(path, option)
    if len({Path(path).resolve() for _, path in targets}) < len(targets):
        raise ValueError(f"--out and --json name the same file {out}: give two")


def console() -> Console:
    from rich.console import Console

    # Redirected output has no width of its own; tables then take what they need.
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def write_json(values: dict[str, Any], path: str | None) -> None:
    if path is None:
        return
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from allmasks.files import write_text

    write_text(path, text)
    say(f"wrote {path}")


def say(text: str) -> None:
    """What happens, on stderr, so that stdout carries the result alone."""
    typer.echo(text, err=True)
