"""The evaluation as an HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allmasks.language import translator
from allmasks.report.evaluation_charts import evaluation_charts
from allmasks.report.html import fill
from allmasks.report.metric_words import metric_rows, metric_words
from allmasks.report.text import guarantee_words, method_words, number, plus_minus, said

if TYPE_CHECKING:
    from allmasks.evaluation import Evaluation
    from allmasks.language import Translate

__all__ = ["render"]


def render(found: Evaluation, lang: str = "en") -> str:
    """The whole page as a string.

    Raises
    ------
    ValueError : a language that the report does not speak.
    """
    _ = translator(lang)
    charts = evaluation_charts(found, _)
    regression = found.task == "regression"
    names = ("log_likelihood", "crps", "rmse") if regression else ("log_loss", "accuracy", "calibration_error")
    tiles = [
        (metric_words(n, _), plus_minus(found[n].value, found[n].error, _, 6), _difference(found, n, _))
        for n in names
        if n in found
    ]
    return fill(
        "evaluation.html.j2",
        _,
        lang,
        {chart.key: chart.figure for chart in charts},
        found=found,
        tiles=tiles,
        guarantee=guarantee_words(found.guarantee, _),
        method=method_words(found.method),
        noise="" if found.noise_precision is None else number(found.noise_precision),
        rows=metric_rows(found, _),
        notes=[said(note, _) for note in found.notes],
        charts=charts,
    )


def _difference(found: Evaluation, name: str, _: Translate) -> str:
    apart = found[name].difference
    return "" if apart is None else plus_minus(apart.value, apart.error, _, 6)
