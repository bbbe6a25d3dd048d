"""The lab's server: pages and answers, to this machine alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from allmasks.lab import chapter, chapters
from allmasks.lab.document import live_page
from allmasks.lab.payload import payload
from allmasks.lab.protocol import Answer, Chapter, Progress, Settings
from allmasks.language import LANGUAGES

__all__ = ["make_app", "warm"]


def make_app(lang: str = "en", start: int | str = 1) -> Starlette:
    """The pages at /<chapter>, answers at /answer/<chapter>, what a long answer shows on the way at /steps/<chapter>.

    Only requests by the machine's own names are answered: another site's page cannot reach in by a name of its own.
    """
    first = chapter(start)

    async def home(request: Request) -> Response:
        return RedirectResponse(f"/{first.key}?lang={lang}")

    async def page(request: Request) -> Response:
        found, tongue, _ = _asked(request, lang)
        return HTMLResponse(await run_in_threadpool(live_page, found, tongue), headers={"Cache-Control": "no-store"})

    async def answer(request: Request) -> Response:
        found, tongue, settings = _asked(request, lang)
        return JSONResponse(await run_in_threadpool(_answer, found, settings, tongue))

    async def steps(request: Request) -> Response:
        found, tongue, settings = _asked(request, lang)
        # Each step is made in a worker thread, and only once the one before it is sent: a reader who leaves or stops
        # ends the work with the next step.
        told = iterate_in_threadpool(_told(found, settings, tongue))
        return StreamingResponse(told, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})

    async def refused(request: Request, problem: Exception) -> Response:
        return JSONResponse({"error": str(problem)}, status_code=400)

    return Starlette(
        routes=[
            Route("/", home),
            Route("/answer/{chapter}", answer),
            Route("/steps/{chapter}", steps),
            Route("/{chapter}", page),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])],
        exception_handlers={ValueError: refused},
    )


def warm() -> None:
    """Answers that the first reader would have to wait for: code that is compiled or loaded when first used."""
    for found in chapters():
        if not found.long:
            for control in found.controls:
                for value in control.values if control.kind == "choice" else ():
                    found.compute({control.key: value})


def _asked(request: Request, default: str) -> tuple[Chapter, str, Settings]:
    given: dict[str, Any] = dict(request.query_params)
    lang = given.pop("lang", default)
    if lang not in LANGUAGES:
        raise ValueError(f"lang must be one of {', '.join(LANGUAGES)}, got {lang!r}")
    found = chapter(request.path_params["chapter"])
    is_page = request.url.path.count("/") == 1
    return found, lang, found.start if is_page else found.settle(given)


def _answer(found: Chapter, settings: Settings, lang: str) -> dict[str, Any]:
    """The answer; of a chapter that is watched live, its first picture."""
    if found.live:
        return payload(found, next(s for s in found.steps(settings) if isinstance(s, Answer)), settings, lang)
    return payload(found, found.compute(settings), settings, lang)


def _told(found: Chapter, settings: Settings, lang: str) -> Iterator[str]:
    """One line of JSON a step."""
    for step in found.steps(settings):
        told = {"share": step.share} if isinstance(step, Progress) else payload(found, step, settings, lang)
        yield json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"
