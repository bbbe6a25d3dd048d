"""`allmasks verify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allmasks.cli.common import (
    JsonOption,
    LeaveOffOption,
    check_language,
    check_outputs,
    check_seed,
    chosen_loss,
    console,
    output_of_models,
    say,
    translator,
    write_results,
)

__all__ = ["verify"]


def verify(
    model: Annotated[str, typer.Option(metavar="FILE.py:FACTORY", help="A function that returns the nn.Module.")],
    data: Annotated[str, typer.Option(metavar="FILE", help="As of audit; one batch of it is enough.")],
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its state dict: .safetensors, .pt or .pth.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="As of audit. Default: what fits the labels.")] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="What is meant; allmasks sites --write makes one.")
    ] = None,
    rows: Annotated[int, typer.Option(help="At most so many of the data's rows are the batch.")] = 64,
    passes: Annotated[
        int | None, typer.Option(help="Training passes. Default: enough to see a rate off by .05.")
    ] = None,
    level: Annotated[float, typer.Option(help="At most so often a right step is called wrong.")] = 1e-6,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    leave_off: LeaveOffOption = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
) -> None:
    """Test whether a model's dropout is what it should be in training.

    Exit code 0 if it is, 1 if not, 2 if it cannot be told."""
    _ = translator(lang)
    check_language(lang)
    check_seed(seed, lang)
    check_outputs(out, json_file, lang)
    if rows < 1:
        raise ValueError(_("--rows must be at least 1, got {given}").format(given=rows))
    from allmasks.verification.meant import read_meant

    meant = read_meant(expect)
    if expect is not None and not meant:
        say(_("{path} expects no site: every dropout is one too many").format(path=expect))
    with output_of_models():
        from allmasks.inputs import as_taken, first_rows, load_data, load_model, load_weights
        from allmasks.inputs.loss_choice import named_loss

        x, y = load_data(data)
        net = load_model(model)
        if weights is not None:
            load_weights(net, weights)
        x, y = as_taken(net, first_rows(x, rows))[0], y[:rows]
        chosen: Any = named_loss(loss, _) if loss else chosen_loss(net, x, y)
    if loss is None:
        say(_("loss: {loss} (chosen from the labels; --loss gives another)").format(loss=chosen))
    from allmasks.verification import verify as run_verify

    how: dict[str, Any] = {"passes": passes, "level": level, "seed": seed, "leave_off": leave_off or ()}
    with output_of_models():
        found = run_verify(net, x, y, chosen, expect=expect, **how)
    if json_file != "-":
        from allmasks.report import show

        show(found, console(), lang=lang)
    write_results(found, found.to_dict(), out, json_file, lang)
    if not found.ok:
        raise typer.Exit(1)
