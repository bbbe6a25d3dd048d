"""`allmasks doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from allmasks.cli.common import JsonOption, check_outputs, say, write_json

__all__ = ["doctor"]


def doctor(
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Print the first mask bits of fixed keys instead, to hold others against.")
    ] = False,
    json_file: JsonOption = None,
) -> None:
    """Show versions and run a self check."""
    check_outputs(None, json_file)
    if vectors:
        from allmasks.kernels.known import known_vectors

        rows = known_vectors()
        if json_file != "-":
            for row in rows:
                typer.echo("  ".join(f"{name}={value}" for name, value in row.items()))
        write_json({"vectors": rows}, json_file)
        return
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
