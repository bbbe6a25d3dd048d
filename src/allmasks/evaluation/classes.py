"""Classifications with their labels, and the metrics of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from allmasks.evaluation.calibration_error import Bins
from allmasks.evaluation.measures import Floats, Measure, averaged
from allmasks.evaluation.ranking import Ranked, auroc_influence
from allmasks.evaluation.selective import Selective

__all__ = ["Classes", "Mixed", "Options", "class_measures", "detection_measures"]

_LEAST = 2.0**-1022


@dataclass(frozen=True)
class Classes:
    """Mean probabilities of some masks, or of eval mode, with the labels.

    Parameters
    ----------
    p : (N, C). y : (N,) class numbers; empty for data without labels.
    log_p : (N,) log of the label's probability, where it is known better than from `p`.
    expected_entropy : (N,) mean over masks of the entropy; None in eval mode.
    """

    p: Floats
    y: NDArray[np.int64]
    log_p: Floats | None = None
    expected_entropy: Floats | None = None

    @cached_property
    def of_label(self) -> Floats:
        return self.p[np.arange(len(self.y)), self.y]

    @cached_property
    def log_loss(self) -> Floats:
        return -(np.log(np.maximum(self.of_label, _LEAST)) if self.log_p is None else self.log_p)

    @cached_property
    def brier(self) -> Floats:
        square: Floats = (self.p**2).sum(axis=1) - 2 * self.of_label + 1
        return square

    @cached_property
    def chosen(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.p.argmax(axis=1)
        return found

    @cached_property
    def confidence(self) -> Floats:
        found: Floats = self.p.max(axis=1)
        return found

    @cached_property
    def wrong(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.chosen != self.y
        return found

    @cached_property
    def entropy(self) -> Floats:
        found: Floats = entr(self.p).sum(axis=1)
        return found

    @cached_property
    def mutual_information(self) -> Floats:
        assert self.expected_entropy is not None
        return np.maximum(self.entropy - self.expected_entropy, 0.0)

    @cached_property
    def bins(self) -> dict[Any, Bins]:
        return {}

    def binned(self, n_bins: int, equal: str, of: int | None = None) -> Bins:
        """Bins of the chosen class's probability, or of one class's."""
        key = (n_bins, equal, of)
        if key not in self.bins:
            if of is None:
                self.bins[key] = Bins(self.confidence, ~self.wrong, n_bins, equal)
            else:
                self.bins[key] = Bins(self.p[:, of], self.y == of, n_bins, equal)
        return self.bins[key]


@dataclass(frozen=True)
class Options:
    """Where metrics have thresholds: bins of calibration errors, the share answered, the risk allowed."""

    n_bins: int = 15
    coverage: float = 0.8
    risk: float = 0.05

    def __post_init__(self) -> None:
        if not isinstance(self.n_bins, int | np.integer) or self.n_bins < 1:
            raise ValueError(f"n_bins must be at least 1, and a whole number, got {self.n_bins!r}")
        for name in ("coverage", "risk"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")


SCORES: dict[str, Callable[[Classes], Floats]] = {
    "confidence": lambda c: 1 - c.confidence,
    "entropy": lambda c: c.entropy,
    "mutual_information": lambda c: c.mutual_information,
}
"""What says "look at this one", high where in doubt."""


def class_measures(options: Options, n_classes: int, *, binary: bool) -> list[Measure]:
    """Every metric of a classification with labels."""

    def top(equal: str, norm: str, debias: bool) -> Callable[[Classes, Floats | None], Floats]:
        return lambda c, w: c.binned(options.n_bins, equal).error(norm, debias=debias, weights=w)

    def by_class(c: Classes, w: Floats | None) -> Floats:
        every = [c.binned(options.n_bins, "mass", k).error("l2", weights=w) ** 2 for k in range(n_classes)]
        return np.sqrt(np.mean(every, axis=0))

    def selective(function: Callable[[Selective], Floats]) -> Callable[[Classes, Floats | None], Floats]:
        return lambda c, w: function(Selective(c.confidence, c.wrong, w))

    found = [
        averaged("accuracy", lambda c: 1.0 - c.wrong, smooth=False, better="higher"),
        averaged("log_loss", lambda c: c.log_loss),
        averaged("brier", lambda c: c.brier / 2 if binary else c.brier),
        Measure("calibration_error", top("mass", "l2", True), better="lower"),
        Measure("ece_equal_width", top("width", "l1", False), better="lower"),
        Measure("class_calibration_error", by_class, better="lower"),
        Measure("aurc", selective(Selective.aurc), better="lower"),
        Measure("excess_aurc", selective(Selective.excess), better="lower"),
        Measure("accuracy_at_coverage", selective(lambda s: s.accuracy_at(options.coverage)), better="higher"),
        Measure("coverage_at_risk", selective(lambda s: s.coverage_at(options.risk)), better="higher"),
    ]
    if binary:
        found += ranked("", lambda c: c.p[:, 1], lambda c: c.y == 1, eval_mode=True, corrected=True)
    for name, score in SCORES.items():
        found += ranked(f"error_{name}_", score, lambda c: c.wrong, eval_mode=name != "mutual_information")
    return found


def ranked(
    prefix: str,
    score: Callable[[Any], Floats],
    positive: Callable[[Any], NDArray[np.bool_]],
    *,
    eval_mode: bool,
    corrected: bool = False,
) -> list[Measure]:
    """AUROC and AUPR of one score."""

    def influence(c: Any) -> Floats:
        return auroc_influence(score(c), positive(c))

    def auroc(c: Any, w: Floats | None) -> Floats:
        return Ranked(score(c), positive(c), w).auroc()

    def aupr(c: Any, w: Floats | None) -> Floats:
        return Ranked(score(c), positive(c), w).average_precision()

    return [
        Measure(f"{prefix}auroc", auroc, influence, False, "higher", eval_mode, corrected),
        Measure(f"{prefix}aupr", aupr, None, False, "higher", eval_mode),
    ]


@dataclass(frozen=True)
class Mixed:
    """Data of the distribution and data outside it."""

    inside: Classes
    outside: Classes

    @cached_property
    def foreign(self) -> NDArray[np.bool_]:
        return np.repeat([False, True], [len(self.inside.p), len(self.outside.p)])

    def score(self, name: str) -> Floats:
        return np.concatenate([SCORES[name](self.inside), SCORES[name](self.outside)])


def detection_measures() -> list[Measure]:
    """Every metric of telling data outside the distribution by a score."""
    found: list[Measure] = []
    for name in SCORES:

        def score(mixed: Mixed, name: str = name) -> Floats:
            return mixed.score(name)

        def false_positives(mixed: Mixed, w: Floats | None, name: str = name) -> Floats:
            return Ranked(mixed.score(name), mixed.foreign, w).false_positives()

        eval_mode = name != "mutual_information"
        found += ranked(f"ood_{name}_", score, lambda m: m.foreign, eval_mode=eval_mode, corrected=True)
        found.append(Measure(f"ood_{name}_fpr95", false_positives, None, False, "lower", eval_mode))
    return found
