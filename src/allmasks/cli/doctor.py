"""`allmasks doctor`."""

from __future__ import annotations

import typer

from allmasks.cli.common import JsonOption, check_outputs, say, write_json

__all__ = ["doctor"]


def doctor(json_file: JsonOption = None) -> None:
    """Show versions and run a self check."""
    check_outputs(None, json_file)
    from allmasks.doctor import doctor as examine

    found = examine(say)
    if json_file != "-":
        lines = found.lines()
        width = max(len(label) for label, _ in lines)
        for label, text in lines:
            typer.echo(f"{label:<{width}}  {text}")
    write_json(found.to_dict(), json_file)
    if not found.healthy:
        raise typer.Exit(1)
