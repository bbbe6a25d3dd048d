"""What every command shares: where its output goes, and how it speaks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from torch import nn

    from allmasks.inputs.data_files import Inputs
    from allmasks.results import Reported

__all__ = [
    "Interrupted",
    "JsonOption",
    "LeaveOffOption",
    "check_language",
    "check_outputs",
    "check_seed",
    "chosen_loss",
    "clean",
    "console",
    "output_of_models",
    "say",
    "translator",
    "write_json",
    "write_results",
]

LeaveOffOption = Annotated[
    list[str] | None,
    typer.Option(
        "--leave-off",
        metavar="NAME",
        help="Randomness that stays as in eval mode: a site, a module, or what a refusal names; * and ? match; may be "
        "given several times.",
    ),
]
JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write every number here; - or nothing: the terminal.")
]


class Interrupted(Exception):
    """Ctrl-C in a command that has something to say of what was kept."""


def check_seed(seed: int, lang: str = "en") -> int:
    _ = translator(lang)
    if not 0 <= seed < 2**64:
        raise ValueError(_("--seed must lie in 0 … 2**64 - 1, got {given}").format(given=seed))
    return seed


def check_outputs(out: str | None, json_file: str | None, lang: str = "en") -> None:
    """Refuse paths that cannot be written, before any long work."""
    from allmasks.files import check_writable

    _ = translator(lang)

    targets = [(option, path) for option, path in (("--out", out), ("--json", json_file)) if path and path != "-"]
    if out == "-":
        raise ValueError(_("--out must be a file name: a report is not for the terminal"))
    for option, path in targets:
        check_writable(path, option)
    if len({Path(path).resolve() for _, path in targets}) < len(targets):
        raise ValueError(_("--out and --json name the same file {path}: give two").format(path=out))


def console() -> Console:
    from rich.console import Console

    # Redirected output has no width of its own; tables then take what they need.
    return Console(soft_wrap=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)


def write_json(values: dict[str, Any], path: str | None, lang: str = "en") -> None:
    if path is None:
        return
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        # A terminal obeys more control characters than JSON escapes by itself.
        sys.stdout.write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
        return
    from allmasks.files import write_text

    write_text(path, text)
    _ = translator(lang)
    say(_("wrote {path}").format(path=path))


def write_results(found: Reported, values: dict[str, Any], out: str | None, json_file: str | None, lang: str) -> None:
    """A result's page and its numbers; both are complete before either appears under its name."""
    with ExitStack() as files:
        if out is not None:
            from allmasks.files import atomic_path
            from allmasks.report import write

            write(found, files.enter_context(atomic_path(out)), lang=lang)
        write_json(values, json_file, lang)
    if out is not None:
        _ = translator(lang)
        say(_("wrote {path}").format(path=out))


def say(text: str) -> None:
    """What happens, on stderr, so that stdout carries the result alone."""
    typer.echo(clean(text), err=True)


def translator(lang: str) -> Callable[[str], str]:
    """What turns the command line's English into the language asked for; English where there is no such language."""
    if lang == "en":
        return str
    from allmasks.language import LANGUAGES
    from allmasks.language import translator as catalog

    return catalog(lang) if lang in LANGUAGES else str


def check_language(lang: str) -> None:
    if lang not in ("en", "ko"):
        raise ValueError(f"--lang must be en or ko, got {lang!r}")


def clean(text: str) -> str:
    """The text without control characters, which a file's or a module's name may hold.

    >>> clean("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def output_of_models() -> Iterator[None]:
    """Whatever a model or its file prints goes to stderr: stdout carries the result alone."""
    sys.stdout.flush()
    with redirect_stdout(sys.stderr):
        try:
            real = sys.__stdout__.fileno() if sys.__stdout__ is not None else None
        except (OSError, ValueError):
            real = None
        if real is None:
            yield
            return
        # What is written past Python too, by the number of the file.
        kept = os.dup(real)
        try:
            sys.stderr.flush()
            os.dup2(2, real)
            yield
        finally:
            # What still waits in a buffer was written by the model: it must not follow to where stdout leads again.
            if sys.__stdout__ is not None:
                sys.__stdout__.flush()
            _flush_c()
            os.dup2(kept, real)
            os.close(kept)


def _flush_c() -> None:
    """What compiled code has printed and not yet written."""
    import ctypes

    # On Windows a library may have a C runtime, and buffers, of its own.
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


def chosen_loss(net: nn.Module, x: Inputs, y: torch.Tensor) -> str:
    """What fits the labels and the output."""
    import torch

    from allmasks.inputs import default_loss, first_rows, in_eval_mode

    output = in_eval_mode(net, first_rows(x, 2))
    output = getattr(output, "logits", output)
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the model must return a tensor to choose a loss for, it returned {type(output).__name__}")
    return default_loss(output, y)
