"""The command line: strings to objects, and nothing else. Everything heavy is imported when a command runs."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

__all__ = ["app", "gather_numbers", "main"]

INTERRUPTED = 130
LOSSES = ("squared_error", "logistic", "cross_entropy", "poisson")

app = typer.Typer(
    name="allmasks",
    help="What dropout does over all masks: the loss it really minimizes, with its error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
explain_app = typer.Typer(help="Worked examples, shown beside full enumeration.", no_args_is_help=True)
app.add_typer(explain_app, name="explain")

JsonOption = Annotated[str | None, typer.Option("--json", metavar="FILE", help="Write every number here; - = stdout.")]
PText = Annotated[str, typer.Option("--p", help="Drop rate, or one for each unit: 0.5 or 0.5,0.2,0.1.")]


def _version(show: bool) -> None:
    if show:
        from allmasks import __version__

        typer.echo(f"allmasks {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
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
        typer.Option(metavar="FILE", help=".npz with X and y, or .csv or .parquet with a column y or target."),
    ] = None,
    loss: Annotated[str | None, typer.Option(help=f"{', '.join(LOSSES)}. Default: what fits the labels.")] = None,
    masks: Annotated[int | None, typer.Option(help="Masks an example, where they must be sampled.")] = None,
    atol: Annotated[float | None, typer.Option(help="Instead of --masks: the standard error wanted.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    batch_size: Annotated[int | None, typer.Option(help="Examples at a time; changes memory, not the answer.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write a self-contained HTML report.")] = None,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
) -> None:
    """Measure what dropout costs, and which site pays.

    The loss that dropout minimizes and the penalty in it, for your model, or a demo without one."""
    if lang not in ("en", "ko"):
        raise ValueError(f"--lang must be en or ko, got {lang!r}")
    if loss is not None and loss not in LOSSES:
        raise ValueError(f"--loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if masks is not None and atol is not None:
        raise ValueError("--masks and --atol exclude each other: give the number of masks or the error wanted")
    if masks is not None and masks < 1:
        raise ValueError(f"--masks must be at least 1, got {masks}")
    if atol is not None and not (0 < atol < math.inf):
        raise ValueError(f"--atol must be positive, got {atol}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    _check_seed(seed)
    if model is None and (weights or data):
        raise ValueError(f"{'--weights' if weights else '--data'} needs --model FILE.py:FACTORY beside it")
    if model is not None and data is None:
        raise ValueError("--model needs --data FILE beside it: .npz with X and y, .csv or .parquet")
    _check_outputs(out, json_file)

    net, examples = _model_and_data(model, weights, data)
    if loss is None:
        loss = _choose_loss(net, *examples)
        _say(f"loss: {loss} (chosen from the labels; --loss gives another)")
    from allmasks.diagnose import audit as run_audit

    found = run_audit(
        net,
        examples,
        loss,
        n_masks=masks,
        atol=atol,
        seed=seed,
        batch_size=batch_size,
        progress=sys.stdout.isatty() and json_file != "-",
    )
    if json_file != "-":
        from allmasks.report.terminal import show

        show(found, _console(), lang=lang)
    with ExitStack() as files:
        # Both are complete before either appears under its name.
        if out is not None:
            from allmasks.files import atomic_path
            from allmasks.report import write

            write(found, files.enter_context(atomic_path(out)), lang=lang)
        _write_json(found.to_dict(), json_file)
    if out is not None:
        _say(f"wrote {out}")


@app.command()
def sites(
    model: Annotated[str, typer.Option(metavar="FILE.py:FACTORY", help="A function that returns the nn.Module.")],
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Its first rows are the example input.")] = None,
    shape: Annotated[str | None, typer.Option(help="Or the shape of one example, such as 3,32,32.")] = None,
    json_file: JsonOption = None,
) -> None:
    """List every dropout site of a model.

    Found by running it once, so that those are met which are easily missed."""
    _check_outputs(None, json_file)
    if data is not None and shape is not None:
        raise ValueError("--data and --shape exclude each other: give one")
    from allmasks.inputs import load_model

    net = load_model(model)
    x = _example_input(net, data, shape)
    from allmasks.results import plain_numbers
    from allmasks.sites import find_dropout

    found = find_dropout(net, x)
    if json_file != "-":
        _show_sites(found)
    _write_json({"sites": [plain_numbers(site) for site in found]}, json_file)


@app.command()
def doctor(json_file: JsonOption = None) -> None:
    """Show versions and run a self check."""
    _check_outputs(None, json_file)
    from allmasks.doctor import doctor as examine

    found = examine()
    if json_file != "-":
        lines = found.lines()
        width = max(len(label) for label, _ in lines)
        for label, text in lines:
            typer.echo(f"{label:<{width}}  {text}")
    _write_json(found.to_dict(), json_file)
    if not found.healthy:
        raise typer.Exit(1)


@explain_app.command("moments")
def explain_moments(
    h: Annotated[list[str] | None, typer.Argument(metavar="NUMBERS…", help="Activations h. Default: 2 -1 3.")] = None,
    p: PText = "0.5",
    json_file: JsonOption = None,
) -> None:
    """Mean and variance of inverted dropout.

    Example: allmasks explain moments --p 0.5 2 -1 3"""
    _explain("moments", json_file, h=_vector(h, "the numbers"), p=_rates(p))


@explain_app.command("scaling")
def explain_scaling(
    h: Annotated[list[str] | None, typer.Argument(metavar="NUMBERS…", help="Activations h. Default: 2 -1 3.")] = None,
    p: PText = "0.5",
    json_file: JsonOption = None,
) -> None:
    """Train and inference, inverted against classic.

    Example: allmasks explain scaling --p 0.5 2 -1 3"""
    _explain("scaling", json_file, h=_vector(h, "the numbers"), p=_rates(p))


@explain_app.command("ridge")
def explain_ridge(
    p: PText = "0.5",
    w: Annotated[str | None, typer.Option(metavar="NUMBERS…", help="Weights. Default: 1 -1 2.")] = None,
    x: Annotated[str | None, typer.Option(metavar="NUMBERS…", help="Inputs. Default: 1 2 -1.")] = None,
    y: Annotated[float, typer.Option(help="Target.")] = 0.0,
    json_file: JsonOption = None,
) -> None:
    """Dropout in linear regression is ridge.

    Example: allmasks explain ridge --p 0.5 --w 1 -1 2 --x 1 2 -1 --y 0"""
    _explain("ridge", json_file, w=_vector(w, "--w"), x=_vector(x, "--x"), y=y, p=_rates(p))


@explain_app.command("montecarlo")
def explain_montecarlo(
    d: Annotated[int, typer.Option(help="Inputs that are dropped: 2**d masks.")] = 100,
    p: PText = "0.5",
    loss: Annotated[str, typer.Option(help="logistic or squared_error.")] = "logistic",
    replicates: Annotated[int, typer.Option(help="Independent runs behind the observed error.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """K random masks against all 2^d of them.

    The mean over K = 1 … 4096 masks beside the exact mean, and the survey it is like."""
    _explain(
        "montecarlo", json_file, n_features=d, p=_one_rate(p), loss=loss, replicates=replicates, seed=_check_seed(seed)
    )


@explain_app.command("ensemble")
def explain_ensemble(
    p: PText = "0.5",
    x: Annotated[str | None, typer.Option(metavar="3 NUMBERS", help="The input. Default: 1 2 -1.")] = None,
    y: Annotated[float, typer.Option(help="Target of the squared loss.")] = 1.0,
    json_file: JsonOption = None,
) -> None:
    """All thinned networks of a small net.

    Their average, the weight-scaling answer, and the gap between them."""
    _explain("ensemble", json_file, x=_vector(x, "--x"), y=y, p=_one_rate(p))


def _explain(topic: str, json_file: str | None, **arguments: Any) -> None:
    _check_outputs(None, json_file)
    from allmasks.explain import TOPICS

    result = TOPICS[topic](**{k: v for k, v in arguments.items() if v is not None})
    if json_file != "-":
        result.page().show(_console())
    _write_json({"topic": topic} | result.to_dict(), json_file)


def _vector(texts: Sequence[str] | str | None, name: str) -> Any:
    """Numbers as an array, or None for the default where none were given."""
    if not texts:
        return None
    from allmasks.inputs import parse_numbers

    return parse_numbers(texts, name=name)


def _rates(text: str) -> Any:
    values = _vector(text, "--p")
    if values is None or not values.size:
        raise ValueError("--p must be a number in [0, 1), got nothing")
    return float(values[0]) if values.size == 1 else values


def _one_rate(text: str) -> float:
    rate = _rates(text)
    if not isinstance(rate, float):
        raise ValueError(f"--p must be one number here, got {text!r}")
    return rate


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**64:
        raise ValueError(f"--seed must lie in 0 … 2**64 - 1, got {seed}")
    return seed


def _check_outputs(out: str | None, json_file: str | None) -> None:
    """Refuse paths that cannot be written, before any long work."""
    from allmasks.files import check_writable

    targets = [(option, path) for option, path in (("--out", out), ("--json", json_file)) if path and path != "-"]
    if out == "-":
        raise ValueError("--out must be a file name: a report is not for the terminal")
    for option, path in targets:
        check_writable(path, option)
    if len({Path(path).resolve() for _, path in targets}) < len(targets):
        raise ValueError(f"--out and --json name the same file {out}: give two")


def _model_and_data(
    model: str | None, weights: str | None, data: str | None
) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    if model is None:
        from allmasks.demo import demo

        _say("no --model: a small ReLU net with three dropout sites, trained on scikit-learn's digits")
        return demo()
    from allmasks.inputs import load_data, load_model, load_weights

    assert data is not None
    # Data before the model: its mistakes are the more common ones, and cost less to find.
    examples = load_data(data)
    net = load_model(model)
    if weights is not None:
        load_weights(net, weights)
    return net, examples


def _choose_loss(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> str:
    import torch

    from allmasks.inputs import default_loss

    modes = {module: module.training for module in net.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng():
            output = net.eval()(x[:2])
    finally:
        for module, training in modes.items():
            module.training = training
    output = getattr(output, "logits", output)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the model must return a tensor to choose a loss for, it returned {type(output).__name__}")
    return default_loss(output, y)


def _example_input(net: nn.Module, data: str | None, shape: str | None) -> torch.Tensor:
    """Two example rows: from the data, of the given shape, or as wide as the model's first Linear layer."""
    import torch
    from torch import nn

    from allmasks.inputs import load_data

    if data is not None:
        return load_data(data)[0][:2]
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
    _say(f"example input: zeros of shape (2, {first.in_features}), from the first Linear layer; --data gives real rows")
    return torch.zeros(2, first.in_features)


