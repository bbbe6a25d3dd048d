"""From effects to verdicts: minimum effects, and p-values corrected for everything that was tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from allmasks.diagnose.paired import holm, interval, p_value
from allmasks.evidence.claim import Criterion, Effect, Verdict

__all__ = ["judge", "verdict"]

ALPHA = 0.05


def judge(readings: Sequence[tuple[Criterion, Effect]]) -> list[Effect]:
    """Every reading with its interval, its p-value corrected over all of them (Holm), and what it says.

    A difference speaks where its mean is at least the minimum effect, either way, and its corrected two-sided p-value
    is below 5 %. An agreement speaks where its mean is within the tolerance, or outside, and the corrected p-value of
    "it is not" is below 5 %. So over all claims together the chance that noise alone speaks is at most 5 %.
    """
    tests = [_p_value(criterion, reading) for criterion, reading in readings]
    corrected = holm(tests)
    found = []
    for (criterion, reading), p, p_corrected in zip(readings, tests, corrected, strict=True):
        mean, _, low, high = interval(reading.values)
        sure = math.isfinite(p_corrected) and p_corrected < ALPHA
        if criterion.kind == "difference":
            says = "for" if sure and mean >= criterion.minimum else "nothing"
            says = "against" if sure and mean <= -criterion.minimum else says
        else:
            says = "nothing" if not sure else "for" if abs(mean) < criterion.minimum else "against"
        found.append(
            replace(
                reading,
                mean=mean,
                low=low,
                high=high,
                p_value=p,
                corrected_p_value=float(p_corrected),
                says=says,  # type: ignore[arg-type]
            )
        )
    return found


def _p_value(criterion: Criterion, reading: Effect) -> float:
    values = reading.values
    if not all(math.isfinite(v) for v in values):
        return math.nan
    if criterion.kind == "difference":
        up = p_value(values)
        # All zero: no noise, and no effect either way.
        return 1.0 if not any(values) else min(1.0, 2 * min(up, 1 - up))
    t = criterion.minimum
    above, below = p_value(values, t), p_value([-v for v in values], t)
    inside = max(p_value(values, -t), p_value([-v for v in values], -t))
    return min(1.0, 2 * min(inside, above, below))


def verdict(readings: Sequence[Effect]) -> Verdict:
    """holds: every reading is for it. contradicted: some against, none for. not seen: none either way."""
    says = [reading.says for reading in readings]
    if "for" not in says:
        return "contradicted" if "against" in says else "not seen"
    return "holds" if set(says) == {"for"} else "holds in part"
