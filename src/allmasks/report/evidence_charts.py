"""The charts of the evidence report: each claim's effects against its thresholds, and the claim's own pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from allmasks.language import Translate
from allmasks.report.figures import Chart, finite, layout, name_axis
from allmasks.report.text import number

if TYPE_CHECKING:
    from allmasks.evidence import Finding
    from allmasks.evidence.claim import Picture, Series

__all__ = ["effects", "letters", "picture_chart"]

_COLORS = ("@accent", "@second", "@third", "@fourth", "@fifth", "@total")
_SAYS = {"for": "@accent", "against": "@second", "absent": "@third", "undecided": "@muted"}
_EDGE = 6.0
"""Effects beyond so many thresholds are drawn at the edge: which side they are on is what matters."""


def letters(finding: Finding) -> dict[str, str]:
    """A letter for each criterion: a, b, c, …"""
    return {criterion.key: chr(ord("a") + i) for i, criterion in enumerate(finding.criteria)}


def effects(finding: Finding, _: Translate) -> dict[str, Any]:
    """Every reading with its interval, in units of its threshold."""
    letter = letters(finding)
    criteria = {criterion.key: criterion for criterion in finding.criteria}
    names = [f"{letter[reading.criterion]} · {reading.dataset}" for reading in finding.readings]
    rows: dict[str, list[tuple[Any, ...]]] = {says: [] for says in _SAYS}
    for i, (reading, name) in enumerate(zip(finding.readings, names, strict=True)):
        criterion = criteria[reading.criterion]
        place = max(-_EDGE, min(_EDGE, reading.mean / criterion.minimum))
        low, high = (max(-_EDGE - 0.5, min(_EDGE + 0.5, v / criterion.minimum)) for v in (reading.low, reading.high))
        text = f"{number(reading.mean, 3)} [{number(reading.low, 3)}, {number(reading.high, 3)}]"
        numbers = [0.0 if math.isnan(v) else v for v in (place, max(place - low, 0), max(high - place, 0))]
        symbol = "diamond" if criterion.kind == "agreement" else "circle"
        rows[reading.says].append((i, *numbers, f"<b>{escape(name)}</b><br>{escape(text)}", symbol))
    data = [_points(_(says), color, rows[says]) for says, color in _SAYS.items() if rows[says]]
    reach = max([1.6, *(abs(v) for trace in data for v in trace["x"])]) + 0.8
    band = {"type": "rect", "xref": "x", "yref": "paper", "x0": -1, "x1": 1, "y0": 0, "y1": 1, "layer": "below"}
    return {
        "data": data,
        "layout": layout(
            height=120 + 26 * len(names),
            legend=True,
            xaxis={"title": {"text": _("effect / threshold")}, "range": [-reach, reach], "zeroline": True},
            yaxis=name_axis(names),
            shapes=[band | {"line": {"width": 0}, "fillcolor": "@shade"}],
        ),
    }


def _points(name: str, color: str, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Readings of one color."""
    y, x, minus, plus, text, symbol = (list(column) for column in zip(*rows, strict=True))
    ends = {"type": "data", "symmetric": False, "array": plus, "arrayminus": minus}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": x,
        "y": y,
        "error_x": ends | {"thickness": 1.5, "width": 4, "color": color},
        "marker": {"color": color, "size": 10, "symbol": symbol},
        "hovertext": text,
        "hoverinfo": "text",
    }