def _show_sites(found: Sequence[Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not found:
        typer.echo("no dropout site was met: this model draws no mask")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("site", "kind", "p", "shape", "units", "keeps the mean", "controllable"):
        table.add_column(column, justify="right" if column in ("p", "units") else "left")
    for site in found:
        table.add_row(
            Text(str(site.name)),
            Text(str(site.kind)),
            f"{site.p:g}",
            "×".join(str(n) for n in site.shape) if site.shape else "-",
            str(site.units),
            "yes" if site.mean_preserving else "no",
            Text("yes" if site.controllable else f"no: {site.reason}"),
        )
    _console().print(table)


def _console() -> Console:
    from rich.console import Console

    # Redirected output has no width of its own; tables then take what they need.
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def _write_json(values: dict[str, Any], path: str | None) -> None:
    if path is None:
        return
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    from allmasks.files import write_text

    write_text(path, text)
    _say(f"wrote {path}")


def _say(text: str) -> None:
    """What happens, on stderr, so that stdout carries the result alone."""
    typer.echo(text, err=True)


def _is_number(token: str) -> bool:
    try:
        float(token.rstrip(","))
    except ValueError:
        return all(_is_number(part) for part in token.split(",")) if "," in token.strip(",") else False
    return True


def gather_numbers(args: Sequence[str]) -> list[str]:
    """Arguments of `explain` in the form the parser knows: several numbers after --w or --x, negative positionals.

    >>> gather_numbers(["explain", "ridge", "--w", "1", "-1", "2", "--y", "-1"])
    ['explain', 'ridge', '--w=1 -1 2', '--y=-1']
    >>> gather_numbers(["explain", "moments", "2", "-1", "--p", "0.5", "3"])
    ['explain', 'moments', '--p=0.5', '--', '2', '-1', '3']
    """
    rest = list(args)
    if not rest or rest[0] != "explain":
        return rest
    words: list[str] = []
    loose: list[str] = []
    while rest:
        token = rest.pop(0)
        if token == "--":
            loose += rest
            break
        if token in ("--w", "--x"):
            values = []
            while rest and _is_number(rest[0]):
                values.append(rest.pop(0))
            words.append(f"{token}={' '.join(values)}" if values else token)
        elif token.startswith("--") and token != "--help" and "=" not in token and rest:
            words.append(f"{token}={rest.pop(0)}")
        elif _is_number(token):
            loose.append(token)
        else:
            words.append(token)
    return words + (["--", *loose] if loose else [])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0 well, 1 a failed self check, 2 a refused request, 130 interrupted."""
    usage_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    try:
        code = app(gather_numbers(sys.argv[1:] if argv is None else argv), standalone_mode=False)
        if code == INTERRUPTED:  # how the parser reports Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted, nothing was written", INTERRUPTED)
    except BrokenPipeError:
        # The reader left (`| head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as problem:
        if isinstance(problem, usage_error):
            if type(problem).__name__ == "NoArgsIsHelpError":
                typer.echo(problem.format_message())  # type: ignore[attr-defined]
                return 2
            return _fail(problem.format_message(), 2)  # type: ignore[attr-defined]
        return _fail(_one_line(problem), 2)


def _one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    # The library's own refusals speak for themselves; anything else says what kind of thing went wrong.
    own = isinstance(problem, (ValueError, TypeError, OSError)) and text
    return text if own else f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _fail(text: str, code: int) -> int:
    if os.environ.get("ALLMASKS_TRACEBACK") == "1":
        traceback.print_exc()
    typer.echo(text if code == INTERRUPTED else f"error: {text}", err=True)
    return code
