"""What a metric is: a number of scored entries, by weight, and where it is smooth what each entry does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Measure", "averaged"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes
    ----------
    name : as in an `Evaluation`.
    value : (scored entries, weights (B, N) or None) -> (B,).
    influence : scored entries -> (N,), what each moves the value by; None: its error over data is a bootstrap's.
    smooth : whether it is a smooth function of the means over masks.
    corrected : whether, though it is not, it is one on the scale of their errors (a mean over many pairs), so that its
        bias can be taken away all the same.
    better : "lower", "higher", or "" where neither is.
    eval_mode : whether eval mode has it too.
    """

    name: str
    value: Callable[[Any, Floats | None], Floats]
    influence: Callable[[Any], Floats] | None = None
    smooth: bool = False
    better: str = ""
    eval_mode: bool = True
    corrected: bool = False


def averaged(
    name: str,
    of: Callable[[Any], Floats],
    *,
    root: bool = False,
    smooth: bool = True,
    better: str = "lower",
) -> Measure:
    """The mean of a number (N,) of each entry, or its root."""

    def value(scored: Any, weights: Floats | None) -> Floats:
        each = of(scored)
        mean = each.mean(keepdims=True) if weights is None else weights @ each / weights.sum(axis=1)
        return np.sqrt(mean) if root else mean

    def influence(scored: Any) -> Floats:
        each = of(scored)
        if np.ptp(each) <= 1e-14 * np.abs(each).max():
            return np.zeros_like(each)
        mean = each.mean()
        slope = 1.0 if not root else 0.5 / max(np.sqrt(mean), 1e-300)
        return slope * (each - mean) / len(each)

    return Measure(name, value, influence, smooth, better)
