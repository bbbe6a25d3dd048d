"""The evidence on a terminal, and as a Markdown table: the notes' claims with their verdicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allmasks.language import N_, Translate, translator
from allmasks.report.text import number

if TYPE_CHECKING:
    from allmasks.evidence import Criterion, Evidence

__all__ = ["SAYS", "VERDICTS", "facts", "show", "threshold", "verdict_table"]

VERDICTS = {
    N_("holds"): "green",
    N_("holds in part"): "yellow",
    N_("absent"): "magenta",
    N_("undecided"): "dim",
    N_("contradicted"): "red",
}
"""Verdicts and their colors, the best for a claim first."""

SAYS = {N_("for"): " ✓", N_("against"): " ✗", N_("absent"): " ○", N_("undecided"): ""}
"""What a reading says, and its mark."""


def show(found: Evidence, console: Console, lang: str = "en") -> None:
    """Print every claim's verdict, and what it stands on, as a table."""
    _ = translator(lang)
    console.print(Text(_("The notes' claims, measured"), style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(_("claim"), ratio=1)
    table.add_column(_("verdict"), no_wrap=True)
    table.add_column(_("for / against / absent / undecided"), justify="right", no_wrap=True)
    for finding in found.findings:
        says: list[str] = [reading.says for reading in finding.readings]
        counts = " / ".join(str(says.count(word)) for word in SAYS)
        table.add_row(
            str(finding.number),
            Text(finding.title[lang]),
            Text(_(finding.verdict), style=VERDICTS[finding.verdict]),
            counts,
        )
    console.print(table)
    for line in facts(found, _):
        console.print(Text(line, style="dim"))


def verdict_table(found: Evidence, lang: str = "en") -> str:
    """The verdicts as a Markdown table, for the documentation."""
    _ = translator(lang)
    lines = [f"| | {_('claim')} | {_('verdict')} | {_('effects, by criterion and data set')} |", "|---|---|---|---|"]
    for finding in found.findings:
        cells = []
        for i, criterion in enumerate(finding.criteria):
            shown = [
                f"{r.dataset} {number(r.mean, 2)} [{number(r.low, 2)}, {number(r.high, 2)}]{SAYS[r.says]}"
                for r in finding.readings
                if r.criterion == criterion.key
            ]
            cells.append(f"**{chr(97 + i)}** ({threshold(criterion, _)}) " + "; ".join(shown))
        lines.append(f"| {finding.number} | {finding.title[lang]} | **{_(finding.verdict)}** | {'<br>'.join(cells)} |")
    return "\n".join(lines) + "\n"


def facts(found: Evidence, _: Translate) -> list[str]:
    """What was run, in sentences."""
    linear = [name for name in found.linear_datasets if name not in found.datasets]
    told = [
        _(
            "Data: {datasets}. {seeds} seeds, each with its own split and net; {tests} tests, corrected together."
        ).format(datasets=", ".join([*found.datasets, *linear]), seeds=len(found.seeds), tests=found.n_tests)
    ]
    if found.scale == "full":
        told.append(_("Full scale: nets of 3 × 1,024 units, 0.2 of the inputs and 0.5 of the hidden units dropped."))
    if found.more:
        told.append(_("A larger budget would add: {what}").format(what="; ".join(found.more)))
    if found.quick:
        told.append(_("A quick run: fewer seeds, epochs and data sets. Its verdicts are a first look."))
    if found.null:
        told.append(
            _("A null run: every treatment is switched off. Whatever is seen here of a comparison would be noise.")
        )
    return told


def threshold(criterion: Criterion, _: Translate) -> str:
    """What a criterion asks for."""
    if criterion.kind == "agreement":
        return _("within ±{minimum}").format(minimum=f"{criterion.minimum:g}")
    return _("at least {minimum}").format(minimum=f"{criterion.minimum:g}")
