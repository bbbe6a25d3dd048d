"""The evaluation as a page of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from allmasks.language import translator
from allmasks.report.metric_words import metric_rows
from allmasks.report.text import guarantee_words, said

if TYPE_CHECKING:
    from allmasks.evaluation import Evaluation

__all__ = ["show"]


def show(found: Evaluation, console: Console, lang: str = "en") -> None:
    """Print the evaluation on a rich console.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    title = _("Evaluation: {task}, {n} examples").format(task=_(found.task), n=f"{found.n_examples:,}")
    console.print(Text(title, style="bold"))
    masks = _(", {n} masks an example").format(n=f"{found.n_masks:,}") if found.n_masks > 1 else ""
    console.print(Text(guarantee_words(found.guarantee, _) + masks, style="dim"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(_("metric"), overflow="fold", min_width=10)
    for label in (_("all masks"), _("over masks"), _("over data"), _("weight scaling"), _("difference")):
        table.add_column(label, justify="right", overflow="fold")
    table.add_column(_("masks are"))
    for row in metric_rows(found, _, 5):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    told = _("± both errors; over masks: this test set given; over data: other test sets. * by bootstrap.")
    console.print(Text(told, style="dim"))
    for note in found.notes:
        console.print(Text(_("Note: {note}").format(note=said(note, _))))
