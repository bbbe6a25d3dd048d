"""From effects to verdicts: least effects that matter, p-values corrected for everything that was tested."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allmasks.diagnose.paired import holm, interval, p_value
from allmasks.evidence.claim import Criterion, Effect, Verdict
from allmasks.evidence.power import ALPHA, BELOW, power, seeds_for, upper_spread

__all__ = ["judge", "verdict", "with_power"]


def judge(readings: Sequence[tuple[Criterion, Effect]]) -> list[Effect]:
    """Every reading with its interval, its p-value corrected over all of them (Holm), and what it says.

    A difference is *for* or *against* where its corrected two-sided p-value is below 5 % and it is not surely
    (one-sided 5 %) smaller than the least effect that matters; *absent* where two one-sided tests, corrected over all
    readings, show that it is smaller either way (Schuirmann 1987). An agreement is *for* where its deviation is surely
    within the tolerance, *against* where surely outside. All else is *undecided*. Over all claims together noise alone
    speaks with a chance of at most 5 %, and as seldom is an effect that matters called absent.
    """
    tests = [_p_value(criterion, reading) for criterion, reading in readings]
    equal = [_smaller(criterion, reading) for criterion, reading in readings]
    corrected, corrected_equal = holm(tests), holm(equal)
    found = []
    for i, (criterion, reading) in enumerate(readings):
        mean, _, low, high = interval(reading.values)
        found.append(
            replace(
                reading,
                mean=mean,
                low=low,
                high=high,
                p_value=tests[i],
                corrected_p_value=float(corrected[i]),
                absence_p_value=float(corrected_equal[i]),
                says=_says(criterion, reading, mean, float(corrected[i]), float(corrected_equal[i])),
            )
        )
    return found


def with_power(judged: Sequence[tuple[Criterion, Effect]]) -> list[Effect]:
    """Readings with their spread, the power that it gives, and the seeds that would settle each."""
    tests = max(sum(math.isfinite(reading.p_value) for _, reading in judged), 1)
    found = []
    for criterion, reading in judged:
        n = len(reading.values)
        spread = float(np.std(reading.values, ddof=1)) if n > 1 else math.nan
        if math.isfinite(spread):
            chance = power(criterion.minimum, spread, n, tests, criterion.kind)
            needed = seeds_for(criterion.minimum, upper_spread(spread, n), tests, criterion.kind)
            reading = replace(reading, spread=spread, power=chance, seeds_needed=needed)
        found.append(reading)
    return found


def _says(criterion: Criterion, reading: Effect, mean: float, p: float, p_equal: float) -> str:
    if criterion.kind == "agreement":
        return "undecided" if not p < ALPHA else "for" if abs(mean) < criterion.minimum else "against"
    sign = 1.0 if mean > 0 else -1.0
    if p < ALPHA and not p_value([-sign * v for v in reading.values], -criterion.minimum) < BELOW:
        return "for" if mean > 0 else "against"
    return "absent" if p_equal < ALPHA else "undecided"


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
    return min(1.0, 2 * min(_inside(values, t), above, below))


def _smaller(criterion: Criterion, reading: Effect) -> float:
    """p-value of "the effect is as large as what matters, one way or the other"; nan for agreements."""
    if criterion.kind == "agreement" or not all(math.isfinite(v) for v in reading.values):
        return math.nan
    return _inside(reading.values, criterion.minimum)


def _inside(values: Sequence[float], tolerance: float) -> float:
    return max(p_value(values, -tolerance), p_value([-v for v in values], -tolerance))


def verdict(readings: Sequence[Effect]) -> Verdict:
    """holds: every reading is for it. contradicted: some against, none for. Else absent if all are, or undecided."""
    says = {reading.says for reading in readings}
    if "for" in says:
        return "holds" if says == {"for"} else "holds in part"
    if "against" in says:
        return "contradicted"
    return "absent" if says == {"absent"} else "undecided"
