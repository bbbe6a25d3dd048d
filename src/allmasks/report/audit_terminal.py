"""The audit as a page of text: plain tables for a terminal, a log or a notebook's repr."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from allmasks.language import Translate, translator
from allmasks.report.instrument_charts import summary_rows, summary_terms
from allmasks.report.text import clean, guarantee_words, method_words, number, plus_minus, said, site_label

if TYPE_CHECKING:
    from allmasks.diagnose import Audit, LossGap

__all__ = ["show"]


def show(audit: Audit, console: Console, lang: str = "en") -> None:
    """Print the audit on a rich console.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    console.print(Text(_("Dropout audit of {model}").format(model=clean(audit.model_name)), style="bold"))
    console.print()
    console.print(_headline(audit, _))
    console.print()
    if audit.gap is not None:
        console.print(Text(_("Training and validation loss"), style="bold"))
        console.print(_gap(audit.gap, audit.units, _))
        console.print(Text(said(audit.gap.explanation, _)))
        console.print()
    console.print(Text(_("Sites"), style="bold"))
    console.print(_sites(audit, _) if audit.sites else Text(_("No dropout site was met.")))
    for line in _site_remarks(audit, _):
        console.print(Padding(Text(line), (0, 0, 0, 1)))
    if audit.convergence:
        console.print()
        console.print(Text(_("How the mean over K masks converges"), style="bold"))
        console.print(_convergence(audit, _))
    if audit.instruments:
        console.print()
        console.print(Text(_("Unit by unit"), style="bold"))
        console.print(_instruments(audit, _))
        console.print(Padding(Text(summary_terms(_), style="dim"), (0, 0, 0, 1)))
    console.print()
    console.print(Text(said(audit.explanation, _)))
    for note in audit.notes:
        console.print(Text(_("Note: {note}").format(note=said(note, _))))
    console.print(Text(_("{seconds:.1f} s, seed {seed}").format(seconds=audit.seconds, seed=audit.seed), style="dim"))


def _headline(audit: Audit, _: Translate) -> Table:
    expected = audit.expected
    units = f" {_(audit.units)}" if audit.units else ""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def add(label: str, text: str, style: str = "") -> None:
        table.add_row(Text(label), Text(text, style=style))

    value = plus_minus(expected.value, expected.error, _)
    add(_("expected loss"), value + units, "bold")
    add(_("guarantee"), guarantee_words(expected.guarantee, _))
    add(_("weight-scaling loss"), number(float(expected.weight_scaling_loss)) + units)
    penalty = plus_minus(expected.penalty, expected.penalty_error, _)
    share = ""
    if math.isfinite(audit.penalty_share):
        percent = plus_minus(100 * audit.penalty_share, 100 * audit.penalty_share_error, _)
        share = _(" ({percent} % of the loss)").format(percent=percent)
    add(_("penalty"), penalty + units + share)
    masks = _(", {n} masks an example").format(n=f"{expected.n_masks:,}") if expected.n_masks > 1 else ""
    add(_("method"), method_words(expected.method) + masks)
    add(_("loss"), clean(audit.loss))
    add(_("examples"), f"{audit.n_examples:,}")
    return table


def _gap(gap: LossGap, units: str, _: Translate) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    examples = _("{n} examples")
    training, validation = (examples.format(n=f"{n:,}") for n in (gap.n_training, gap.n_validation))
    for label, value, error, meaning in (
        (_("training loss (train mode)"), gap.training, gap.training_error, training),
        (_("validation loss (eval mode)"), gap.validation, gap.validation_error, validation),
        (_("gap"), gap.gap, gap.gap_error, _("training − validation = dropout's share − generalization")),
        (_("dropout's share"), gap.dropout, gap.dropout_error, _("train − eval mode, the same training examples")),
        (
            _("generalization"),
            gap.generalization,
            gap.generalization_error,
            _("validation − training, both in eval mode"),
        ),
    ):
        table.add_row(Text(label), Text(f"{plus_minus(value, error, _)} {_(units)}"), Text(meaning))
    return table


def _sites(audit: Audit, _: Translate) -> Table:
    found = {one.site.name: one for one in audit.per_site}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_("site"), overflow="fold", min_width=8)
    table.add_column(_("kind"), overflow="fold")
    table.add_column(_("p"), justify="right", no_wrap=True)
    table.add_column(_("units"), justify="right", no_wrap=True)
    table.add_column(_("alone"), justify="right", no_wrap=True)
    table.add_column(_("saved"), justify="right", no_wrap=True)
    for site in audit.sites:
        one = found.get(site.name)
        numbers = ["–", "–"]
        if one is not None:
            numbers = [plus_minus(one.alone, one.alone_error, _), plus_minus(one.saved, one.saved_error, _)]
        row = (site_label(site, _, units=False), clean(site.kind), f"{site.p:g}", f"{site.units:,}", *numbers)
        table.add_row(*(Text(cell) for cell in row))
    if len(audit.per_site) > 1:
        table.add_section()
        interaction = plus_minus(audit.interaction, audit.interaction_error, _)
        table.add_row(Text(_("interaction")), "", "", "", Text(interaction), "")
    return table


def _site_remarks(audit: Audit, _: Translate) -> list[str]:
    remarks = []
    if audit.per_site:
        remarks.append(_("alone: the penalty when only this site is random; saved: what turning only it off saves."))
    if len(audit.per_site) > 1:
        remarks.append(_("interaction: what the sites add or cancel together, beyond the sum of each alone."))
    for site in audit.sites:
        if not site.controllable:
            remarks.append(
                _("{site} cannot be controlled: {reason}").format(site=clean(site.name), reason=clean(site.reason))
            )
    return remarks


def _instruments(audit: Audit, _: Translate) -> Table:
    header, rows = summary_rows(audit.instruments, _)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(header[0], overflow="fold", min_width=6)
    for label in header[1:]:
        table.add_column(label, justify="right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _convergence(audit: Audit, _: Translate) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    versus = _("off the exact value") if audit.exact is not None else _("off the best estimate")
    for label in (_("K"), _("mean over K masks"), versus):
        table.add_column(label, justify="right", no_wrap=True)
    for point in audit.convergence:
        difference = point.value - audit.reference
        table.add_row(f"{point.n_masks:,}", plus_minus(point.value, point.error, _), f"{difference:+.2g}")
    return table