def picture_chart(key: str, picture: Picture, lang: str, _: Translate) -> Chart:
    """One of a claim's own pictures: lines with 95 % bands, or points."""
    data: list[dict[str, Any]] = []
    if picture.categories:
        data = _side_by_side(picture, lang)
    else:
        for series, color in zip(picture.series, _COLORS * 3, strict=False):
            data += _traces(series, color, lang)
    axes: dict[str, dict[str, Any]] = {}
    for axis, label, log in (("xaxis", picture.x, picture.log_x), ("yaxis", picture.y, picture.log_y)):
        axes[axis] = {"title": {"text": escape(label[lang])}} | ({"type": "log"} if log else {})
    if picture.log_x:
        axes["xaxis"] |= _log_ticks([x for series in picture.series for x in series.x])
    names = [text[lang] for text in picture.categories]
    if names:
        ticks = {"tickvals": list(range(len(names))), "ticktext": [escape(name) for name in names], "zeroline": False}
        axes["xaxis"] |= ticks | {"range": [-0.5, len(names) - 0.5]}
    caption = ""
    if any(_has_band(s) for s in picture.series):
        bands, bars = _("Mean over seeds; bands are 95 % intervals."), _("Mean over seeds; bars are 95 % intervals.")
        caption = bars if names else bands
    return Chart(
        key,
        picture.title[lang],
        caption,
        {"data": data, "layout": layout(height=340, legend=len(picture.series) > 1, **axes)},
        (picture.x[lang], *(series.name[lang] for series in picture.series)),
        _numbers(picture.series, names),
    )


def _side_by_side(picture: Picture, lang: str) -> list[dict[str, Any]]:
    """Points with their intervals as bars, those of one category beside each other."""
    step = 0.6 / max(len(picture.series), 1)
    data = []
    for k, (series, color) in enumerate(zip(picture.series, _COLORS * 3, strict=False)):
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": escape(series.name[lang]),
            "x": [x + (k - (len(picture.series) - 1) / 2) * step for x in series.x],
            "y": finite(series.y),
            "hovertext": [f"{escape(series.name[lang])}: {number(v, 4)}" for v in series.y],
            "hoverinfo": "text",
            "marker": {"color": color, "size": 9},
        }
        if _has_band(series):
            trace["error_y"] = _bars(series, color)
        data.append(trace)
    return data


def _bars(series: Series, color: str) -> dict[str, Any]:
    assert series.low is not None
    assert series.high is not None
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - y for high, y in zip(series.high, series.y, strict=True)],
        "arrayminus": [y - low for low, y in zip(series.low, series.y, strict=True)],
        "color": color,
    }


def _traces(series: Series, color: str, lang: str) -> list[dict[str, Any]]:
    name = escape(series.name[lang])
    main = {
        "type": "scatter",
        "mode": "markers" if series.points and len(series.x) > 40 else "lines+markers" if series.points else "lines",
        "name": name,
        "legendgroup": name,
        "x": series.x,
        "y": finite(series.y),
        "line": {"color": color, "width": 2},
        "marker": {"color": color, "size": 6 if series.points else 4},
    }
    if not _has_band(series):
        return [main]
    assert series.low is not None
    assert series.high is not None
    edge = [*series.high, *reversed(series.low)]
    fill = {
        "type": "scatter",
        "mode": "lines",
        "x": [*series.x, *reversed(series.x)],
        "y": finite(edge),
        "fill": "toself",
        "fillcolor": color,
        "line": {"color": color, "width": 0},
        "opacity": 0.18,
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": name,
    }
    if len(series.x) == 1:
        # A band of one point has no width: error bars instead.
        main["error_y"] = _bars(series, color)
        return [main]
    return [fill, main]


def _has_band(series: Series) -> bool:
    if series.low is None or series.high is None:
        return False
    return any(high > low for low, high in zip(series.low, series.high, strict=True))


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    shown = sorted({v for v in values if v > 0})
    if len(shown) > 8:
        shown = shown[:: math.ceil(len(shown) / 7)]
    return {"tickvals": shown, "ticktext": [number(v, 3) for v in shown]}


def _numbers(series: Sequence[Series], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The lines' numbers as a table, where all share one axis of moderate length; `names` of its places, if any."""
    xs = [s.x for s in series]
    if any(x != xs[0] for x in xs) or len(xs[0]) > 40:
        return ()
    places = [names[int(x)] if names else number(x, 4) for x in xs[0]] if xs else []
    return tuple((place, *(number(s.y[i], 4) for s in series)) for i, place in enumerate(places))
