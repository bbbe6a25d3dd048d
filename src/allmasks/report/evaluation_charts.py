"""The evaluation's pictures: reliability, risk by coverage, spread and error, PIT, metrics against K, outside data."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from allmasks.language import Translate
from allmasks.report.figures import Chart, error_bars, finite, layout, line
from allmasks.report.metric_words import metric_words
from allmasks.report.text import number, plus_minus

if TYPE_CHECKING:
    from allmasks.evaluation import Evaluation

__all__ = ["evaluation_charts"]


def evaluation_charts(found: Evaluation, _: Translate) -> list[Chart]:
    """Every picture that this evaluation has numbers for."""
    curves, charts = found.curves, []
    if "reliability_masks" in curves:
        charts += [_reliability(curves, _), _risk(curves, _)]
    if "pit" in curves:
        charts.append(_pit(curves["pit"], _))
    if "spread" in curves:
        charts.append(_spread(curves["spread"], found.task == "regression", _))
    against = _against(found, _)
    if against is not None:
        charts.append(against)
    for name in ("entropy", "mutual_information"):
        if f"ood_{name}" in curves:
            charts.append(_outside(name, curves[f"ood_{name}"], _))
    return charts


def _both(_: Translate) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    return ("masks", _("all masks"), "@accent"), ("weight_scaling", _("weight scaling"), "@second")


def _titled(text: str) -> dict[str, Any]:
    return {"title": {"text": text}}


def _marked(trace: dict[str, Any], color: str, errors: list[float]) -> dict[str, Any]:
    marker = {"size": 7, "color": color}
    return trace | {"mode": "lines+markers", "marker": marker, "error_y": error_bars(errors)}


def _reliability(curves: dict[str, Any], _: Translate) -> Chart:
    data, rows = [line([0, 1], [0, 1], "@muted", dash="dash", name=_("as stated"), hoverinfo="skip")], []
    for key, label, color in _both(_):
        curve = curves[f"reliability_{key}"]
        stated, seen, error = (list(map(float, curve[k])) for k in ("stated", "seen", "error"))
        points = list(zip(stated, seen, error, strict=True))
        texts = [f"{label}: {number(s, 3)} → {plus_minus(v, e, _)}" for s, v, e in points]
        data.append(_marked(line(stated, seen, color, name=label, hovertext=texts), color, error))
        for n, s, v, e in zip(curve["n"], stated, seen, error, strict=True):
            rows.append((label, f"{int(n):,}", number(s, 3), plus_minus(v, e, _)))
    least = min(min(map(float, curves[f"reliability_{key}"]["stated"])) for key, *_rest in _both(_))
    axis = {"range": [max(0.0, least - 0.05), 1.02]}
    return Chart(
        "reliability",
        _("Is the confidence true?"),
        _(
            "Examples in bins of their confidence, as many in each: the share that is right, with its standard error. "
            "On the dashed line the model is right as often as it says; below it, it is too sure."
        ),
        {
            "data": data,
            "layout": layout(
                height=400, legend=True, xaxis=_titled(_("stated confidence")) | axis, yaxis=_titled(_("share right"))
            ),
        },
        (_("reading"), _("examples"), _("stated confidence"), _("share right")),
        tuple(rows),
    )


def _risk(curves: dict[str, Any], _: Translate) -> Chart:
    data, rows = [], []
    for key, label, color in _both(_):
        curve = curves[f"risk_{key}"]
        coverage, risk = list(map(float, curve["coverage"])), list(map(float, curve["risk"]))
        texts = [f"{label}<br>{100 * c:.3g} % → {100 * r:.3g} %" for c, r in zip(coverage, risk, strict=True)]
        data.append(line(coverage, risk, color, name=label, hovertext=texts))
        for wanted in (0.25, 0.5, 0.75, 0.9, 1.0):
            at = min(range(len(coverage)), key=lambda i: abs(coverage[i] - wanted))
            rows.append((label, number(coverage[at], 3), number(risk[at], 3)))
    return Chart(
        "risk",
        _("What is gained by not answering"),
        _("The share of errors among the most confident answers, against how many of all are answered."),
        {
            "data": data,
            "layout": layout(
                height=360, legend=True, xaxis=_titled(_("share answered")), yaxis=_titled(_("share wrong"))
            ),
        },
        (_("reading"), _("share answered"), _("share wrong")),
        tuple(rows),
    )


def _bars(edges: Any, heights: Any, color: str, label: str, **more: Any) -> dict[str, Any]:
    pairs = list(pairwise(edges))
    return {
        "type": "bar",
        "x": [float(a + b) / 2 for a, b in pairs],
        "y": finite(map(float, heights)),
        "width": [float(b - a) for a, b in pairs],
        "marker": {"color": color, "line": {"width": 1, "color": "@page"}},
        "hovertext": [
            f"{number(a, 3)} … {number(b, 3)}<br>{label}: {number(float(h), 3)}"
            for (a, b), h in zip(pairs, heights, strict=True)
        ],
        "hoverinfo": "text",
        "name": label,
        **more,
    }


def _pit(curve: dict[str, Any], _: Translate) -> Chart:
    edges, counts = curve["edges"], curve["n"]
    level = float(sum(counts)) / len(counts)
    flat = line([0, 1], [level, level], "@strong", dash="dash", name=_("as stated"), hoverinfo="skip")
    return Chart(
        "pit",
        _("Where the targets fall"),
        _(
            "The predictive distribution function at each target. Flat where the model is right; a hollow is too "
            "narrow a distribution, a hump too wide a one."
        ),
        {
            "data": [_bars(edges, counts, "@accent", _("examples")), flat],
            "layout": layout(height=340, xaxis=_titled("F(y)"), yaxis=_titled(_("examples"))),
        },
        ("F(y)", _("examples")),
        tuple(
            (f"{number(a, 2)} … {number(b, 2)}", f"{int(n)}")
            for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ),
    )


def _spread(curve: dict[str, Any], regression: bool, _: Translate) -> Chart:
    stated, seen, error = (list(map(float, curve[k])) for k in ("spread", "seen", "error"))
    across, up = (_("stated spread"), _("root mean square error")) if regression else (_("entropy"), _("share wrong"))
    texts = [f"{number(s, 3)} → {plus_minus(v, e, _)}" for s, v, e in zip(stated, seen, error, strict=True)]
    data = [_marked(line(stated, seen, "@accent", name=up, hovertext=texts), "@accent", error)]
    caption = _("Examples in ten bins of what the model is unsure of, as many in each, with standard errors.")
    if regression:
        ends = [min(stated), max(stated)]
        data.insert(0, line(ends, ends, "@muted", dash="dash", name=_("as stated"), hoverinfo="skip"))
        caption += " " + _("On the dashed line errors are as large as stated.")
    return Chart(
        "spread",
        _("Is it wrong where it is unsure?"),
        caption,
        {"data": data, "layout": layout(height=360, legend=regression, xaxis=_titled(across), yaxis=_titled(up))},
        (across, up),
        tuple((number(s, 3), plus_minus(v, e, _)) for s, v, e in zip(stated, seen, error, strict=True)),
    )


def _against(found: Evaluation, _: Translate) -> Chart | None:
    name = "crps" if "crps" in found else "log_loss" if "log_loss" in found else "rmse"
    points = [p for p in found.by_masks.get(name, ()) if p.n_masks]
    if len(points) < 2:
        return None
    k, words = [p.n_masks for p in points], metric_words(name, _)
    texts = [plus_minus(p.value, p.error, _) for p in points]
    metric = found[name]
    target = f"{_('all masks')}: {plus_minus(metric.value, metric.masks_error, _)}"
    told_at = [f"K = {n:,}<br>{t}" for n, t in zip(k, texts, strict=True)]
    values = line(k, [p.value for p in points], "@accent", name=words, hovertext=told_at)
    data = [
        _marked(values, "@accent", [p.error for p in points]),
        line([k[0], k[-1]], [metric.value] * 2, "@strong", dash="dash", name=_("all masks"), hovertext=[target] * 2),
    ]
    if metric.weight_scaling is not None and name != "crps":
        at_mean = metric.weight_scaling.value
        told = [f"{_('weight scaling')}: {number(at_mean)}"] * 2
        data.append(line([k[0], k[-1]], [at_mean] * 2, "@second", dash="dot", name=_("weight scaling"), hovertext=told))
    shown = k if len(k) <= 6 else k[::2]
    axis = {"type": "log", "tickvals": shown, "ticktext": [f"{n:,}" for n in shown]}
    rows = [(f"{n:,}", text) for n, text in zip(k, texts, strict=True)]
    return Chart(
        "against-masks",
        _("How many masks are enough"),
        _("What the mean over K masks gives, averaged over sets of masks, with its standard error over masks."),
        {
            "data": data,
            "layout": layout(
                height=380, legend=True, xaxis=_titled(_("number of masks K")) | axis, yaxis=_titled(words)
            ),
        },
        ("K", words),
        (*rows, ("∞", plus_minus(metric.value, metric.masks_error, _))),
    )


def _outside(name: str, curve: dict[str, Any], _: Translate) -> Chart:
    words = {"entropy": _("entropy"), "mutual_information": _("mutual information")}[name]
    edges = curve["edges"]
    labels = _("within the distribution"), _("outside it")
    data = [
        _bars(edges, curve[key], color, label, opacity=0.65)
        for key, color, label in zip(("inside", "outside"), ("@accent", "@second"), labels, strict=True)
    ]
    rows = zip(edges[:-1], edges[1:], curve["inside"], curve["outside"], strict=True)
    return Chart(
        f"outside-{name.replace('_', '-')}",
        _("Does it know what it does not know? By {score}").format(score=words),
        _("Shares of examples by this score, of the test data and of data from outside their distribution."),
        {
            "data": data,
            "layout": layout(
                height=360, legend=True, barmode="overlay", xaxis=_titled(words), yaxis=_titled(_("share"))
            ),
        },
        (words, *labels),
        tuple((f"{number(a, 2)} … {number(b, 2)}", number(i, 2), number(o, 2)) for a, b, i, o in rows),
    )
