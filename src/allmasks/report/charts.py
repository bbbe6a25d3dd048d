"""The charts of the HTML report, as plotly figures in plain dictionaries, each with its numbers as a table.

Colors are names ("@accent"); the page replaces them by those of its light or dark theme. Plotly reads a small
markup in every text, so each name of the user's is escaped before it enters a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from allmasks.report.text import Translate, clean, number, with_error

if TYPE_CHECKING:
    from allmasks.diagnose import Audit

__all__ = ["Chart", "all_charts"]

_LABEL = 24
_ROW = 34


@dataclass(frozen=True)
class Chart:
    """One figure with what must be read beside it.

    Attributes
    ----------
    key : its id in the page.
    title, caption : headline, and how to read it.
    figure : {"data": [...], "layout": {...}}.
    header, rows : the same numbers as text.
    """

    key: str
    title: str
    caption: str
    figure: dict[str, Any]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def all_charts(audit: Audit, _: Translate) -> list[Chart]:
    """Every chart that this audit has numbers for."""
    charts = []
    if audit.per_site:
        charts += [_build_up(audit, _), _sites(audit, _)]
    if audit.convergence:
        charts += [_convergence(audit, _), _rate(audit, _)]
    spread = _per_example(audit, _)
    if spread:
        charts.append(spread)
    if audit.instruments:
        from allmasks.report.instrument_charts import instrument_charts

        charts += instrument_charts(audit.instruments, audit.units, _)
    return charts


def _build_up(audit: Audit, _: Translate) -> Chart:
    """Weight-scaling loss, then each site's penalty, then the interaction: the expected loss."""
    unknown = _("unknown")
    at_mean = float(audit.expected.weight_scaling_loss)
    total, total_error = float(audit.expected.value), float(audit.expected.error)
    steps = [(clean(one.site.name), one.alone, one.alone_error) for one in audit.per_site]
    if len(audit.per_site) > 1:
        steps.append((_("interaction"), audit.interaction, audit.interaction_error))
    names = [_("weight-scaling loss"), *(name for name, *_rest in steps), _("expected loss")]
    lengths = [at_mean, *(value for _name, value, _error in steps), total]
    errors = [0.0, *(error for *_rest, error in steps), total_error]
    # Each step begins where the one before ended; the first and the last stand on zero.
    bases = [0.0, *(at_mean + np.concatenate([[0.0], np.cumsum(lengths[1:-1])])[:-1]).tolist(), 0.0]
    texts = [number(at_mean), *(with_error(v, e, unknown=unknown) for _name, v, e in steps)]
    texts.append(with_error(total, total_error, unknown=unknown))
    colors = ["@muted", *("@accent" if value >= 0 else "@second" for _n, value, _e in steps), "@total"]
    ends = [base + length for base, length in zip(bases, lengths, strict=True)]
    figure: dict[str, Any] = {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": _finite(lengths),
                "y": list(range(len(names))),
                "base": _finite(bases),
                "marker": {"color": colors},
                "error_x": _bars(errors),
                "hovertext": [
                    f"<b>{escape(name)}</b><br>{escape(text)} {escape(_(audit.units))}"
                    for name, text in zip(names, texts, strict=True)
                ],
                "hoverinfo": "text",
            }
        ],
        "layout": _layout(
            height=110 + _ROW * len(names),
            xaxis={"title": {"text": _loss_axis(audit, _)}} | _window(ends[0], ends),
            yaxis=_name_axis(names),
        ),
    }
    caption = _(
        "From the loss in eval mode to the loss over all masks: what each site adds when it alone is random, and what "
        "they add or cancel together (interaction). Bars show errors where they can be seen."
    )
    if "range" in figure["layout"]["xaxis"]:
        caption += " " + _("The axis does not begin at zero.")
    return Chart(
        "build-up",
        _("Where the loss comes from"),
        caption,
        figure,
        (_("part"), _(audit.units)),
        tuple(zip(names, texts, strict=True)),
    )


def _sites(audit: Audit, _: Translate) -> Chart:
    unknown = _("unknown")
    names = [clean(one.site.name) for one in audit.per_site]
    alone = [with_error(one.alone, one.alone_error, unknown=unknown) for one in audit.per_site]
    saved = [with_error(one.saved, one.saved_error, unknown=unknown) for one in audit.per_site]

    def bars(
        label: str, color: str, values: Sequence[float], errors: Sequence[float], texts: Sequence[str]
    ) -> dict[str, Any]:
        return {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "x": _finite(values),
            "y": list(range(len(values))),
            "marker": {"color": color},
            "error_x": _bars(errors),
            "hovertext": [
                f"<b>{escape(name)}</b><br>{label}: {escape(text)} {escape(_(audit.units))}"
                for name, text in zip(names, texts, strict=True)
            ],
            "hoverinfo": "text",
        }

    found = audit.per_site
    figure: dict[str, Any] = {
        "data": [
            bars(_("alone"), "@accent", [o.alone for o in found], [o.alone_error for o in found], alone),
            bars(_("saved"), "@second", [o.saved for o in found], [o.saved_error for o in found], saved),
        ],
        "layout": _layout(
            height=150 + 2 * _ROW * len(names) * 3 // 4,
            barmode="group",
            xaxis={"title": {"text": f"{_('penalty')} ({_(audit.units)})"}},
            yaxis=_name_axis(names),
            legend=True,
        ),
    }
    return Chart(
        "sites",
        _("Which site pays"),
        _(
            "Alone: the penalty when only this site is random. Saved: how much the expected loss falls when only this "
            "site is switched off. Where the two differ, sites interact."
        ),
        figure,
        (_("site"), _("alone"), _("saved")),
        tuple(zip(names, alone, saved, strict=True)),
    )


