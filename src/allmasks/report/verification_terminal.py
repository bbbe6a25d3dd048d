"""A verification as text: what is wrong, what was tested, and how small a fault would have been seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allmasks.language import Translate, translator
from allmasks.report.text import clean, number, said

if TYPE_CHECKING:
    from allmasks.verification import Finding, Verification

__all__ = ["finding_line", "headline", "show", "summary", "tested_rows"]


def show(found: Verification, console: Console, lang: str = "en") -> None:
    """Print the verification on a rich console.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    console.print(Text(headline(found, _), style="bold green" if found.ok else "bold red"))
    for finding in found.findings:
        console.print()
        place = f" · {clean(finding.where)}" if finding.where else ""
        console.print(Text(f"✗ {finding.fault}{place}", style="red"))
        console.print(Text(f"  {said(finding.sentence, _)}"))
        console.print(Text(f"  {finding_line(finding, _)}", style="dim"))
    console.print()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_("tested"), overflow="fold")
    for label in (_("tests"), _("smallest p"), _("would be seen")):
        table.add_column(label, justify="right", no_wrap=True)
    for row in tested_rows(found, _):
        table.add_row(*map(Text, row))
    console.print(table)
    for line in summary(found, _):
        console.print(Text(line, style="dim"))
    for note in found.notes:
        console.print(Text(_("Note: {note}").format(note=said(note, _))))


def finding_line(finding: Finding, _: Translate) -> str:
    """What was expected and seen, with the p-value."""
    told = _("expected {expected}, seen {seen}, p = {p}")
    return told.format(expected=clean(finding.expected), seen=clean(finding.seen), p=number(finding.p_value, 2))


def headline(found: Verification, _: Translate) -> str:
    """One line: right, or how many faults."""
    if found.ok:
        return _("The dropout of {model} is what it should be, as far as this run can tell").format(
            model=clean(found.model_name)
        )
    return _("The dropout of {model} is not what it should be: {n} found").format(
        model=clean(found.model_name), n=len(found.findings)
    )


def tested_rows(found: Verification, _: Translate) -> list[tuple[str, str, str, str]]:
    """What was tested of what, how often, the smallest p-value, and what would have been caught."""
    groups: dict[str, list[float]] = {}
    for check in found.checks:
        groups.setdefault(check.site or check.property, []).append(check.p_value)
    rows = []
    for name, values in groups.items():
        least = found.detectable.get(name, found.detectable.get(f"rate of {name}", math.nan))
        if name.startswith("gradient along ∇"):
            least = found.detectable.get("gradient", math.nan)
        shown = "" if math.isnan(least) else number(least, 2)
        if f"rate of {name}" in found.detectable:
            shown = f"Δp {shown}"
        rows.append((clean(name), f"{len(values)}", number(min(values), 2), shown))
    return rows


def summary(found: Verification, _: Translate) -> list[str]:
    """How it was computed."""
    lines = []
    if math.isfinite(found.expected_loss):
        told = _("mean loss {mean} over {passes} passes, E_m[L] = {expected}, eval mode {eval_loss}")
        lines.append(
            told.format(
                mean=number(found.mean_loss, 6), passes=found.passes, expected=number(found.expected_loss, 6),
                eval_loss=number(found.eval_mode_loss, 6),
            )
        )  # fmt: skip
    told = _("p-values are adjusted for all {n} tests; a right step fails with probability {level} at most")
    lines.append(told.format(n=len(found.checks), level=number(found.level, 2)))
    lines.append(
        _("{witnessed} passes were looked into, {seconds:.1f} s, seed {seed}").format(
            witnessed=found.witnessed, seconds=found.seconds, seed=found.seed
        )
    )
    return lines
