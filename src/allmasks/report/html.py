"""The audit as one HTML file that needs nothing else: no network, no fonts, no second file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from allmasks.report.charts import all_charts
from allmasks.report.notes import notes
from allmasks.report.text import (
    clean,
    explanation,
    glossary,
    guarantee_words,
    method_words,
    number,
    translator,
    with_error,
)

if TYPE_CHECKING:
    from allmasks.diagnose import Audit

__all__ = ["render_html"]


def render_html(audit: Audit, lang: str = "en") -> str:
    """The whole page as a string, about five megabytes: the charts' library is inside.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    expected = audit.expected
    charts = all_charts(audit, _)
    library, script = _library(), _own("page.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            _=_,
            lang=lang,
            audit=audit,
            model=clean(audit.model_name),
            units=_(audit.units),
            value=with_error(float(expected.value), float(expected.error), unknown=_("unknown")),
            at_mean=number(float(expected.weight_scaling_loss)),
            penalty=with_error(float(expected.penalty), float(expected.penalty_error), unknown=_("unknown")),
            share=""
            if not math.isfinite(audit.penalty_share)
            else with_error(100 * audit.penalty_share, 100 * audit.penalty_share_error, unknown=_("unknown")),
            guarantee=guarantee_words(expected.guarantee, _),
            method=method_words(expected.method),
            explanation=explanation(audit, lang),
            notes=notes(audit, _),
            sites=_site_rows(audit, _),
            interaction=with_error(audit.interaction, audit.interaction_error, unknown=_("unknown"))
            if len(audit.per_site) > 1
            else "",
            glossary=glossary(_),
            charts=charts,
            figures=_safe_json({chart.key: chart.figure for chart in charts}),
            library=Markup(library),
            script=Markup(script),
            style=Markup(_own("page.css")),
            allowed=f"{_digest(library)} {_digest(script)}",
            icon=_icon(),
            version=_version(),
        )
    )


def _site_rows(audit: Audit, _: Any) -> list[dict[str, str]]:
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
                "name": clean(site.name),
                "kind": clean(site.kind),
                "p": f"{site.p:g}",
                "units": f"{site.units:,}",
                "alone": "–" if one is None else with_error(one.alone, one.alone_error, unknown=_("unknown")),
                "saved": "–" if one is None else with_error(one.saved, one.saved_error, unknown=_("unknown")),
                "guarantee": "–" if one is None else _(one.guarantee),
                "remarks": "; ".join(remarks),
            }
        )
    return rows


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("allmasks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = _breakable
    return environment


def _breakable(name: str) -> Markup:
    """An escaped name that may go on in the next line after each dot."""
    return Markup(".<wbr>").join(escape(part) for part in name.split("."))


@cache
def _library() -> str:
    from plotly.offline import get_plotlyjs

    # Inside a script element only this sequence would end it early.
    return get_plotlyjs().replace("</script", r"<\/script")


def _own(name: str) -> str:
    return (resources.files("allmasks.report") / name).read_text(encoding="utf-8")


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


def _version() -> str:
    from allmasks import __version__

    return __version__