def _convergence(audit: Audit, _: Translate) -> Chart:
    unknown = _("unknown")
    points = audit.convergence
    k = [point.n_masks for point in points]
    means = [point.value for point in points]
    upper = [point.value + point.error for point in points]
    lower = [point.value - point.error for point in points]
    texts = [with_error(point.value, point.error, unknown=unknown) for point in points]
    target = _("exact value") if audit.exact is not None else _("best estimate")
    shown = with_error(audit.reference, float(audit.expected.error), unknown=unknown)
    error = float(audit.expected.error)
    data = [
        _line(k, upper, "@accent", width=0) | {"hoverinfo": "skip", "showlegend": False},
        _line(k, lower, "@accent", width=0)
        | {"fill": "tonexty", "fillcolor": "@band", "hoverinfo": "skip", "name": _("± standard error")},
        _line(k, means, "@accent")
        | {
            "mode": "lines+markers",
            "name": _("mean over K masks"),
            "hovertext": [f"K = {n:,}<br>{escape(text)}" for n, text in zip(k, texts, strict=True)],
            "hoverinfo": "text",
        },
        _line([k[0], k[-1]], [audit.reference] * 2, "@strong", dash="dash")
        | {"name": target, "hovertext": [f"{target}: {escape(shown)}"] * 2, "hoverinfo": "text"},
    ]
    if audit.exact is None and math.isfinite(error):
        edges = [audit.reference - error, audit.reference - error, audit.reference + error, audit.reference + error]
        data.append(
            _line([k[0], k[-1], k[-1], k[0]], edges, "@strong", width=0)
            | {"fill": "toself", "fillcolor": "@shade", "hoverinfo": "skip", "showlegend": False}
        )
    figure: dict[str, Any] = {
        "data": data,
        "layout": _layout(
            height=380,
            xaxis={"title": {"text": _("number of masks K")}} | _k_axis(k),
            yaxis={"title": {"text": _loss_axis(audit, _)}},
            legend=True,
        ),
    }
    return Chart(
        "convergence",
        _("How the mean over K masks converges"),
        _(
            "One training step sees one mask (K = 1). The band is one standard error of a mean over K independent "
            "masks."
        ),
        figure,
        ("K", _("mean over K masks"), _difference_label(audit, _)),
        tuple(
            (f"{n:,}", text, f"{value - audit.reference:+.2g}") for n, text, value in zip(k, texts, means, strict=True)
        ),
    )


def _rate(audit: Audit, _: Translate) -> Chart:
    """|error| of the K-mask mean beside its standard error, both on logarithmic axes: a slope of −1/2."""
    points = [p for p in audit.convergence if math.isfinite(p.error)]
    k = [point.n_masks for point in points]
    actual = [abs(point.value - audit.reference) for point in points]
    standard = [point.error for point in points]
    data = [
        _line(k, standard, "@muted", dash="dash")
        | {
            "name": _("standard error ∝ 1/√K"),
            "hovertext": [f"K = {n:,}<br>{number(e, 2)}" for n, e in zip(k, standard, strict=True)],
            "hoverinfo": "text",
        },
        # A logarithm has no place for an error of exactly zero.
        _line(k, [a if a > 0 else None for a in actual], "@accent")
        | {
            "mode": "markers",
            "marker": {"size": 9, "color": "@accent"},
            "name": _difference_label(audit, _),
            "hovertext": [f"K = {n:,}<br>{number(a, 2)}" for n, a in zip(k, actual, strict=True)],
            "hoverinfo": "text",
        },
    ]
    floor = float(audit.expected.error)
    if audit.exact is None and math.isfinite(floor) and floor > 0:
        # Below it, the distance says more about the reference than about the mean.
        label = _("standard error of the best estimate")
        data.append(
            _line([k[0], k[-1]], [floor] * 2, "@second", width=1, dash="dot")
            | {"name": label, "hovertext": [f"{label}: {number(floor, 2)}"] * 2, "hoverinfo": "text"}
        )
    figure: dict[str, Any] = {
        "data": data,
        "layout": _layout(
            height=360,
            xaxis={"title": {"text": _("number of masks K")}} | _k_axis(k),
            yaxis={"type": "log", "dtick": 1, "title": {"text": f"|{_('error')}| ({_(audit.units)})"}},
            legend=True,
        ),
    }
    return Chart(
        "rate",
        _("The error falls as 1/√K"),
        _("Four times the masks halve the error. About two points in three should lie below the dashed line."),
        figure,
        ("K", _("|error|"), _("standard error")),
        tuple((f"{n:,}", number(a, 2), number(e, 2)) for n, a, e in zip(k, actual, standard, strict=True)),
    )


