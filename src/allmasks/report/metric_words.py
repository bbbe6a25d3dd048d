"""What metrics are called, in the report's languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allmasks.language import N_, Translate

if TYPE_CHECKING:
    from allmasks.evaluation import Evaluation

__all__ = ["metric_rows", "metric_words"]

_WORDS = {
    "accuracy": N_("accuracy"),
    "log_loss": N_("log loss"),
    "brier": N_("Brier score"),
    "calibration_error": N_("calibration error (equal mass, debiased)"),
    "ece_equal_width": N_("calibration error (equal width, biased upwards)"),
    "class_calibration_error": N_("calibration error, class by class"),
    "aurc": N_("area under risk–coverage"),
    "excess_aurc": N_("the same, above the best order"),
    "accuracy_at_coverage": N_("accuracy at the coverage"),
    "coverage_at_risk": N_("coverage at the risk"),
    "auroc": N_("AUROC"),
    "aupr": N_("AUPR"),
    "rmse": N_("RMSE"),
    "mae": N_("MAE"),
    "log_likelihood": N_("log likelihood"),
    "crps": N_("CRPS"),
    "miscalibration_area": N_("miscalibration area"),
    "sharpness": N_("sharpness"),
}
_SCORES = {
    "confidence": N_("confidence"),
    "entropy": N_("entropy"),
    "mutual_information": N_("mutual information"),
}
_OF_SCORES = {
    "error": N_("errors found by {score}: {metric}"),
    "ood": N_("outside data found by {score}: {metric}"),
}
_TASKS = (N_("regression"), N_("binary"), N_("multiclass"))
_LEVELS = {"coverage": N_("coverage of {level} % intervals"), "width": N_("width of {level} % intervals")}


def metric_words(name: str, _: Translate) -> str:
    """A metric's name in words.

    >>> metric_words("error_entropy_auroc", str), metric_words("coverage_90", str)
    ('errors found by entropy: AUROC', 'coverage of 90 % intervals')
    """
    if name in _WORDS:
        return _(_WORDS[name])
    kind, _bar, rest = name.partition("_")
    if kind in _LEVELS:
        return _(_LEVELS[kind]).format(level=rest)
    if kind in _OF_SCORES:
        score, _bar, metric = rest.rpartition("_")
        told = "FPR95" if metric == "fpr95" else _(_WORDS[metric])
        return _(_OF_SCORES[kind]).format(score=_(_SCORES[score]), metric=told)
    return name


def metric_rows(found: Evaluation, _: Translate, most: int = 6) -> list[tuple[str, ...]]:
    """Each metric: its name, all masks, the two errors, eval mode, the difference and whether it is more than noise."""
    from allmasks.report.text import number, plus_minus

    rows: list[tuple[str, ...]] = []
    for name, metric in found.items():
        at_mean, apart = metric.weight_scaling, metric.difference
        rows.append(
            (
                metric_words(name, _),
                plus_minus(metric.value, metric.error, _, most),
                number(metric.masks_error, 2),
                number(metric.data_error, 2) + ("*" if metric.bootstrap else ""),
                "–" if at_mean is None else plus_minus(at_mean.value, at_mean.error, _, most),
                "–" if apart is None else plus_minus(apart.value, apart.error, _, most),
                _verdict(name, found, _),
            )
        )
    return rows


def _verdict(name: str, found: Evaluation, _: Translate) -> str:
    """What averaging masks does, where it is clear of the errors at the evaluation's level."""
    apart = found[name].difference
    if apart is None or not found[name].better:
        return ""
    low, high = apart.interval(found.level)
    if not (low > 0 or high < 0):
        return _("noise")
    return _("better") if (low > 0) == (found[name].better == "higher") else _("worse")
