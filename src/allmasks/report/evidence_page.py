"""The evidence as an HTML page: each claim with its verdict, what that stands on, and its pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allmasks.language import Translate, translator
from allmasks.report.diagrams import ANALOGIES, DIAGRAMS, drawing
from allmasks.report.evidence_charts import effects, letters, picture_chart
from allmasks.report.evidence_terminal import VERDICTS, facts, threshold
from allmasks.report.html import fill
from allmasks.report.text import number

if TYPE_CHECKING:
    from allmasks.evidence import Effect, Evidence, Finding

__all__ = ["render"]


def render(found: Evidence, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    verdicts = {finding.key: finding.verdict for finding in found.findings}
    figures: dict[str, Any] = {}
    claims = []
    for finding in found.findings:
        key = f"effects-{finding.number}"
        figures[key] = effects(finding, _)
        charts = [
            picture_chart(f"picture-{finding.number}-{i}", picture, lang, _)
            for i, picture in enumerate(finding.pictures)
        ]
        figures |= {chart.key: chart.figure for chart in charts}
        diagram = DIAGRAMS.get(finding.key)
        claims.append(
            {
                "number": finding.number,
                "title": finding.title[lang],
                "sentence": finding.sentence[lang],
                "original": finding.sentence.ko if lang != "ko" else "",
                "section": finding.section[lang],
                "note": finding.note[lang],
                "verdict": _(finding.verdict),
                "kind": finding.verdict.replace(" ", "-"),
                "criteria": _criteria(finding, lang, _),
                "effects": key,
                "charts": charts,
                "diagram": "" if diagram is None else drawing(diagram, verdicts, _),
                "diagram_title": "" if diagram is None else _(diagram.title),
                "analogy": _(ANALOGIES[finding.key]) if finding.key in ANALOGIES else "",
            }
        )
    counts = [
        (verdict.replace(" ", "-"), _(verdict), [v == verdict for v in verdicts.values()].count(True))
        for verdict in VERDICTS
    ]
    return fill(
        "evidence.html.j2",
        _,
        lang,
        figures,
        claims=claims,
        counts=counts,
        facts=facts(found, _),
        seconds=f"{found.seconds:,.0f}",
    )


def _criteria(finding: Finding, lang: str, _: Translate) -> list[dict[str, Any]]:
    letter = letters(finding)
    return [
        {
            "letter": letter[criterion.key],
            "text": criterion.text[lang],
            "threshold": threshold(criterion, _),
            "readings": [
                {
                    "dataset": reading.dataset,
                    "effect": number(reading.mean, 3),
                    "interval": f"[{number(reading.low, 3)}, {number(reading.high, 3)}]",
                    "p": _p(reading.corrected_p_value),
                    "says": _said(reading, _),
                    "kind": reading.says,
                }
                for reading in finding.readings
                if reading.criterion == criterion.key
            ],
        }
        for criterion in finding.criteria
    ]


def _said(reading: Effect, _: Translate) -> str:
    """What a reading says; where it is undecided, what would settle it."""
    if reading.says != "undecided" or reading.seeds_needed <= len(reading.values):
        return _(reading.says)
    more = reading.seeds_needed - len(reading.values)
    return _("undecided: {more} more seeds would settle it").format(more=f"{more:,}")


def _p(value: float) -> str:
    return "–" if value != value else "< 0.0001" if value < 1e-4 else number(value, 2)