def _per_example(audit: Audit, _: Translate) -> Chart | None:
    values = audit.expected.per_example
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return None
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * max(1.0, abs(high)):
        return None
    bins = int(np.clip(round(2 * len(values) ** (1 / 3)), 8, 60))
    counts, edges = np.histogram(values, bins=bins)
    # Most examples sit in the first bars where the net is good, and the tail would be invisible.
    skewed = counts.max() > 50 * np.median(counts[counts > 0])
    label = f"{_('expected loss of one example')} ({_(audit.units)})"
    figure: dict[str, Any] = {
        "data": [
            {
                "type": "bar",
                "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
                "y": counts.tolist(),
                "width": np.diff(edges).tolist(),
                "marker": {"color": "@accent", "line": {"width": 1, "color": "@page"}},
                "hovertext": [
                    f"{number(a, 3)} … {number(b, 3)}<br>{_('examples')}: {n:,}"
                    for a, b, n in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
                ],
                "hoverinfo": "text",
            }
        ],
        "layout": _layout(
            height=340,
            xaxis={"title": {"text": label}},
            yaxis={"title": {"text": _("examples")}} | ({"type": "log", "dtick": 1} if skewed else {}),
        ),
    }
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 0.95, 1)).tolist()
    labels = (_("smallest"), "25 %", _("median"), "75 %", "95 %", _("largest"))
    caption = _("E_m[L] of each example, the mean over masks for that example alone.")
    if skewed:
        caption += " " + _("The vertical axis is logarithmic.")
    return Chart(
        "examples",
        _("Example by example"),
        caption,
        figure,
        (_("quantile"), _("expected loss of one example")),
        tuple((name, number(value, 3)) for name, value in zip(labels, quantiles, strict=True)),
    )


def _loss_axis(audit: Audit, _: Translate) -> str:
    return f"{_('loss')} ({_(audit.units)})"


def _difference_label(audit: Audit, _: Translate) -> str:
    return _("off the exact value") if audit.exact is not None else _("off the best estimate")


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no NaN."""
    return [float(v) if math.isfinite(v) else None for v in values]


def _bars(errors: Sequence[float]) -> dict[str, Any]:
    finite = [float(e) if math.isfinite(e) else 0.0 for e in errors]
    return {"type": "data", "array": finite, "thickness": 1.5, "width": 4, "color": "@ink", "visible": any(finite)}


def _line(x: Sequence[float], y: Sequence[float | None], color: str, *, width: int = 2, dash: str = "solid") -> Any:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": [None if v is None or not math.isfinite(v) else float(v) for v in y],
        "line": {"color": color, "width": width, "dash": dash},
    }


def _short(name: str) -> str:
    """The end of a long name tells sites of one model apart; the beginning is shared.

    >>> _short("transformer.encoder.layers.0.attention.dropout")
    '…0.attention.dropout'
    """
    if len(name) <= _LABEL:
        return name
    end = name[-(_LABEL - 1) :]
    whole = end.partition(".")[2]
    return "…" + (whole if len(whole) > _LABEL // 2 else end)


def _name_axis(names: Sequence[str]) -> dict[str, Any]:
    # Positions, not categories: two names may read the same once shortened.
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [escape(_short(name)) for name in names],
        "range": [len(names) - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }


def _k_axis(k: Sequence[int]) -> dict[str, Any]:
    shown = list(k) if len(k) <= 6 else list(k)[::2]
    return {"type": "log", "tickvals": shown, "ticktext": [f"{n:,}" for n in shown]}


def _window(start: float, ends: Sequence[float]) -> dict[str, Any]:
    """A part of the axis where the steps would be too small to see on the whole of it."""
    finite = [e for e in ends if math.isfinite(e)]
    low, high = min(finite), max(finite)
    if low <= 0 or high - low > 0.1 * high or high == low:
        return {"rangemode": "tozero"}
    span = high - low
    return {"range": [max(0.0, low - 0.6 * span), high + 0.25 * span]}


def _layout(*, height: int, legend: bool = False, **parts: Any) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 12, "r": 16, "t": 36 if legend else 12, "b": 48},
        "showlegend": legend,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
        "dragmode": False,
    }
    if legend:
        layout["legend"] = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}
    for axis in ("xaxis", "yaxis"):
        parts[axis] = {"automargin": True} | parts.get(axis, {})
    return layout | parts
