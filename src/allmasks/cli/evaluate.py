"""`allmasks evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from allmasks.cli.common import (
    JsonOption,
    check_language,
    check_outputs,
    check_seed,
    console,
    output_of_models,
    say,
    translator,
    write_results,
)

if TYPE_CHECKING:
    from torch import nn

    from allmasks.evaluation import Evaluation

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FACTORY", help="A function that returns the nn.Module. Default: a demo on digits."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Its state dict: .safetensors, .pt or .pth.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="Test data with X and y, as for `allmasks audit --data`.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Held-out data beside --test: calibration and conformal sets are fitted to them."
        ),
    ] = None,
    ood: Annotated[str | None, typer.Option(metavar="FILE", help="Data from outside the distribution.")] = None,
    task: Annotated[
        str | None, typer.Option(help="regression, binary or multiclass. Default: what fits the output.")
    ] = None,
    noise_precision: Annotated[
        float | None, typer.Option(help="τ of a regression: y has variance 1/τ. Default: fitted.")
    ] = None,
    masks: Annotated[int | None, typer.Option(help="Masks an example, where they must be sampled.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time; changes memory, not the answer.")] = None,
    level: Annotated[float, typer.Option(help="Level of intervals and conformal sets.")] = 0.9,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
) -> None:
    """Ask whether the uncertainty is any good.

    Metrics of the mean over all masks and of eval mode, each with its error over masks and over data."""
    _ = translator(lang)
    check_language(lang)
    check_seed(seed, lang)
    if masks is not None and masks < 1:
        raise ValueError(_("--masks must be at least 1, got {given}").format(given=masks))
    if batch_size is not None and batch_size < 1:
        raise ValueError(_("--batch-size must be at least 1, got {given}").format(given=batch_size))
    if not 0 < level < 1:
        raise ValueError(_("--level must lie between 0 and 1, got {given}").format(given=level))
    told = _("{option} needs --model FILE.py:FACTORY beside it")
    for option, given in (("--weights", weights), ("--test", test), ("--data", data), ("--ood", ood)):
        if given and model is None:
            raise ValueError(told.format(option=option))
    if model is not None and test is None and data is None:
        raise ValueError(_("--model needs --test FILE beside it: .npz with X and y, .csv or .parquet"))
    check_outputs(out, json_file, lang)
    how: dict[str, Any] = {"task": task, "n_masks": masks, "seed": seed, "batch_size": batch_size}
    how["noise_precision"] = noise_precision
    with output_of_models():
        net, parts = _model_and_data(model, weights, {"--test": test, "--data": data, "--ood": ood}, _)
        from allmasks.evaluation import evaluate as run

        x, y = parts["--test"] if "--test" in parts else parts["--data"]
        outside = parts["--ood"][0] if "--ood" in parts else None
        found = run(net, x, y, ood=outside, level=level, **how)
        after = _afterwards(net, parts, found, how) if {"--test", "--data"} <= parts.keys() else None
    _tell(found, after, out, json_file, lang)


def _model_and_data(
    model: str | None, weights: str | None, files: dict[str, str | None], _: Callable[[str], str]
) -> tuple[nn.Module, dict[str, Any]]:
    if model is None:
        from allmasks.demo import demo

        told = _(
            "no --model: a small ReLU net with three dropout sites, trained on scikit-learn's digits, and the 360 held "
            "out"
        )
        say(told)
        net, examples = demo()
        return net, {"--test": examples}
    from allmasks.inputs import as_taken, load_data, load_model, load_weights

    # Data before the model: its mistakes are the more common ones, and cost less to find.
    read = {option: load_data(path, option) for option, path in files.items() if path is not None}
    net = load_model(model)
    seen_through = load_weights(net, weights) if weights is not None else None
    if seen_through:
        say(seen_through)
    return net, {option: (as_taken(net, x, option)[0], y) for option, (x, y) in read.items()}


def _afterwards(net: nn.Module, parts: dict[str, Any], found: Evaluation, how: dict[str, Any]) -> dict[str, Any]:
    """What calibration and conformal sets from the held-out data do on the test data."""
    import torch

    from allmasks.evaluation.conformal import conformal
    from allmasks.evaluation.recalibration import calibrate
    from allmasks.evaluation.settle import checked_targets
    from allmasks.prediction import predict

    noise = found.noise_precision
    named = {name: value for name, value in how.items() if name != "noise_precision"}
    held, new = (predict(net, parts[name][0], **named, noise_precision=noise) for name in ("--data", "--test"))
    y_held, y_new = parts["--data"][1], checked_targets(new, parts["--test"][1])
    calibration = calibrate(held, y_held)
    sets = conformal(held, y_held, level=found.level)
    if found.task == "regression":
        low, high = sets.intervals(new)
        inside, size = (y_new >= low) & (y_new <= high), high - low
    else:
        members = sets.sets(new)
        inside = members[torch.arange(len(members)), y_new.reshape(-1).long()]
        size = members.sum(dim=1)
    share = float(inside.double().mean())
    return {
        "calibration": calibration.to_dict(),
        "coverage": share,
        "coverage_error": (share * (1 - share) / inside.numel()) ** 0.5,
        "size": float(size.double().mean()),
    }


def _tell(found: Evaluation, after: dict[str, Any] | None, out: str | None, json_file: str | None, lang: str) -> None:
    from allmasks.report import show
    from allmasks.results import with_error

    _ = translator(lang)
    if json_file != "-":
        show(found, console(), lang=lang)
        if after is not None:
            gain = after["calibration"]
            told = _("calibration on --data ({method}): gain {gain} nats")
            typer.echo(told.format(method=gain["method"], gain=with_error(gain["gain"], gain["gain_error"])))
            told = _("conformal at {level:g}: coverage {coverage} on --test, mean size {size:.3g}")
            coverage = with_error(after["coverage"], after["coverage_error"])
            typer.echo(told.format(level=found.level, coverage=coverage, size=after["size"]))
    write_results(found, found.to_dict() | ({} if after is None else {"afterwards": after}), out, json_file, lang)
