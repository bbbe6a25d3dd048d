"""What every chart is made of: plotly figures in plain dictionaries, each with its numbers as a table.

Colors are names ("@accent"); the page replaces them by those of its light or dark theme. Plotly reads a small
markup in every text, so each name of the user's is escaped before it enters a figure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Chart", "bars", "error_bars", "finite", "layout", "line", "name_axis"]


@dataclass(frozen=True)
class Chart:
    """One figure with what must be read beside it.

    Attributes
    ----------
    key : its id in the page.
    title, caption : headline, and how to read it.
    figure : {"data": [...], "layout": {...}}.
    header, rows : the same numbers as text.
    terms : the words of the chart and its table that not everybody knows, each with its meaning.
    """

    key: str
    title: str
    caption: str
    figure: dict[str, Any]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    terms: str = ""


def finite(values: Iterable[float | None]) -> list[float | None]:
    """JSON has no NaN."""
    return [None if v is None or not math.isfinite(v) else float(v) for v in values]


def error_bars(errors: Iterable[float]) -> dict[str, Any]:
    """Bars either way, where any can be seen; what is unknown has none."""
    known = [float(e) if math.isfinite(e) else 0.0 for e in errors]
    return {"type": "data", "array": known, "thickness": 1.5, "width": 4, "color": "@ink", "visible": any(known)}


def bars(
    color: str | list[str], values: Collection[float], errors: Iterable[float], hover: list[str], **more: Any
) -> dict[str, Any]:
    """Horizontal bars, from top to bottom, with their errors."""
    return {
        "type": "bar",
        "orientation": "h",
        "x": finite(values),
        "y": list(range(len(values))),
        "marker": {"color": color},
        "error_x": error_bars(errors),
        "hovertext": hover,
        "hoverinfo": "text",
        **more,
    }


def line(
    x: Sequence[float], y: Iterable[float | None], color: str, *, width: int = 2, dash: str = "solid", **more: Any
) -> dict[str, Any]:
    """A line; `hovertext` among the rest is what is said of each point."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": finite(y),
        "line": {"color": color, "width": width, "dash": dash},
        **({"hoverinfo": "text"} if "hovertext" in more else {}),
        **more,
    }


def name_axis(names: Sequence[str]) -> dict[str, Any]:
    """The vertical axis of named rows, the first on top."""
    # Positions, not categories: two names may read the same once shortened.
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(name) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "showgrid": False,
        "zeroline": False,
    }


def layout(*, height: int, legend: bool = False, **parts: Any) -> dict[str, Any]:
    """A figure's layout; "xaxis" and "yaxis" among the parts."""
    found: dict[str, Any] = {
        "height": height,
        "margin": {"l": 12, "r": 16, "t": 36 if legend else 12, "b": 48},
        "showlegend": legend,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
        "dragmode": False,
    }
    if legend:
        found["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
    for axis in ("xaxis", "yaxis"):
        # "0.0008", not plotly's "800µ".
        parts[axis] = {"automargin": True, "tickformat": "~g"} | parts.get(axis, {})
    return found | parts
