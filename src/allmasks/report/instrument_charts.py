"""The instruments' charts in the audit report: who pays within a site, who leans on whom, who carries, what is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from allmasks.language import Translate
from allmasks.report.figures import Chart, bars, layout, line, name_axis
from allmasks.report.text import meanings, number, plus_minus, site_label

if TYPE_CHECKING:
    from allmasks.diagnose import SiteInstruments

__all__ = ["instrument_charts", "summary_rows", "summary_terms"]

_SHOWN = 16


def instrument_charts(found: tuple[SiteInstruments, ...], units: str, _: Translate) -> list[Chart]:
    """Four charts a site."""
    charts = []
    for i, one in enumerate(found):
        charts += [_penalty(one, i, units, _), _pairs(one, i, units, _), _shares(one, i, _), _removal(one, i, units, _)]
    return charts


def summary_rows(found: tuple[SiteInstruments, ...], _: Translate) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A header, and one row a site: what the instruments say in a number each."""
    header = (
        _("site"),
        _("dead units"),
        _("second order agrees"),
        _("co-adaptation"),
        _("Gini"),
        _("units for 90 %"),
        _("kept at half"),
    )
    rows: list[tuple[str, ...]] = []
    for one in found:
        pairs, shares, robust = one.co_adaptation, one.concentration, one.robustness
        half = int(np.abs(robust.fractions - 0.5).argmin())
        kept = "–"
        if robust.accuracy is not None and robust.accuracy_error is not None:
            kept = plus_minus(100 * robust.accuracy[half], 100 * robust.accuracy_error[half], _) + " %"
        agreement = one.unit_penalty.agreement
        rows.append(
            (
                site_label(one.site, _, units=False),
                f"{len(one.unit_penalty.dead)} / {one.site.units}",
                "–" if not np.isfinite(agreement) else f"{100 * agreement:.0f} %",
                plus_minus(pairs.strength, pairs.strength_error, _, 6),
                plus_minus(shares.gini, shares.gini_error, _, 6),
                plus_minus(shares.carry_90, shares.carry_90_error, _, 6),
                kept,
            )
        )
    return header, rows


def summary_terms(_: Translate) -> str:
    """What the columns of `summary_rows` mean."""
    return meanings(("dead", "agreement", "co-adaptation", "Gini", "kept at half"), _)


def _title(words: str, one: SiteInstruments, _: Translate) -> str:
    return f"{words}: {site_label(one.site, _)}"


def _examples(one: SiteInstruments, _: Translate) -> str:
    return _("Measured on the first {n} examples.").format(n=f"{one.n_examples:,}")


def _penalty(one: SiteInstruments, i: int, units: str, _: Translate) -> Chart:
    found = one.unit_penalty
    top = found.order[:_SHOWN]
    names = [_("unit {j}").format(j=j) for j in top]
    exact, second = found.penalty[top], found.second_order[top]
    figure: dict[str, Any] = {
        "data": [
            _bars(_("penalty"), "@accent", exact, found.penalty_error[top]),
            _bars(_("second order"), "@second", second, [0.0] * len(top)),
        ],
        "layout": layout(
            height=130 + 24 * len(top),
            barmode="group",
            xaxis={"title": {"text": f"{_('penalty')} ({_(units)})"}},
            yaxis=name_axis(names),
            legend=True,
        ),
    }
    dead = ", ".join(str(j) for j in found.dead[:20]) + (" …" if len(found.dead) > 20 else "")
    caption = _(
        "The loss that each unit's mask alone adds, beside its second-order form; the units that pay most come first."
    )
    if found.dead:
        caption += " " + _("Dead units, 0 in every example: {units}.").format(units=dead)
    return Chart(
        f"units-{i}",
        _title(_("Who pays, unit by unit"), one, _),
        f"{caption} {_examples(one, _)}",
        figure,
        (_("unit"), _("penalty"), _("second order"), _("mean"), _("variance"), _("share of zeros")),
        tuple(
            (
                str(j),
                number(found.penalty[j], 3),
                number(found.second_order[j], 3),
                number(found.mean[j], 3),
                number(found.variance[j], 3),
                f"{100 * found.dead_fraction[j]:.0f} %",
            )
            for j in top
        ),
        meanings(("second order",), _),
    )


