"""The audit's charts: what the loss is made of, which site pays, and how the mean over masks converges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from allmasks.language import Translate
from allmasks.report.figures import Chart, bars, finite, layout, line, name_axis
from allmasks.report.instrument_charts import instrument_charts
from allmasks.report.text import number, plus_minus, site_label

if TYPE_CHECKING:
    from allmasks.diagnose import Audit, LossGap

__all__ = ["all_charts"]

_LABEL = 24
_ROW = 34


def all_charts(audit: Audit, _: Translate) -> list[Chart]:
    """Every chart that this audit has numbers for."""
    charts = [] if audit.gap is None else [_gap(audit.gap, audit.units, _)]
    if audit.per_site:
        charts += [_build_up(audit, _), _sites(audit, _)]
    if audit.convergence:
        charts += [_convergence(audit, _), _rate(audit, _)]
    spread = _per_example(audit, _)
    if spread:
        charts.append(spread)
    return charts + instrument_charts(audit.instruments, audit.units, _)


def _gap(gap: LossGap, units: str, _: Translate) -> Chart:
    """Training loss, down by dropout's share to its eval loss, up by generalization to the validation loss."""
    names = [
        _("training loss (train mode)"),
        _("dropout's share"),
        _("training loss (eval mode)"),
        _("generalization"),
        _("validation loss (eval mode)"),
    ]
    steps = [gap.training, -gap.dropout, gap.training_eval, gap.generalization, gap.validation]
    errors = [gap.training_error, gap.dropout_error, 0.0, gap.generalization_error, gap.validation_error]
    shown = [gap.training, gap.dropout, gap.training_eval, gap.generalization, gap.validation]
    texts = [plus_minus(v, e, _) if e else number(v) for v, e in zip(shown, errors, strict=True)]
    bases = [0.0, gap.training, 0.0, gap.training_eval, 0.0]
    colors = ["@total", "@second", "@muted", "@third", "@total"]
    window = _window([base + step for base, step in zip(bases, steps, strict=True)])
    caption = _(
        "Dropout's share is what masks add on the very same training examples; its error is that of the mean over "
        "masks. Generalization is what validation examples lose more than training examples, both in eval mode; its "
        "error is the standard error over validation examples."
    )
    if "range" in window:
        caption += " " + _("The axis does not begin at zero.")
    figure = {
        "data": [bars(colors, steps, errors, _hover(names, texts, _(units)), base=bases)],
        "layout": layout(
            height=110 + _ROW * len(names), xaxis=_titled(f"{_('loss')} ({_(units)})") | window, yaxis=name_axis(names)
        ),
    }
    rows = (*zip(names, texts, strict=True), (_("gap"), plus_minus(gap.gap, gap.gap_error, _)))
    return Chart("gap", _("Training and validation loss"), caption, figure, (_("part"), _(units)), rows)


def _build_up(audit: Audit, _: Translate) -> Chart:
    """Weight-scaling loss, then each site's penalty, then the interaction: the expected loss."""
    at_mean = float(audit.expected.weight_scaling_loss)
    total, total_error = float(audit.expected.value), float(audit.expected.error)
    steps = [(site_label(one.site, _, units=False), one.alone, one.alone_error) for one in audit.per_site]
    if len(audit.per_site) > 1:
        steps.append((_("interaction"), audit.interaction, audit.interaction_error))
    names = [_("weight-scaling loss"), *(name for name, *_rest in steps), _("expected loss")]
    lengths = [at_mean, *(value for _name, value, _error in steps), total]
    errors = [0.0, *(error for *_rest, error in steps), total_error]
    # Each step begins where the one before ended; the first and the last stand on zero.
    bases = [0.0, *(at_mean + np.concatenate([[0.0], np.cumsum(lengths[1:-1])])[:-1]).tolist(), 0.0]
    texts = [number(at_mean), *(plus_minus(v, e, _) for _name, v, e in steps)]
    texts.append(plus_minus(total, total_error, _))
    colors = ["@muted", *("@accent" if value >= 0 else "@second" for _n, value, _e in steps), "@total"]
    window = _window([base + length for base, length in zip(bases, lengths, strict=True)])
    caption = _(
        "From the loss in eval mode to the loss over all masks: what each site adds when it alone is random, and what "
        "they add or cancel together (interaction). Bars show errors where they can be seen."
    )
    if "range" in window:
        caption += " " + _("The axis does not begin at zero.")
    figure = {
        "data": [bars(colors, lengths, errors, _hover(names, texts, _(audit.units)), base=finite(bases))],
        "layout": layout(
            height=110 + _ROW * len(names),
            xaxis=_titled(_loss_axis(audit, _)) | window,
            yaxis=name_axis([_short(name) for name in names]),
        ),
    }
    rows = tuple(zip(names, texts, strict=True))
    return Chart("build-up", _("Where the loss comes from"), caption, figure, (_("part"), _(audit.units)), rows)


