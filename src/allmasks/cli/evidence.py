"""`allmasks evidence`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from allmasks.cli.common import (
    Interrupted,
    JsonOption,
    check_language,
    check_outputs,
    console,
    say,
    translator,
    write_json,
)

__all__ = ["evidence"]


def evidence(
    claims: Annotated[
        str | None, typer.Option(metavar="LIST", help="Numbers or names, separated by commas. Default: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer seeds, epochs and data sets: a first look.")] = False,
    scale: Annotated[
        str, typer.Option(help="small: minutes, bundled data. full: MNIST by size, 3 x 1024 units, text; needs --data.")
    ] = "small",
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="For --scale full, e.g. 5m or 2h: what fits, then the verdicts.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds of each experiment. Default: 10, or 6 with --quick.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes. Default: one a core.")] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="More data sets: .npz with X and y; for full, MNIST's files …"),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where the page, its numbers, raw readings and the finished trials go."),
    ] = None,
    json_file: JsonOption = None,
    lang: Annotated[str, typer.Option(help="Language of the table and the report: en or ko.")] = "en",
    null: Annotated[
        bool, typer.Option("--null", help="Switch every treatment off: what the same machinery says of noise.")
    ] = False,
) -> None:
    """Put the founding notes' claims to the test on real data.

    Each gets a verdict: holds, holds in part, absent, undecided, contradicted. A killed run goes on where it was."""
    check_language(lang)
    _ = translator(lang)
    if seeds is not None and seeds < 2:
        raise ValueError(_("--seeds must be at least 2, got {given}").format(given=seeds))
    if jobs is not None and (jobs < 1 and jobs != -1):
        raise ValueError(_("--jobs must be at least 1, or -1 for every core, got {given}").format(given=jobs))
    check_outputs(None, json_file, lang)
    seconds = _checked_scale(scale, budget, (claims, quick, null, seeds), _)
    folder = _folder(out, _)
    n_jobs = jobs if jobs is not None else len(os.sched_getaffinity(0)) if sys.platform == "linux" else -1
    from allmasks.evidence import run, run_full, to_lines
    from allmasks.evidence.full.campaign import held

    with _kept(folder, _), held(folder):
        if scale == "full":
            found = run_full(data, budget=seconds, trials=folder / "trials", n_jobs=n_jobs, progress=True)
        else:
            found = run(
                None if claims is None else [name.strip() for name in claims.split(",") if name.strip()],
                seeds=seeds,
                quick=quick,
                null=null,
                data=data,
                trials=folder / "trials",
                n_jobs=n_jobs,
                progress=True,
                lang=lang,
            )
    if json_file != "-":
        from allmasks.report import show

        show(found, console(), lang=lang)
    with ExitStack() as files:
        # Both are complete before either appears under its name.
        if out is not None:
            from allmasks.files import atomic_path, write_text
            from allmasks.report import write
            from allmasks.report.evidence_terminal import verdict_table

            write(found, files.enter_context(atomic_path(folder / "evidence.html")), lang=lang)
            write_json(found.to_dict(), str(folder / "evidence.json"), lang)
            write_text(folder / "verdicts.md", verdict_table(found, lang))
            write_text(folder / "readings.jsonl", to_lines(found))
        write_json(found.to_dict(), json_file, lang)
    if out is not None:
        say(_("wrote {path}").format(path=folder / "evidence.html"))


@contextmanager
def _kept(folder: Path, _: Callable[[str], str]) -> Iterator[None]:
    """Ctrl-C says what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        from allmasks.trials import Stopped

        if isinstance(stop, Stopped):
            told = _("interrupted: {kept} of {total} trials are kept in {folder}; the same command goes on from there")
            raise Interrupted(told.format(kept=stop.kept, total=stop.total, folder=folder / "trials")) from None
        kept = sum(1 for file in (folder / "trials").glob("*.json"))
        told = _("interrupted: {kept} trials are kept in {folder}; the same command goes on from there")
        raise Interrupted(told.format(kept=kept, folder=folder / "trials")) from None


def _checked_scale(scale: str, budget: str | None, small: tuple[object, ...], _: Callable[[str], str]) -> float | None:
    """Seconds of the budget; options that say nothing at a scale are refused."""
    if scale not in ("small", "full"):
        raise ValueError(_("--scale must be small or full, got {given}").format(given=scale))
    if scale == "full" and any(one not in (None, False) for one in small):
        raise ValueError(_("--claims, --quick, --null and --seeds are for --scale small; full goes by --budget"))
    if budget is None:
        return None
    if scale != "full":
        raise ValueError(_("--budget is for --scale full; a small run takes minutes"))
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([smh])", budget.strip())
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if seconds <= 0:
        raise ValueError(_("--budget must be a time such as 90s, 5m or 2h, got {given}").format(given=budget))
    return seconds


def _folder(out: str | None, _: Callable[[str], str]) -> Path:
    """The folder of the run, made if need be; without --out the trials are kept in the user's cache."""
    if out is None:
        from allmasks.demo import cache_folder

        return cache_folder() / "evidence"
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        told = _("--out {path} is not a folder: evidence writes several files; give a folder's name")
        raise NotADirectoryError(told.format(path=folder))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