def _pairs(one: SiteInstruments, i: int, units: str, _: Translate) -> Chart:
    found = one.co_adaptation
    top = found.order[:_SHOWN]
    names = [f"{found.pairs[k][0]} + {found.pairs[k][1]}" for k in top]
    values = found.interaction[top]
    figure: dict[str, Any] = {
        "data": [_bars(_("interaction"), "@accent", values, found.interaction_error[top])],
        "layout": layout(
            height=110 + 22 * len(top),
            xaxis={"title": {"text": f"{_('interaction')} ({_(units)})"}},
            yaxis=name_axis(names),
        ),
    }
    caption = _(
        "Loss without both units, minus that without each alone. Positive: each covers for the other. Negative: what "
        "one does needs the other. Effective rank of the activations: {rank} of {units} units."
    ).format(rank=plus_minus(found.effective_rank, found.effective_rank_error, _), units=one.site.units)
    if found.duplicates:
        pairs = ", ".join(f"{a} + {b}" for a, b in found.duplicates[:8])
        caption += " " + _("Duplicates (correlation above 0.95): {pairs}.").format(pairs=pairs)
    if found.guarantee == "statistical":
        caption += " " + _("A random sample of {n} pairs.").format(n=f"{len(found.pairs):,}")
    return Chart(
        f"pairs-{i}",
        _title(_("Which units lean on one another"), one, _),
        f"{caption} {_examples(one, _)}",
        figure,
        (_("pair"), _("interaction"), _("correlation")),
        tuple(
            (name, number(found.interaction[k], 3), number(found.correlation[tuple(found.pairs[k])], 2))
            for name, k in zip(names, top, strict=True)
        ),
        meanings(("ablation interaction", "effective rank"), _),
    )


def _shares(one: SiteInstruments, i: int, _: Translate) -> Chart:
    found = one.concentration
    order = found.order
    share = np.cumsum(np.abs(found.shapley[order]))
    share = 100 * share / max(share[-1], 1e-300)
    places = list(range(1, len(order) + 1))
    this_site = f"{_('this site')}: {_('share of importance (%)')}"
    figure: dict[str, Any] = {
        "data": [
            line([0, *places], [0.0, *share.tolist()], "@accent", name=this_site),
            line([0, places[-1]], [0.0, 100.0], "@muted", dash="dash", name=_("all units alike")),
        ],
        "layout": layout(
            height=320,
            xaxis={
                "title": {"text": _("number of units, most important first")},
                "range": [0, len(order)],
                "dtick": -(-len(order) // 8),
                "tickangle": 0,
            },
            yaxis={"range": [0, 104], "ticksuffix": " %"},
            legend=True,
        ),
    }
    caption = _(
        "Importance is the Shapley value: how much the loss falls when a unit joins, averaged over random orders. Gini "
        "coefficient {gini}; {carry} units carry 90 %."
    )
    carry = plus_minus(found.carry_90, found.carry_90_error, _)
    caption = caption.format(gini=plus_minus(found.gini, found.gini_error, _), carry=carry)
    if found.decisive:
        caption += " " + _("Decisive, more than half of everything: {units}.").format(
            units=", ".join(map(str, found.decisive))
        )
    return Chart(
        f"shares-{i}",
        _title(_("Which units carry the function"), one, _),
        f"{caption} {_examples(one, _)}",
        figure,
        (_("unit"), _("importance"), _("removing it alone costs")),
        tuple(
            (str(j), plus_minus(found.shapley[j], found.shapley_error[j], _), number(found.ablation[j], 3))
            for j in order[:_SHOWN]
        ),
        meanings(("Shapley value", "Gini"), _),
    )


def _removal(one: SiteInstruments, i: int, units: str, _: Translate) -> Chart:
    found = one.robustness
    x = (100 * found.fractions).tolist()
    if found.accuracy is not None:
        assert found.accuracy_low is not None
        assert found.accuracy_high is not None
        assert found.worst_accuracy is not None
        mean, low, high = 100 * found.accuracy, 100 * found.accuracy_low, 100 * found.accuracy_high
        worst, label = 100 * found.worst_accuracy, f"{_('accuracy')} (%)"
    else:
        mean, low, high, worst = found.loss, found.loss_low, found.loss_high, found.worst_loss
        label = f"{_('loss')} ({_(units)})"
    most = _("90 % of random orders")
    figure: dict[str, Any] = {
        "data": [
            line(x, high, "@accent", width=0, hoverinfo="skip", showlegend=False),
            line(x, low, "@accent", width=0, fill="tonexty", fillcolor="@band", hoverinfo="skip", name=most),
            line(x, mean, "@accent", name=_("random, mean")),
            line(x, worst, "@second", name=_("most important first")),
        ],
        "layout": layout(
            height=340,
            xaxis={"title": {"text": _("units removed (%)")}},
            yaxis={"title": {"text": label}} | ({} if found.accuracy is None else {"range": [0, 104]}),
            legend=True,
        ),
    }
    return Chart(
        f"removal-{i}",
        _title(_("What is left as units are removed"), one, _),
        _("Removed units are set to 0, the rest stay as they are.") + " " + _examples(one, _),
        figure,
        (_("units removed (%)"), _("random, mean"), _("most important first")),
        tuple((number(a, 3), number(b, 4), number(c, 4)) for a, b, c in zip(x, mean, worst, strict=True)),
    )


def _bars(name: str, color: str, values: Collection[float], errors: Iterable[float]) -> dict[str, Any]:
    return bars(color, values, errors, [f"{escape(name)}: {number(v, 4)}" for v in values], name=name)
