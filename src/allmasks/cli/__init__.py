"""The command line: strings to objects, and nothing else. Everything heavy is imported when a command runs."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from allmasks.cli.audit import audit
from allmasks.cli.common import Interrupted, say, translator
from allmasks.cli.doctor import doctor
from allmasks.cli.evaluate import evaluate
from allmasks.cli.evidence import evidence
from allmasks.cli.explain import explain_app, gather_numbers
from allmasks.cli.lab import lab
from allmasks.cli.sites import sites
from allmasks.cli.verify import verify

__all__ = ["app", "gather_numbers", "main", "with_bare_json"]

INTERRUPTED = 130

app = typer.Typer(
    name="allmasks",
    help="What dropout does over all masks: the loss it really minimizes, with its error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (audit, evaluate, evidence, lab, sites, verify, doctor):
    app.command()(command)
app.add_typer(explain_app, name="explain")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0 well, 1 a failed self check, 2 a refused request, 130 interrupted."""
    given = list(sys.argv[1:] if argv is None else argv)
    _ = translator(_language(given))
    usage_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    try:
        arguments = gather_numbers(with_bare_json(given))
        # Always this name, however it was started: shell completion knows it by the name.
        code = app(arguments or ["--help"], standalone_mode=False, prog_name="allmasks")
        if not arguments:  # click from 8.2 on says so itself, older ones call it a success
            return 2
        if code == INTERRUPTED:  # how the parser reports Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail(_("interrupted, nothing was written"), INTERRUPTED)
    except Interrupted as told:
        return _fail(str(told), INTERRUPTED)
    except BrokenPipeError:
        # The reader left (`| head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as problem:
        if isinstance(problem, usage_error):
            if type(problem).__name__ == "NoArgsIsHelpError":
                typer.echo(problem.format_message())  # type: ignore[attr-defined]
                return 2
            return _fail(_("error: {text}").format(text=problem.format_message()), 2)  # type: ignore[attr-defined]
        return _fail(_("error: {text}").format(text=_one_line(problem)), 2)


def with_bare_json(arguments: Sequence[str]) -> list[str]:
    """`--json` where no file follows it means the terminal.

    >>> with_bare_json(["audit", "--json"]), with_bare_json(["audit", "--json", "--seed", "1"])
    (['audit', '--json=-'], ['audit', '--json=-', '--seed', '1'])
    >>> with_bare_json(["audit", "--json", "numbers.json"])
    ['audit', '--json', 'numbers.json']
    """
    following = [*arguments[1:], "--"]
    return (
        [
            "--json=-" if option == "--json" and value.startswith("--") else option
            for option, value in zip(arguments, following, strict=True)
        ]
        if arguments
        else []
    )


def _language(arguments: Sequence[str]) -> str:
    """What --lang says, before anything else is read: errors are to be in that language too.

    >>> _language(["audit", "--lang", "ko"]), _language(["audit", "--lang=ko"]), _language(["doctor"])
    ('ko', 'ko', 'en')
    """
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if option == "--lang":
            return value
        if option.startswith("--lang="):
            return option.partition("=")[2]
    return "en"


def _one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    # The library's own refusals speak for themselves; anything else says what kind of thing went wrong.
    own = isinstance(problem, (ValueError, TypeError, OSError)) and text
    return text if own else f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def _fail(text: str, code: int) -> int:
    if os.environ.get("ALLMASKS_TRACEBACK") == "1":
        traceback.print_exc()
    say(text)
    return code
