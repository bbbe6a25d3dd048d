"""What `am.evaluate` returns: every metric in three readings, each with its error over masks and over data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scipy.special import ndtri, stdtrit

from allmasks.methods import Method
from allmasks.replicates import check_level
from allmasks.results import Guarantee, Reported, Result, with_error

__all__ = ["AtMasks", "Evaluation", "Metric"]


@dataclass(frozen=True, repr=False)
class Metric(Result):
    """One number about predictions on a test set, with what is unknown about it.

    Attributes
    ----------
    value : of the mean over all masks: what K masks give, corrected for their bias where the metric is smooth in the
        means over masks. Of eval mode, or the difference, in those readings.
    masks_error : standard error over masks, this test set given; a round-off bound where all masks were listed or
        integrated, nan from one mask.
    data_error : standard error over test sets of this size, for all masks; nan where this one cannot show any (not one
        wrong answer).
    error : of both together.
    n : units of the data that errors stand on: examples, or groups.
    plug_in : the metric of the mean over the masks that were drawn, as any other library has it.
    n_replicates : independent groups of masks behind `masks_error`; 0 where it is proven.
    bootstrap : whether `data_error` is a bootstrap's, for metrics that are not smooth; else a jackknife's.
    better : "lower", "higher", or "" where neither is.
    weight_scaling : the same metric in eval mode, None where that has none.
    difference : that of all masks less that of eval mode, with the errors of the paired difference.
    """

    name: str
    value: float
    masks_error: float
    data_error: float
    error: float
    n: int
    plug_in: float
    n_replicates: int = 0
    bootstrap: bool = False
    better: str = ""
    weight_scaling: Metric | None = None
    difference: Metric | None = None

    @property
    def masks(self) -> Metric:
        """The mean over all masks: this metric itself, beside `weight_scaling` and `difference`."""
        return self

    def interval(self, level: float = 0.95, over: str = "both") -> tuple[float, float]:
        """Where the true value lies with this confidence: Student's t, with the degrees of freedom of its errors.

        Parameters
        ----------
        over : "masks": its value on this test set with all masks. "data", "both": its value in the population.

        Raises
        ------
        ValueError : another `over`, or a level outside (0, 1).
        """
        check_level(level)
        errors = {"masks": self.masks_error, "data": self.data_error, "both": self.error}
        if over not in errors:
            raise ValueError(f'over must be "masks", "data" or "both", got {over!r}')
        error = errors[over]
        half = error * self._reach(level, over)
        return self.value - half, self.value + half

    def _reach(self, level: float, over: str) -> float:
        """Satterthwaite's degrees where two errors add up."""
        of_masks = max(self.n_replicates - 1, 0)
        if over == "masks":
            return 1.0 if not self.n_replicates else float(stdtrit(of_masks, 0.5 + level / 2)) if of_masks else math.nan
        parts = [(self.data_error, self.n - 1)]
        if over == "both" and of_masks:
            parts.append((self.masks_error, of_masks))
        total = sum(e**2 for e, _ in parts)
        bottom = sum(e**4 / max(df, 1) for e, df in parts)
        if not (bottom > 0 and math.isfinite(total)):
            return float(ndtri(0.5 + level / 2))
        return float(stdtrit(total**2 / bottom, 0.5 + level / 2))

    def _title(self) -> str:
        return self.name

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("all masks", with_error(self.value, self.error))]
        rows.append(("", f"± {self.masks_error:.2g} over masks, ± {self.data_error:.2g} over data"))
        for label, other in (("weight scaling", self.weight_scaling), ("difference", self.difference)):
            if other is not None:
                rows.append((label, with_error(other.value, other.error)))
        return rows


@dataclass(frozen=True)
class AtMasks:
    """A metric of the mean over so many masks, averaged over sets of them, with its error over masks."""

    n_masks: int
    value: float
    error: float


@dataclass(frozen=True, repr=False)
class Evaluation(Reported, Mapping[str, Metric]):
    """Metrics of predictions on a test set: `evaluation["log_loss"]`, and so on for every name in it.

    Attributes
    ----------
    task, guarantee, method, n_masks : as in the `Prediction`.
    n_examples, n_entries, n_groups : examples; numbers predicted (pixels, tokens); units that errors stand on.
    level : of intervals in reports.
    metrics : name -> `Metric`, of the mean over all masks, with `.weight_scaling` and `.difference`.
    by_masks : name -> what means over 1, 2, 4, … masks give, and at the end what all would (n_masks 0).
    curves : what the pictures are drawn from, in plain numbers.
    noise_precision : τ of a regression's noise, stated or fitted; None where there is none.
    notes : sentences a reader should know.
    """

    task: str
    guarantee: Guarantee
    method: Method
    n_masks: int
    n_examples: int
    n_entries: int
    n_groups: int
    level: float
    metrics: dict[str, Metric]
    by_masks: dict[str, tuple[AtMasks, ...]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    noise_precision: float | None = None
    seed: int = 0
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Metric:
        if name not in self.metrics:
            raise KeyError(f"no metric {name!r} here; there are {', '.join(self.metrics)}")
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    __hash__ = None  # type: ignore[assignment]

    @property
    def masks(self) -> dict[str, Metric]:
        """Every metric of the mean over all masks."""
        return {name: replace(m, weight_scaling=None, difference=None) for name, m in self.metrics.items()}

    @property
    def weight_scaling(self) -> dict[str, Metric]:
        """Every metric in eval mode that there is."""
        return {name: m.weight_scaling for name, m in self.metrics.items() if m.weight_scaling is not None}

    @property
    def difference(self) -> dict[str, Metric]:
        """Every metric of all masks less that of eval mode, as paired differences."""
        return {name: m.difference for name, m in self.metrics.items() if m.difference is not None}

    def masks_needed(self, metric: str, within: float) -> int:
        """Masks whose mean gives this metric within so much of what all masks give.

        The least K with √(bias² + variance) ≤ `within`, on this test set: the bias c/K and the variance v/K as the
        masks drawn show them.

        Raises
        ------
        KeyError : an unknown metric. ValueError : a `within` that is not positive, or too few masks to tell.
        """
        found = self[metric]
        if not (within > 0 and math.isfinite(within)):
            raise ValueError(f"within must be positive, got {within}")
        if not self.n_masks or not found.n_replicates:
            raise ValueError(
                f"these predictions are {self.guarantee}, so no number of masks is needed; to see what K masks give, "
                "evaluate with method=am.methods.MonteCarlo()"
            )
        drawn = [point.value for point in self.by_masks.get(metric, ()) if point.n_masks == self.n_masks]
        bias = ((drawn[0] if drawn else found.plug_in) - found.value) * self.n_masks
        spread = found.masks_error**2 * self.n_masks
        if not math.isfinite(bias + spread):
            raise ValueError(f"{self.n_masks} masks show no error of {metric}; evaluate with 32 or more")
        # c²/K² + v/K = w²: the positive root of w² K² − v K − c² = 0.
        return max(1, math.ceil((spread + math.sqrt(spread**2 + 4 * within**2 * bias**2)) / (2 * within**2)))

    def _title(self) -> str:
        return f"Evaluation: {self.task}, {self.n_examples} examples"
