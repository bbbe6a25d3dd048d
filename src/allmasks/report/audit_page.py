"""The audit as an HTML page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allmasks.language import translator
from allmasks.report.audit_charts import all_charts
from allmasks.report.html import fill
from allmasks.report.text import clean, glossary, guarantee_words, method_words, number, plus_minus, said, site_label

if TYPE_CHECKING:
    from allmasks.diagnose import Audit
    from allmasks.language import Translate

__all__ = ["render"]


def render(audit: Audit, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    expected = audit.expected
    charts = all_charts(audit, _)
    share, interaction = "", ""
    if math.isfinite(audit.penalty_share):
        share = plus_minus(100 * audit.penalty_share, 100 * audit.penalty_share_error, _)
    if len(audit.per_site) > 1:
        interaction = plus_minus(audit.interaction, audit.interaction_error, _)
    return fill(
        "audit.html.j2",
        _,
        lang,
        {chart.key: chart.figure for chart in charts},
        audit=audit,
        model=clean(audit.model_name),
        units=_(audit.units),
        value=plus_minus(expected.value, expected.error, _),
        at_mean=number(float(expected.weight_scaling_loss)),
        penalty=plus_minus(expected.penalty, expected.penalty_error, _),
        share=share,
        guarantee=guarantee_words(expected.guarantee, _),
        method=method_words(expected.method),
        explanation=said(audit.explanation, _),
        gap="" if audit.gap is None else said(audit.gap.explanation, _),
        notes=[said(note, _) for note in audit.notes],
        sites=_site_rows(audit, _),
        interaction=interaction,
        glossary=glossary(_),
        charts=charts,
    )


def _site_rows(audit: Audit, _: Translate) -> list[dict[str, str]]:
    found = {one.site.name: one for one in audit.per_site}
    rows = []
    for site in audit.sites:
        one = found.get(site.name)
        remarks = []
        if not site.controllable:
            remarks.append(_("cannot be controlled: {reason}").format(reason=clean(site.reason)))
        if not site.mean_preserving:
            remarks.append(_("does not keep the mean"))
        rows.append(
            {
                "name": site_label(site, _, units=False),
                "kind": clean(site.kind),
                "p": f"{site.p:g}",
                "units": f"{site.units:,}",
                "alone": "–" if one is None else plus_minus(one.alone, one.alone_error, _),
                "saved": "–" if one is None else plus_minus(one.saved, one.saved_error, _),
                "guarantee": "–" if one is None else _(one.guarantee),
                "remarks": "; ".join(remarks),
            }
        )
    return rows
