"""`allmasks sites`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allmasks.cli.common import (
    JsonOption,
    LeaveOffOption,
    check_outputs,
    clean,
    console,
    output_of_models,
    say,
    write_json,
)

if TYPE_CHECKING:
    from torch import nn

    from allmasks.inputs.data_files import Inputs

__all__ = ["sites"]


def sites(
    model: Annotated[str, typer.Option(metavar="FILE.py:FACTORY", help="A function that returns the nn.Module.")],
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Its first rows are the example input.")] = None,
    shape: Annotated[str | None, typer.Option(help="Or the shape of one example, such as 3,32,32.")] = None,
    leave_off: LeaveOffOption = None,
    write: Annotated[str | None, typer.Option(metavar="FILE.toml", help="Write down the sites as those meant.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="Compare with what is meant: exit code 1 if it differs.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """List every dropout site of a model.

    Found by running it once, so that those are met which are easily missed."""
    check_outputs(None, json_file)
    if data is not None and shape is not None:
        raise ValueError("--data and --shape exclude each other: give one")
    if write is not None and expect is not None:
        raise ValueError(
            "--write and --expect exclude each other: write the file once, and compare with it from then on"
        )
    meant: Any = None
    if write is not None:
        from allmasks.files import check_writable

        check_writable(write, "--write")
    if expect is not None:
        from allmasks.verification.meant import read_meant

        meant = read_meant(expect)
    from allmasks.inputs import load_model

    with output_of_models():
        net = load_model(model)
        x = _example_input(net, data, shape)
        from allmasks.results import plain_numbers
        from allmasks.sites import inspect_model

        args = x if isinstance(x, tuple) else () if isinstance(x, dict) else (x,)
        named: dict[str, Any] = x if isinstance(x, dict) else {}
        seen = inspect_model(net, args, named, leave_off=leave_off or ())
        found = seen.sites
    if json_file != "-":
        _show_sites(found)
        for note in seen.notes:
            say(note)
    rows = [plain_numbers(site) | dict(zip(_MODES, _modes(site), strict=True)) for site in found]
    wrong = [] if meant is None else _against(net, found, meant)
    told = {} if meant is None else {"ok": not wrong, "findings": wrong}
    write_json({"sites": rows, "notes": list(seen.notes)} | told, json_file)
    if write is not None:
        from allmasks.files import write_text
        from allmasks.verification.meant import written

        write_text(write, written(found))
        say(f"wrote {write}")
    for finding in wrong:
        say(f"{finding['fault']}: {finding['sentence']}")
    if wrong:
        raise typer.Exit(1)
    if meant is not None:
        say(f"the dropout sites are those of {expect}")


def _against(net: nn.Module, found: Sequence[Any], meant: Any) -> list[dict[str, Any]]:
    """What differs from the expectation."""
    from allmasks.verification.meant import against_meant

    return [
        {
            "site": trial.site,
            "property": trial.property,
            "expected": trial.expected,
            "seen": trial.seen,
            "fault": trial.fault,
            "sentence": str(trial.sentence),
        }
        for trial in against_meant(net, found, meant)
        if trial.p_value == 0
    ]


def _example_input(net: nn.Module, data: str | None, shape: str | None) -> Inputs:
    """Two example rows: from the data, of the given shape, or as wide as the model's first Linear layer."""
    import torch
    from torch import nn

    from allmasks.inputs import as_taken, first_rows, load_data

    if data is not None:
        return as_taken(net, first_rows(load_data(data)[0], 2))[0]
    if shape is not None:
        try:
            sizes = [int(n) for n in shape.replace(",", " ").split()]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1:
            raise ValueError(f"--shape must be the axes of one example, such as 64 or 3,32,32, got {shape!r}")
        return torch.zeros(2, *sizes)
    first = next((m for m in net.modules() if any(True for _ in m.parameters(recurse=False))), None)
    if not isinstance(first, nn.Linear):
        raise ValueError("the model must run once to find its sites: give --data FILE, or --shape such as 3,32,32")
    say(f"example input: zeros of shape (2, {first.in_features}), from the first Linear layer; --data gives real rows")
    return torch.zeros(2, first.in_features)


_MODES = ("acts_in_train", "acts_in_eval", "missed_by_others")

_FUSED = ("attention", "lstm", "gru", "rnn_tanh", "rnn_relu")


def _modes(site: Any) -> tuple[bool, bool, str | None]:
    """Whether a site drops in train and in eval mode; why tools that switch `nn.Dropout` modules on would miss it."""
    _, colon, op = str(site.name).partition("#")[0].partition(":")
    why = None
    if site.kind in _FUSED:
        why = "it is inside one fused call, under the flag of a module that is no nn.Dropout"
    elif site.wakes is not None:
        why = f"it is not even called in eval mode; {site.wakes} decides by its own training flag"
    elif not site.controllable and site.shape == ():
        why = "it only happens in training mode"
    elif colon:
        why = f"it is a call of {op}, under its module's flag, and no nn.Dropout module"
    return site.p != 0, site.always_on, why


def _show_sites(found: Sequence[Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not found:
        typer.echo("no dropout site was met: this model draws no mask")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("site", "kind", "p", "shape", "units", "keeps the mean", "train", "eval", "controllable")
    for column in columns:
        table.add_column(column, justify="right" if column in ("p", "units") else "left")
    missed = []
    for site in found:
        in_train, in_eval, why = _modes(site)
        if why is not None:
            missed.append((site.name, why))
        table.add_row(
            Text(clean(str(site.name))),
            Text(clean(str(site.kind))),
            f"{site.p:g}",
            "×".join(str(n) for n in site.shape) if site.shape else "-",
            str(site.units),
            "yes" if site.mean_preserving else "no",
            "on" if in_train else "off",
            "on" if in_eval else "off",
            Text("yes" if site.controllable else clean(f"no: {site.reason}")),
        )
    console().print(table)
    if missed:
        typer.echo("Missed by tools that switch nn.Dropout modules to training mode:")
        for name, why in missed:
            typer.echo(clean(f"  {name}: {why}"))
