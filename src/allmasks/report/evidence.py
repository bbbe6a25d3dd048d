"""The evidence to read: the notes' claims with their verdicts, on the terminal and as one self-contained HTML file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allmasks.report.text import N_, Translate, number, translator

if TYPE_CHECKING:
    from allmasks.evidence import Criterion, Evidence, Finding

__all__ = ["evidence_text", "render_evidence", "show_evidence", "verdict_table", "write_evidence"]

_VERDICTS = (N_("holds"), N_("holds in part"), N_("not seen"), N_("contradicted"))
_SAYS = (N_("for"), N_("against"), N_("nothing"))
_STYLES = {"holds": "green", "holds in part": "yellow", "not seen": "dim", "contradicted": "red"}


def write_evidence(found: Evidence, path: str | Path, lang: str = "en") -> Path:
    """Write one self-contained HTML file that opens offline; it appears complete or not at all.

    Raises
    ------
    ValueError : a language that the report does not speak.
    FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError : the path cannot be written.
    """
    from allmasks.files import check_writable, write_text

    check_writable(path, "report")
    return write_text(path, render_evidence(found, lang))


def evidence_text(found: Evidence, lang: str = "en", *, width: int = 110) -> str:
    """The terminal's table as one string."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False, legacy_windows=False)
    show_evidence(found, console, lang)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def show_evidence(found: Evidence, console: Console, lang: str = "en") -> None:
    """Print every claim's verdict, and what it stands on, as a table."""
    _ = translator(lang)
    console.print(Text(_("The notes' claims, measured"), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(_("claim"), ratio=1)
    table.add_column(_("verdict"), no_wrap=True)
    table.add_column(_("for / against / nothing"), justify="right", no_wrap=True)
    for finding in found.findings:
        says = [reading.says for reading in finding.readings]
        counts = " / ".join(str(says.count(word)) for word in ("for", "against", "nothing"))
        table.add_row(
            str(finding.number),
            Text(finding.title[lang]),
            Text(_(finding.verdict), style=_STYLES[finding.verdict]),
            counts,
        )
    console.print(table)
    for line in _facts(found, _):
        console.print(Text(line, style="dim"))


def verdict_table(found: Evidence, lang: str = "en") -> str:
    """The verdicts as a Markdown table, for the documentation."""
    _ = translator(lang)
    lines = [f"| | {_('claim')} | {_('verdict')} | {_('effects, by criterion and data set')} |", "|---|---|---|---|"]
    for finding in found.findings:
        cells = []
        for i, criterion in enumerate(finding.criteria):
            shown = [
                f"{r.dataset} {number(r.mean, 2)} [{number(r.low, 2)}, {number(r.high, 2)}]{_MARKS[r.says]}"
                for r in finding.readings
                if r.criterion == criterion.key
            ]
            cells.append(f"**{chr(97 + i)}** ({_threshold(criterion, _)}) " + "; ".join(shown))
        lines.append(f"| {finding.number} | {finding.title[lang]} | **{_(finding.verdict)}** | {'<br>'.join(cells)} |")
    return "\n".join(lines) + "\n"


_MARKS = {"for": " ✓", "against": " ✗", "nothing": ""}


def render_evidence(found: Evidence, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    from allmasks.report.diagrams import ANALOGIES, DIAGRAMS, drawing
    from allmasks.report.evidence_charts import effects, picture_chart
    from allmasks.report.html import _digest, _environment, _icon, _library, _own, _safe_json, _version

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
        for verdict in _VERDICTS
    ]
    library, script = _library(), _own("page.js")
    return (
        _environment()
        .get_template("evidence.html.j2")
        .render(
            _=_,
            lang=lang,
            claims=claims,
            counts=counts,
            facts=_facts(found, _),
            figures=_safe_json(figures),
            library=Markup(library),
            script=Markup(script),
            style=Markup(_own("page.css")),
            allowed=f"{_digest(library)} {_digest(script)}",
            icon=_icon(),
            version=_version(),
            seconds=f"{found.seconds:,.0f}",
        )
    )


def _facts(found: Evidence, _: Translate) -> list[str]:
    linear = [name for name in found.linear_datasets if name not in found.datasets]
    facts = [
        _(
            "Data: {datasets}. {seeds} seeds, each with its own split and net; {tests} tests, corrected together."
        ).format(datasets=", ".join([*found.datasets, *linear]), seeds=len(found.seeds), tests=found.n_tests)
    ]
    if found.quick:
        facts.append(_("A quick run: fewer seeds, epochs and data sets. Its verdicts are a first look."))
    if found.null:
        facts.append(
            _("A null run: every treatment is switched off. Whatever is seen here of a comparison would be noise.")
        )
    return facts


def _criteria(finding: Finding, lang: str, _: Translate) -> list[dict[str, Any]]:
    from allmasks.report.evidence_charts import letters

    letter = letters(finding)
    words = {"for": _("for"), "against": _("against"), "nothing": _("nothing")}
    return [
        {
            "letter": letter[criterion.key],
            "text": criterion.text[lang],
            "threshold": _threshold(criterion, _),
            "readings": [
                {
                    "dataset": reading.dataset,
                    "effect": number(reading.mean, 3),
                    "interval": f"[{number(reading.low, 3)}, {number(reading.high, 3)}]",
                    "p": _p(reading.corrected_p_value),
                    "says": words[reading.says],
                    "kind": reading.says,
                }
                for reading in finding.readings
                if reading.criterion == criterion.key
            ],
        }
        for criterion in finding.criteria
    ]


def _threshold(criterion: Criterion, _: Translate) -> str:
    if criterion.kind == "agreement":
        return _("within ±{minimum}").format(minimum=f"{criterion.minimum:g}")
    return _("at least {minimum}").format(minimum=f"{criterion.minimum:g}")


def _p(value: float) -> str:
    return "–" if value != value else "< 0.0001" if value < 1e-4 else number(value, 2)
