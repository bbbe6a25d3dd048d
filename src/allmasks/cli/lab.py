"""`allmasks lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allmasks.cli.common import check_language, clean, say, translator

__all__ = ["lab"]


def lab(
    chapter: Annotated[str, typer.Option(metavar="N", help="The chapter to open, by number or name.")] = "1",
    lang: Annotated[str, typer.Option(help="Language of the pages: en or ko.")] = "en",
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes any that is free.")] = 8321,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only serve; open no browser.")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the pages there, each self-contained, and serve nothing.")
    ] = None,
    edit: Annotated[
        bool, typer.Option("--edit", help="Write the chapters as Jupyter notebooks to change, into --out DIR.")
    ] = False,
    worksheet: Annotated[str | None, typer.Option(metavar="FILE", help="Write the questions as Markdown.")] = None,
    check: Annotated[str | None, typer.Option(metavar="FILE", help="Check the answers in a worksheet.")] = None,
) -> None:
    """The notes as pictures with handles, in the browser.

    Served on this machine alone; --out writes pages that need no server, for a website or an e-mail."""
    check_language(lang)
    _ = translator(lang)
    from allmasks.lab import chapter as find

    opened = find(chapter)
    if worksheet is not None and check is not None:
        raise ValueError(_("--worksheet and --check exclude each other: write the sheet, fill it in, then check it"))
    if worksheet is not None:
        _write_worksheet(worksheet, lang)
        return
    if check is not None:
        _check(Path(check), lang)
        return
    if out is not None or edit:
        _write(Path(out or "allmasks-lab"), lang, notebooks=edit)
        return
    if not 0 <= port < 65536:
        raise ValueError(_("--port must lie in 0 … 65535, got {given}").format(given=port))
    _serve(opened.key, lang, port, browser=not no_browser)


def _write(folder: Path, lang: str, *, notebooks: bool) -> None:
    _ = translator(lang)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(_("--out {path} is not a folder: give a folder's name").format(path=folder))
    folder.mkdir(parents=True, exist_ok=True)

    def tell(path: Path) -> None:
        say(_("wrote {path}").format(path=path))

    if notebooks:
        from allmasks.lab.notebooks import write_notebooks

        write_notebooks(folder, lang, tell=tell)
    else:
        from allmasks.lab.document import write_pages

        write_pages(folder, tell=tell)


def _write_worksheet(file: str, lang: str) -> None:
    _ = translator(lang)
    from allmasks.files import check_writable, write_text
    from allmasks.lab.worksheet import worksheet

    check_writable(file, "--worksheet")
    write_text(file, worksheet(lang))
    say(_("wrote {path}").format(path=file))


def _check(file: Path, lang: str) -> None:
    """Prints what is said of each answer; exit code 1 where one is not right."""
    _ = translator(lang)
    from allmasks.lab.worksheet import check

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            _("--check {path} is no text in UTF-8: save the worksheet as such").format(path=file)
        ) from None
    found = check(text, lang)
    for answer in found:
        typer.echo(clean(f"{answer.chapter.number:>2}  {answer.chapter.title[lang]}: {answer.sentence}"))
    right = sum(answer.right for answer in found)
    typer.echo(_("{right} of {count} right").format(right=right, count=len(found)))
    if right < len(found):
        raise typer.Exit(1)


def _serve(chapter: str, lang: str, port: int, *, browser: bool) -> None:
    _ = translator(lang)
    try:
        import uvicorn

        from allmasks.lab.app import make_app, warm
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        told = _("the lab's server needs {name}: pip install 'allmasks[lab]'; or write static pages with --out DIR")
        raise ValueError(told.format(name=(missing.name or "").partition(".")[0])) from None
    import socket
    import threading

    # Once the first page is there: what is loaded for the others must not keep it waiting.
    later = threading.Timer(3.0, warm)
    later.daemon = True
    later.start()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError:
            told = _("port {port} is taken: choose another with --port, or let --port 0 find one")
            raise ValueError(told.format(port=port)) from None
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/{chapter}?lang={lang}"
        server = uvicorn.Server(uvicorn.Config(make_app(lang, chapter), log_level="warning", lifespan="off"))
        say(_("the lab is at {address} (Ctrl-C ends it)").format(address=address))
        if browser:
            import webbrowser

            threading.Timer(0.5, webbrowser.open, [address]).start()
        server.run(sockets=[listening])
