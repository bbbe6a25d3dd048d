"""`allmasks audit`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allmasks.cli.common import (
    JsonOption,
    LeaveOffOption,
    check_language,
    check_outputs,
    check_seed,
    console,
    output_of_models,
    say,
    translator,
    write_json,
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
    loss: Annotated[
        str | None, typer.Option(help=f"{LOSSES}, or what torch calls them. Default: what fits the labels.")
    ] = None,
    masks: Annotated[int | None, typer.Option(help="Masks an example, where they must be sampled.")] = None,
    atol: Annotated[float | None, typer.Option(help="Instead of --masks: the standard error wanted.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time; changes memory, not the answer.")] = None,
    leave_off: LeaveOffOption = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
) -> None:
    """Measure what dropout costs, and which site pays.

    The loss that dropout minimizes and the penalty in it, for your model, or a demo without one."""
    from allmasks.cli.ranks import processes
    from allmasks.inputs.loss_choice import named_loss

    _ = translator(lang)

    def check() -> None:
        check_language(lang)
        if loss is not None:
            named_loss(loss, _)
        if masks is not None and atol is not None:
            raise ValueError(_("--masks and --atol exclude each other: give the number of masks or the error wanted"))
        if masks is not None and masks < 1:
            raise ValueError(_("--masks must be at least 1, got {given}").format(given=masks))
        if atol is not None and not (0 < atol < math.inf):
            raise ValueError(_("--atol must be positive, got {given}").format(given=atol))
        if batch_size is not None and batch_size < 1:
            raise ValueError(_("--batch-size must be at least 1, got {given}").format(given=batch_size))
        check_seed(seed, lang)
        if model is None and (weights or data):
            told = _("{option} needs --model FILE.py:FACTORY beside it")
            raise ValueError(told.format(option="--weights" if weights else "--data"))
        if model is not None and data is None:
            raise ValueError(_("--model needs --data FILE beside it: .npz with X and y, .csv or .parquet"))
        check_outputs(out, json_file, lang)

    how: dict[str, Any] = {"n_masks": masks, "atol": atol, "seed": seed, "batch_size": batch_size}
    how["leave_off"] = leave_off or ()
    with processes(check) as ranks:
        shown = sys.stdout.isatty() and json_file != "-"
        with output_of_models():
            net, examples = ranks.run(lambda: _model_and_data(model, weights, data, ranks.rank == 0, _))
        if ranks.size > 1:
            _use_weights_of_first(ranks, net, _)
        with output_of_models():
            chosen = named_loss(loss, _) if loss else ranks.run(lambda: _choose_loss(net, *examples))
        first, group = ranks.rank == 0, None
        if first and loss is None:
            say(_("loss: {loss} (chosen from the labels; --loss gives another)").format(loss=chosen))
        from allmasks.diagnose import audit as run_audit

        if ranks.size > 1:
            from allmasks.over_masks.shards import shard

            group = "world"
            examples = ranks.run(lambda: shard(examples, group))
        with output_of_models():
            found = run_audit(net, examples, chosen, **how, progress=first and shown, group=group)
        if first:
            _tell(found, out, json_file, lang)


def _use_weights_of_first(ranks: Group, net: nn.Module, _: Callable[[str], str]) -> None:
    from allmasks.ranks.agreement import weights_of_first

    apart = weights_of_first(ranks, net)
    if apart and ranks.rank == 0:
        told = _(
            "the factory made other weights in each process ({number} tensors, {name} first): the first one's are used "
            "in all; seed the factory, or pass --weights"
        )
        say(told.format(number=len(apart), name=apart[0]))


def _tell(found: Audit, out: str | None, json_file: str | None, lang: str) -> None:
    if json_file != "-":
        from allmasks.report import show

        show(found, console(), lang=lang)
    with ExitStack() as files:
        # Both are complete before either appears under its name.
        if out is not None:
            from allmasks.files import atomic_path
            from allmasks.report import write

            write(found, files.enter_context(atomic_path(out)), lang=lang)
        write_json(found.to_dict(), json_file, lang)
    if out is not None:
        _ = translator(lang)
        say(_("wrote {path}").format(path=out))


def _model_and_data(
    model: str | None, weights: str | None, data: str | None, speak: bool, _: Callable[[str], str]
) -> tuple[nn.Module, tuple[Inputs, torch.Tensor]]:
    if model is None:
        from allmasks.demo import demo

        if speak:
            say(_("no --model: a small ReLU net with three dropout sites, trained on scikit-learn's digits"))
        return demo()
    from allmasks.inputs import as_taken, load_data, load_model, load_weights

    assert data is not None
    # Data before the model: its mistakes are the more common ones, and cost less to find.
    x, y = load_data(data)
    net = load_model(model)
    seen_through = load_weights(net, weights) if weights is not None else None
    x, cast = as_taken(net, x)
    if speak and seen_through:
        say(seen_through)
    if speak and cast:
        say(
            _("--data {file}: the whole numbers of X were made floats, which is what the model runs on").format(
                file=data
            )
        )
    return net, (x, y)


def _choose_loss(net: nn.Module, x: Inputs, y: torch.Tensor) -> str:
    import torch

    from allmasks.inputs import default_loss, first_rows, in_eval_mode

    output = in_eval_mode(net, first_rows(x, 2))
    output = getattr(output, "logits", output)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the model must return a tensor to choose a loss for, it returned {type(output).__name__}")
    return default_loss(output, y)
