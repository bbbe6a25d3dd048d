"""Results to read, in English and Korean: one self-contained HTML file for the browser, text for the terminal.

What draws a result is found by its type, in `RENDERERS`; results know nothing of it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from allmasks.results import Reported

__all__ = ["RENDERERS", "Renderer", "render_html", "render_text", "show", "write"]


@dataclass(frozen=True)
class Renderer:
    """Where a type of result is drawn.

    Attributes
    ----------
    page : module of this room whose `render(result, lang)` is the HTML file as a string.
    terminal : module whose `show(result, console, lang)` prints to a rich console.
    width : columns of the text where nothing is said.
    """

    page: str
    terminal: str
    width: int


RENDERERS: dict[str, Renderer] = {
    "Audit": Renderer("audit_page", "audit_terminal", 100),
    "Evaluation": Renderer("evaluation_page", "evaluation_terminal", 140),
    "Evidence": Renderer("evidence_page", "evidence_terminal", 110),
    "Verification": Renderer("verification_page", "verification_terminal", 110),
}
RENDERERS |= dict.fromkeys(
    ("Ensemble", "Moments", "MonteCarloStudy", "Ridge", "Scaling"), Renderer("topic_page", "topic_terminal", 120)
)
"""By the name of the result's type."""


def write(result: Reported, path: str | Path, lang: str = "en") -> Path:
    """Write one self-contained HTML file that opens offline; returns its path.

    Parameters
    ----------
    result : what `am.audit` or `allmasks.evidence.run` returned.
    path : the file to write. It appears complete or not at all; a file that is there is replaced.
    lang : "en" or "ko".

    Raises
    ------
    ValueError : a language that the report does not speak.
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError : the path cannot be written.
    """
    from allmasks.files import check_writable, write_text

    check_writable(path, "report")
    return write_text(path, render_html(result, lang))


def render_html(result: Reported, lang: str = "en") -> str:
    """The whole page as a string, about 1.3 megabytes: the charts' library is inside."""
    page: str = _module(_renderer(result).page).render(result, lang)
    return page


def render_text(result: Reported, lang: str = "en", *, width: int | None = None) -> str:
    """The result as one string of at most `width` columns, without color codes."""
    from rich.console import Console

    width = width or _renderer(result).width
    text = io.StringIO()
    show(result, Console(file=text, width=width, color_system=None, force_terminal=False, legacy_windows=False), lang)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def show(result: Reported, console: Console, lang: str = "en") -> None:
    """Print the result on a rich console.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _module(_renderer(result).terminal).show(result, console, lang)


def _renderer(result: Reported) -> Renderer:
    return RENDERERS[type(result).__name__]


def _module(name: str) -> Any:
    return import_module(f"{__name__}.{name}")
