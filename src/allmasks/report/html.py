"""What every page is put in: one HTML file that needs nothing else, no network, no fonts, no second file."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from allmasks.language import Translate

__all__ = ["fill"]

HERE = "allmasks.report"


def fill(
    template: str,
    _: Translate,
    lang: str,
    figures: dict[str, Any],
    *,
    room: str = HERE,
    server: bool = False,
    **more: Any,
) -> str:
    """A template's page with these figures by the ids of their places: about 1.3 megabytes, with what draws them.

    Parameters
    ----------
    figures : what the page's script reads, as JSON holds it.
    room : the package whose templates, page.js and page.css it has; the styles of this one come first.
    server : whether its script may ask the server that it came from.
    more : what the template calls by name.
    """
    from allmasks import __version__

    library, script = _library(), _own("chart.js") + _own("page.js", room)
    return (
        _environment(room)
        .get_template(template)
        .render(
            _=_,
            lang=lang,
            figures=_safe_json(figures),
            library=Markup(library),
            script=Markup(script),
            style=Markup("".join(_own("page.css", place) for place in dict.fromkeys((HERE, room)))),
            allowed=f"{_digest(library)} {_digest(script)}",
            server=server,
            icon=_icon(),
            version=__version__,
            **more,
        )
    )


@cache
def _environment(room: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(place, ".") for place in dict.fromkeys((room, HERE))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """An escaped name that may go on in the next line after each dot; a number stays whole."""
    if name.replace(".", "", 1).isdecimal():
        return escape(name)
    return Markup(".<wbr>").join(escape(part) for part in name.split("."))


@cache
def _library() -> str:
    # plotly.js's "basic" bundle, of lines, points and bars: a quarter of the whole. Inside a script element only this
    # sequence would end it early.
    return _own("plotly/plotly-basic.min.js").replace("</script", r"<\/script")


def _own(name: str, room: str = HERE) -> str:
    return (resources.files(room) / name).read_text(encoding="utf-8")


def _safe_json(value: Any) -> Markup:
    """JSON that no HTML parser can mistake for markup: "</" cannot occur, nor "<!--"."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _digest(script: str) -> str:
    """What the page's policy lets run: this very text and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _icon() -> str:
    drawing = (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
        "<g fill='#0b6fa4'><circle cx='4' cy='4' r='3'/><circle cx='12' cy='12' r='3'/>"
        "<circle cx='12' cy='4' r='3'/></g>"
        "<circle cx='4' cy='12' r='2.4' fill='none' stroke='#c8571b' stroke-width='1.2'/></svg>"
    )
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.encode()).decode()
