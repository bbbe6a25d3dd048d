"""A worked example as an HTML page: its lines, its pictures, its tables."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from allmasks.explain import Picture, Table
from allmasks.language import translator
from allmasks.report.figures import error_bars, finite, layout
from allmasks.report.html import fill

if TYPE_CHECKING:
    from allmasks.explain import Series, Topic

__all__ = ["render"]

_COLORS = ("@accent", "@second", "@third", "@fourth", "@fifth", "@muted")


def render(found: Topic, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    page = found.page(lang)
    figures: dict[str, Any] = {}
    parts: list[dict[str, Any]] = []
    for part in page.parts:
        if isinstance(part, Picture):
            key = f"picture-{len(figures)}"
            figures[key] = _figure(part)
            parts.append({"kind": "picture", "key": key, "title": part.title})
        elif isinstance(part, Table):
            parts.append({"kind": "table", "table": part})
        else:
            parts.append({"kind": "lines", "lines": part.split("\n")})
    return fill("topic.html.j2", _, lang, figures, name=page.title, parts=parts)


def _figure(picture: Picture) -> dict[str, Any]:
    # Names like "0110" are words, and a plot would take them for numbers.
    words = any(isinstance(x, str) for series in picture.series for x in series.x)
    horizontal: dict[str, Any] = {"title": {"text": escape(picture.x)}}
    vertical: dict[str, Any] = {"title": {"text": escape(picture.y)}}
    if words:
        horizontal["type"] = "category"
    if picture.logarithmic:
        horizontal |= {"type": "log", "dtick": 1}
        vertical |= {"type": "log", "dtick": 1}
    return {
        "data": [_trace(series, _COLORS[i % len(_COLORS)]) for i, series in enumerate(picture.series)],
        "layout": layout(height=340, barmode="group", xaxis=horizontal, yaxis=vertical, legend=len(picture.series) > 1),
    }


def _trace(series: Series, color: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": escape(series.name),
        "x": list(series.x),
        "y": finite(series.y),
        "hovertemplate": "%{x}: %{y:.6~g}<extra>%{fullData.name}</extra>",
    }
    if series.kind == "bars":
        found |= {"type": "bar", "marker": {"color": color}}
        return found | ({"error_y": error_bars(series.errors)} if len(series.errors) else {})
    if series.kind == "points":
        return found | {"type": "scatter", "mode": "markers", "marker": {"size": 9, "color": color}}
    return found | {"type": "scatter", "mode": "lines", "line": {"color": color, "dash": "dash"}}