def _sites(audit: Audit, _: Translate) -> Chart:
    found = audit.per_site
    names = [site_label(one.site, _, units=False) for one in found]
    traces, columns = [], []
    for label, color, values, errors in (
        (_("alone"), "@accent", [o.alone for o in found], [o.alone_error for o in found]),
        (_("saved"), "@second", [o.saved for o in found], [o.saved_error for o in found]),
    ):
        texts = [plus_minus(v, e, _) for v, e in zip(values, errors, strict=True)]
        hover = _hover(names, [f"{label}: {text}" for text in texts], _(audit.units))
        traces.append(bars(color, values, errors, hover, name=label))
        columns.append(texts)
    return Chart(
        "sites",
        _("Which site pays"),
        _(
            "Alone: the penalty when only this site is random. Saved: how much the expected loss falls when only this "
            "site is switched off. Where the two differ, sites interact."
        ),
        {
            "data": traces,
            "layout": layout(
                height=150 + 2 * _ROW * len(names) * 3 // 4,
                barmode="group",
                xaxis=_titled(f"{_('penalty')} ({_(audit.units)})"),
                yaxis=name_axis([_short(name) for name in names]),
                legend=True,
            ),
        },
        (_("site"), _("alone"), _("saved")),
        tuple(zip(names, *columns, strict=True)),
    )


def _convergence(audit: Audit, _: Translate) -> Chart:
    points = audit.convergence
    k = [point.n_masks for point in points]
    upper = [point.value + point.error for point in points]
    lower = [point.value - point.error for point in points]
    texts = [plus_minus(point.value, point.error, _) for point in points]
    error, reference = float(audit.expected.error), audit.reference
    target = _("exact value") if audit.exact is not None else _("best estimate")
    shown = f"{target}: {escape(plus_minus(reference, error, _))}"
    data = [
        line(k, upper, "@accent", width=0, hoverinfo="skip", showlegend=False),
        line(
            k,
            lower,
            "@accent",
            width=0,
            fill="tonexty",
            fillcolor="@band",
            hoverinfo="skip",
            name=_("± standard error"),
        ),
        line(k, [point.value for point in points], "@accent", name=_("mean over K masks"), hovertext=_at_k(k, texts))
        | {"mode": "lines+markers"},
        line([k[0], k[-1]], [reference] * 2, "@strong", dash="dash", name=target, hovertext=[shown] * 2),
    ]
    if audit.exact is None and math.isfinite(error):
        edges = [reference - error, reference - error, reference + error, reference + error]
        around = [k[0], k[-1], k[-1], k[0]]
        filled: dict[str, Any] = {"fill": "toself", "fillcolor": "@shade", "hoverinfo": "skip", "showlegend": False}
        data.append(line(around, edges, "@strong", width=0, **filled))
    return Chart(
        "convergence",
        _("How the mean over K masks converges"),
        _(
            "One training step sees one mask (K = 1). The band is one standard error of a mean over K independent "
            "masks."
        ),
        {
            "data": data,
            "layout": layout(height=380, xaxis=_k_axis(k, _), yaxis=_titled(_loss_axis(audit, _)), legend=True),
        },
        ("K", _("mean over K masks"), _difference_label(audit, _)),
        tuple((f"{p.n_masks:,}", text, f"{p.value - reference:+.2g}") for p, text in zip(points, texts, strict=True)),
    )


