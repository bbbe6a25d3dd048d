"""`allmasks explain TOPIC`: the worked examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from allmasks.cli.common import (
    JsonOption,
    check_language,
    check_outputs,
    check_seed,
    console,
    say,
    translator,
    write_json,
)

__all__ = ["explain_app", "gather_numbers"]

explain_app = typer.Typer(help="Worked examples, shown beside full enumeration.", no_args_is_help=True)

HtmlOption = Annotated[
    str | None,
    typer.Option("--out", "--html", metavar="FILE", help="Write it with its pictures here, as one HTML file."),
]
LangOption = Annotated[str, typer.Option("--lang", help="Language of the text: en or ko.")]
PText = Annotated[str, typer.Option("--p", help="Drop rate, or one for each unit: 0.5 or 0.5,0.2,0.1.")]


@explain_app.command("moments")
def explain_moments(
    h: Annotated[list[str] | None, typer.Argument(metavar="NUMBERS…", help="Activations h. Default: 2 -1 3.")] = None,
    p: PText = "0.5",
    out: HtmlOption = None,
    json_file: JsonOption = None,
    lang: LangOption = "en",
) -> None:
    """Mean and variance of inverted dropout.

    Example: allmasks explain moments --p 0.5 2 -1 3"""
    _explain("moments", out, json_file, lang, h=_vector(h, "the numbers"), p=_rates(p))


@explain_app.command("scaling")
def explain_scaling(
    h: Annotated[list[str] | None, typer.Argument(metavar="NUMBERS…", help="Activations h. Default: 2 -1 3.")] = None,
    p: PText = "0.5",
    out: HtmlOption = None,
    json_file: JsonOption = None,
    lang: LangOption = "en",
) -> None:
    """Train and inference, inverted against classic.

    Example: allmasks explain scaling --p 0.5 2 -1 3"""
    _explain("scaling", out, json_file, lang, h=_vector(h, "the numbers"), p=_rates(p))


@explain_app.command("ridge")
def explain_ridge(
    p: PText = "0.5",
    w: Annotated[str | None, typer.Option(metavar="NUMBERS…", help="Weights. Default: 1 -1 2.")] = None,
    x: Annotated[str | None, typer.Option(metavar="NUMBERS…", help="Inputs. Default: 1 2 -1.")] = None,
    y: Annotated[float, typer.Option(help="Target.")] = 0.0,
    out: HtmlOption = None,
    json_file: JsonOption = None,
    lang: LangOption = "en",
) -> None:
    """Dropout in linear regression is ridge.

    Example: allmasks explain ridge --p 0.5 --w 1 -1 2 --x 1 2 -1 --y 0"""
    _explain("ridge", out, json_file, lang, w=_vector(w, "--w"), x=_vector(x, "--x"), y=y, p=_rates(p))


@explain_app.command("montecarlo")
def explain_montecarlo(
    d: Annotated[int, typer.Option(help="Inputs that are dropped: 2**d masks.")] = 100,
    p: PText = "0.5",
    loss: Annotated[str, typer.Option(help="logistic or squared_error.")] = "logistic",
    replicates: Annotated[int, typer.Option(help="Independent runs behind the observed error.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed draws the same masks.")] = 0,
    out: HtmlOption = None,
    json_file: JsonOption = None,
    lang: LangOption = "en",
) -> None:
    """K random masks against all 2^d of them.

    The mean over K = 1 … 4096 masks beside the exact mean, and the survey it is like."""
    _explain(
        "montecarlo",
        out,
        json_file,
        lang,
        n_features=d,
        p=_one_rate(p),
        loss=loss,
        replicates=replicates,
        seed=check_seed(seed, lang),
    )


@explain_app.command("ensemble")
def explain_ensemble(
    p: PText = "0.5",
    x: Annotated[str | None, typer.Option(metavar="3 NUMBERS", help="The input. Default: 1 2 -1.")] = None,
    y: Annotated[float, typer.Option(help="Target of the squared loss.")] = 1.0,
    out: HtmlOption = None,
    json_file: JsonOption = None,
    lang: LangOption = "en",
) -> None:
    """All thinned networks of a small net.

    Their average, the weight-scaling answer, and the gap between them."""
    _explain("ensemble", out, json_file, lang, x=_vector(x, "--x"), y=y, p=_one_rate(p))


def _explain(topic: str, out: str | None, json_file: str | None, lang: str, **arguments: Any) -> None:
    check_language(lang)
    check_outputs(out, json_file, lang)
    from allmasks.explain import TOPICS

    result = TOPICS[topic](**{k: v for k, v in arguments.items() if v is not None})
    if json_file != "-":
        result.page(lang).show(console())
    if out is not None:
        result.to_html(out, lang)
        _ = translator(lang)
        say(_("wrote {path}").format(path=out))
    write_json({"topic": topic} | result.to_dict(), json_file, lang)


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
