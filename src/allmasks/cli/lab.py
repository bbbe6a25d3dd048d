"""`allmasks lab`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allmasks.cli.common import check_language, say, translator

__all__ = ["lab"]


def lab(
    chapter: Annotated[str, typer.Option(metavar="N", help="The chapter to open, by number or name.")] = "1",
    lang: Annotated[str, typer.Option(help="Language of the pages: en or ko.")] = "en",
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes any that is free.")] = 8321,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only serve; open no browser.")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write the pages there, each self-contained, and serve nothing.")
    ] = None,
) -> None:
    """The notes as pictures with handles, in the browser.

    Served on this machine alone; --out writes pages that need no server, for a website or an e-mail."""
    check_language(lang)
    _ = translator(lang)
    from allmasks.lab import chapter as find

    opened = find(chapter)
    if out is not None:
        _write_pages(Path(out), lang)
        return
    if not 0 <= port < 65536:
        raise ValueError(_("--port must lie in 0 … 65535, got {given}").format(given=port))
    _serve(opened.key, lang, port, browser=not no_browser)


def _write_pages(folder: Path, lang: str) -> None:
    _ = translator(lang)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(_("--out {path} is not a folder: give a folder's name").format(path=folder))
    folder.mkdir(parents=True, exist_ok=True)
    from allmasks.lab.document import write_pages

    write_pages(folder, tell=lambda path: say(_("wrote {path}").format(path=path)))


def _serve(chapter: str, lang: str, port: int, *, browser: bool) -> None:
    _ = translator(lang)
    try:
        import uvicorn

        from allmasks.lab.app import make_app
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        told = _("the lab's server needs {name}: pip install 'allmasks[lab]'; or write static pages with --out DIR")
        raise ValueError(told.format(name=missing.name)) from None
    import socket

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
            import threading
            import webbrowser

            threading.Timer(0.5, webbrowser.open, [address]).start()
        server.run(sockets=[listening])
