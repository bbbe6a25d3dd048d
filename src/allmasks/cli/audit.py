"""`allmasks audit`."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    import torch
    from torch import nn

    from allmasks.diagnose import Audit
    from allmasks.inputs.data_files import Inputs
    from allmasks.ranks.groups import Group

__all__ = ["audit"]

LOSSES = "squared_error, logistic, cross_entropy, poisson"


def audit(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FACTORY", help="A function that returns the nn.Module. Default: a demo on digits."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its state dict: .safetensors, .pt or .pth.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help=".npz, .pt or .safetensors with X (X2 …, or forward's own names) and y; .csv or .parquet with a "
            "column y or target.",
        ),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Instead of --data: the examples that the model was trained on."),
    ] = None,
    val_data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Beside --train-data: validation examples. How much of the gap is dropout?"),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help=f"{LOSSES}, or what torch calls them. Default: what fits the labels.")
    ] = None,
    masks: Annotated[int | None, typer.Option(help="Masks an example, where they must be sampled.")] = None,
    atol: Annotated[float | None, typer.Option(help="Instead of --masks: the standard error wanted.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time; changes memory, not the answer.")] = None,
    leave_off: LeaveOffOption = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    open_report: Annotated[
        bool, typer.Option("--open", help="Show the report in the browser; without --out in a temporary file.")
    ] = False,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
) -> None:
    """Measure what dropout costs, and which site pays.

    The loss that dropout minimizes and the penalty in it, for your model, or a demo without one."""
    from allmasks.cli.ranks import processes
    from allmasks.inputs.loss_choice import named_loss

    _ = translator(lang)
    files = {"--data": data, "--train-data": train_data, "--val-data": val_data}

    def check() -> None:
        check_language(lang)
        if loss is not None:
            named_loss(loss, _)
        _check_numbers(masks, atol, batch_size, _)
        check_seed(seed, lang)
        _check_files(model, {"--weights": weights} | files, _)
        check_outputs(out, json_file, lang)

    how: dict[str, Any] = {"n_masks": masks, "atol": atol, "seed": seed, "batch_size": batch_size}
    how["leave_off"] = leave_off or ()
    with processes(check) as ranks:
        how["progress"] = ranks.rank == 0 and sys.stdout.isatty() and json_file != "-"
        with output_of_models():
            net, parts = ranks.run(lambda: _model_and_data(model, weights, files, ranks.rank == 0, _))
        if ranks.size > 1:
            _use_weights_of_first(ranks, net, _)
        with output_of_models():
            chosen = named_loss(loss, _) if loss else ranks.run(lambda: chosen_loss(net, *parts[0]))
        first, group = ranks.rank == 0, None
        if first and loss is None:
            say(_("loss: {loss} (chosen from the labels; --loss gives another)").format(loss=chosen))
        from allmasks.diagnose import audit as run_audit

        if ranks.size > 1:
            from allmasks.over_masks.shards import shard

            group = "world"
            parts = [ranks.run(partial(shard, part, group)) for part in parts]
        with output_of_models():
            found = run_audit(net, parts[0], chosen, validation=(*parts, None)[1], **how, group=group)
        if first:
            _tell(found, _temporary() if open_report and out is None else out, json_file, lang, open_report)


def _check_numbers(masks: int | None, atol: float | None, batch_size: int | None, _: Callable[[str], str]) -> None:
    if masks is not None and atol is not None:
        raise ValueError(_("--masks and --atol exclude each other: give the number of masks or the error wanted"))
    if masks is not None and masks < 1:
        raise ValueError(_("--masks must be at least 1, got {given}").format(given=masks))
    if atol is not None and not (0 < atol < math.inf):
        raise ValueError(_("--atol must be positive, got {given}").format(given=atol))
    if batch_size is not None and batch_size < 1:
        raise ValueError(_("--batch-size must be at least 1, got {given}").format(given=batch_size))


def _check_files(model: str | None, files: dict[str, str | None], _: Callable[[str], str]) -> None:
    """What belongs together is there together."""
    given = [option for option, file in files.items() if file]
    if model is None and given:
        raise ValueError(_("{option} needs --model FILE.py:FACTORY beside it").format(option=given[0]))
    parts = [option for option in ("--train-data", "--val-data") if files[option]]
    if "--data" in given and parts:
        told = _("--data and {option} exclude each other: --data is one data set, the others are two and their gap")
        raise ValueError(told.format(option=parts[0]))
    if len(parts) == 1:
        (missing,) = {"--train-data", "--val-data"} - set(parts)
        told = _("{option} needs {missing} FILE beside it; to look at one data set alone, give --data FILE")
        raise ValueError(told.format(option=parts[0], missing=missing))
    if model is not None and "--data" not in given and not parts:
        raise ValueError(_("--model needs --data FILE beside it: .npz with X and y, .csv or .parquet"))


def _temporary() -> str:
    """A file that a browser can still read when this process has ended."""
    handle, path = tempfile.mkstemp(prefix="allmasks-", suffix=".html")
    os.close(handle)
    return path


def _use_weights_of_first(ranks: Group, net: nn.Module, _: Callable[[str], str]) -> None:
    from allmasks.ranks.agreement import weights_of_first

    apart = weights_of_first(ranks, net)
    if apart and ranks.rank == 0:
        told = _(
            "the factory made other weights in each process ({number} tensors, {name} first): the first one's are used "
            "in all; seed the factory, or pass --weights"
        )
        say(told.format(number=len(apart), name=apart[0]))


def _tell(found: Audit, out: str | None, json_file: str | None, lang: str, show_it: bool) -> None:
    if json_file != "-":
        from allmasks.report import show

        show(found, console(), lang=lang)
    write_results(found, found.to_dict(), out, json_file, lang)
    if out is not None and show_it and not webbrowser.open(Path(out).resolve().as_uri()):
        _ = translator(lang)
        say(_("no browser was found: open {path} in one").format(path=out))


def _model_and_data(
    model: str | None, weights: str | None, files: dict[str, str | None], speak: bool, _: Callable[[str], str]
) -> tuple[nn.Module, list[tuple[Inputs, torch.Tensor]]]:
    """The model and one data set, or training and validation data."""
    if model is None:
        from allmasks.demo import demo, training_digits

        if speak:
            say(
                _(
                    "no --model: a small ReLU net with three dropout sites, trained on scikit-learn's digits; 360 of "
                    "those it was trained on, and the 360 held out"
                )
            )
        net, held_out = demo()
        return net, [training_digits(), held_out]
    from allmasks.inputs import as_taken, load_data, load_model, load_weights

    # Data before the model: its mistakes are the more common ones, and cost less to find.
    read = {option: load_data(file, option) for option, file in files.items() if file is not None}
    net = load_model(model)
    seen_through = load_weights(net, weights) if weights is not None else None
    if speak and seen_through:
        say(seen_through)
    parts = []
    for option, (x, y) in read.items():
        x, cast = as_taken(net, x, option)
        if speak and cast:
            told = _("{option} {file}: the whole numbers of X were made floats, which is what the model runs on")
            say(told.format(option=option, file=files[option]))
        parts.append((x, y))
    return net, parts