def _rate(audit: Audit, _: Translate) -> Chart:
    """|error| of the K-mask mean beside its standard error, both on logarithmic axes: a slope of −1/2."""
    points = [p for p in audit.convergence if math.isfinite(p.error)]
    k = [point.n_masks for point in points]
    actual = [abs(point.value - audit.reference) for point in points]
    standard = [point.error for point in points]
    shown, of_standard = [number(a, 2) for a in actual], [number(e, 2) for e in standard]
    data = [
        line(k, standard, "@muted", dash="dash", name=_("standard error ∝ 1/√K"), hovertext=_at_k(k, of_standard)),
        # A logarithm has no place for an error of exactly zero.
        line(k, [a if a > 0 else None for a in actual], "@accent", hovertext=_at_k(k, shown))
        | {"mode": "markers", "marker": {"size": 9, "color": "@accent"}, "name": _difference_label(audit, _)},
    ]
    floor = float(audit.expected.error)
    if audit.exact is None and math.isfinite(floor) and floor > 0:
        # Below it, the distance says more about the reference than about the mean.
        label = _("standard error of the best estimate")
        told = [f"{label}: {number(floor, 2)}"] * 2
        data.append(line([k[0], k[-1]], [floor] * 2, "@second", width=1, dash="dot", name=label, hovertext=told))
    vertical = {"type": "log", "dtick": 1} | _titled(f"|{_('error')}| ({_(audit.units)})")
    return Chart(
        "rate",
        _("The error falls as 1/√K"),
        _("Four times the masks halve the error. About two points in three should lie below the dashed line."),
        {"data": data, "layout": layout(height=360, xaxis=_k_axis(k, _), yaxis=vertical, legend=True)},
        ("K", _("|error|"), _("standard error")),
        tuple((f"{n:,}", *texts) for n, *texts in zip(k, shown, of_standard, strict=True)),
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
    histogram = {
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
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 0.95, 1)).tolist()
    labels = (_("smallest"), "25 %", _("median"), "75 %", "95 %", _("largest"))
    caption = _("E_m[L] of each example, the mean over masks for that example alone.")
    if skewed:
        caption += " " + _("The vertical axis is logarithmic.")
    label = _("expected loss of one example")
    vertical = _titled(_("examples")) | ({"type": "log", "dtick": 1} if skewed else {})
    return Chart(
        "examples",
        _("Example by example"),
        caption,
        {
            "data": [histogram],
            "layout": layout(height=340, xaxis=_titled(f"{label} ({_(audit.units)})"), yaxis=vertical),
        },
        (_("quantile"), label),
        tuple((name, number(value, 3)) for name, value in zip(labels, quantiles, strict=True)),
    )


def _titled(text: str) -> dict[str, Any]:
    return {"title": {"text": text}}


def _hover(names: Sequence[str], texts: Sequence[str], units: str) -> list[str]:
    pairs = zip(names, texts, strict=True)
    return [f"<b>{escape(name)}</b><br>{escape(text)} {escape(units)}" for name, text in pairs]


def _at_k(k: Sequence[int], texts: Sequence[str]) -> list[str]:
    return [f"K = {n:,}<br>{escape(text)}" for n, text in zip(k, texts, strict=True)]


def _loss_axis(audit: Audit, _: Translate) -> str:
    return f"{_('loss')} ({_(audit.units)})"


def _difference_label(audit: Audit, _: Translate) -> str:
    return _("off the exact value") if audit.exact is not None else _("off the best estimate")


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


def _k_axis(k: Sequence[int], _: Translate) -> dict[str, Any]:
    shown = list(k) if len(k) <= 6 else list(k)[::2]
    ticks = {"type": "log", "tickvals": shown, "ticktext": [f"{n:,}" for n in shown]}
    return _titled(_("number of masks K")) | ticks


def _window(ends: Sequence[float]) -> dict[str, Any]:
    """A part of the axis where the steps would be too small to see on the whole of it."""
    known = [e for e in ends if math.isfinite(e)]
    low, high = min(known), max(known)
    if low <= 0 or high - low > 0.1 * high or high == low:
        return {"rangemode": "tozero"}
    span = high - low
    return {"range": [max(0.0, low - 0.6 * span), high + 0.25 * span]}
