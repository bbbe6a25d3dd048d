"""Errors of metrics: over masks by leaving replicates out, over data by influence or by resampling units.

Over masks, a metric that is smooth in the means over masks has the delete-one-replicate jackknife, which also takes its
bias away. One that is not (a label flips or it does not) would be off by √(replicates) there. It has half of the
replicates left out at a time, which is consistent for it (Shao & Wu 1989), and keeps its plug-in value, whose bias then
counts as error. An AUROC has half left out too, and its bias taken away: by what three quarters left out change, since
the noise of single pairs of entries, which a correction meets again, enters a third of that shift and all of a half's.

Over data, a smooth metric has the jackknife by influence: what each unit moves it by. The others have 200 bootstrap
samples of units, the same ones for both readings, so that differences are paired.

Where examples have masks of their own, the spread over examples already holds that of their masks: then
data² = spread² − masks² is what test sets alone add, and spread² the error of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from allmasks.evaluation.measures import Floats, Measure
from allmasks.evaluation.metric import AtMasks, Metric
from allmasks.replicates import from_left_out

__all__ = ["Masked", "Units", "by_masks", "measured"]

BOOTSTRAPS = 200
_HALVES = 32
_PARTITIONS, _PARTS = 16, 4
_NUMBERS = 2**22
_SETS = 8


@dataclass(frozen=True)
class Units:
    """Which unit of the data each entry belongs to.

    Parameters
    ----------
    of : (N,) numbers 0 … n − 1. stratum : (n,) within which units are resampled.
    """

    of: NDArray[np.int64]
    stratum: NDArray[np.int64]

    @property
    def n(self) -> int:
        return len(self.stratum)

    def error(self, influence: Floats) -> float:
        """Jackknife's standard error of what entries move by `influence`; nan with one unit."""
        total, square = np.bincount(self.of, influence, minlength=self.n), 0.0
        for s in np.unique(self.stratum):
            own = total[self.stratum == s]
            if len(own) < 2:
                return math.nan
            square += len(own) / (len(own) - 1) * float((own - own.mean()) @ (own - own.mean()))
        return math.sqrt(square)

    def bootstraps(self, seed: int) -> Iterator[Floats]:
        """Weights (B, N) of resampled units, 200 in all, some at a time."""
        rng = np.random.default_rng([seed, 0xB007])
        step, done = max(1, _NUMBERS // max(len(self.of), 1)), 0
        while done < BOOTSTRAPS:
            rows = min(step, BOOTSTRAPS - done)
            weights = np.zeros((rows, self.n))
            for s in np.unique(self.stratum):
                mine = np.flatnonzero(self.stratum == s)
                weights[:, mine] = rng.multinomial(len(mine), np.full(len(mine), 1 / len(mine)), size=rows)
            yield weights[:, self.of]
            done += rows


@dataclass(frozen=True)
class Masked:
    """Scored entries as a function of how much each replicate of masks counts.

    Attributes
    ----------
    at : (r,) shares that add up to 1, or None for all masks as they are -> scored entries.
    sizes : (r,) masks in each; empty where no error over masks is statistical.
    eval_mode : the scored entries of eval mode.
    shared : whether a mask may serve several examples.
    moved : scored entries with predictions moved as far as round-off allows, towards the targets and away from them.
    """

    at: Callable[[Floats | None], Any]
    sizes: NDArray[np.int64]
    eval_mode: Any
    shared: bool
    moved: tuple[Any, ...] = ()


def measured(masked: Masked, measures: Sequence[Measure], units: Units, seed: int) -> dict[str, Metric]:
    """Every metric with its errors, in three readings."""
    whole = masked.at(None)
    plain = {m.name: float(m.value(whole, None)[0]) for m in measures}
    value, masks_error = _over_masks(masked, measures, plain)
    spreads = _over_data(whole, masked.eval_mode, measures, units, seed)
    found = {}
    n_replicates = len(masked.sizes) if len(masked.sizes) > 1 else 0
    for measure in measures:
        name = measure.name
        own, eval_spread, difference_spread = spreads[name]
        common = {
            "n": units.n,
            "bootstrap": measure.influence is None,
            "better": measure.better,
        }

        def metric(
            values: tuple[float, float], masks: float, spread: float, replicates: int, of: Any = (name, common)
        ) -> Metric:
            data, both = _parted(spread, masks, masked.shared)
            return Metric(of[0], values[0], masks, data, both, plug_in=values[1], n_replicates=replicates, **of[1])

        off = masks_error[name]
        main = metric((value[name], plain[name]), off, own, n_replicates)
        if measure.eval_mode:
            at_mean = float(measure.value(masked.eval_mode, None)[0])
            main = replace(
                main,
                weight_scaling=metric((at_mean, at_mean), 0.0, eval_spread, 0),
                difference=metric((value[name] - at_mean, plain[name] - at_mean), off, difference_spread, n_replicates),
            )
        found[name] = main
    return found


def _parted(spread: float, masks: float, shared: bool) -> tuple[float, float]:
    """Errors over data alone and over both, from the spread over units and the error over masks."""
    if math.isnan(masks):
        return (spread, math.nan)
    if shared:
        return spread, math.hypot(spread, masks)
    if math.isnan(spread):
        return math.nan, math.nan
    if spread <= masks:
        # Nothing is left of the spread: what test sets add is no more than all of it, and not 0.
        return spread, masks
    return math.sqrt(spread**2 - masks**2), spread


def _over_masks(
    masked: Masked, measures: Sequence[Measure], plain: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    sizes = masked.sizes.astype(float)
    if not len(sizes):
        moved = [{m.name: float(m.value(s, None)[0]) for m in measures} for s in masked.moved]
        bound = {n: max((abs(one[n] - v) for one in moved), default=0.0) for n, v in plain.items()}
        return dict(plain), bound
    if len(sizes) == 1:
        return dict(plain), dict.fromkeys(plain, math.nan)
    smooth = [m for m in measures if m.smooth]
    others = [m for m in measures if not m.smooth]
    value, error = dict(plain), {}
    share = sizes / sizes.sum()
    left: dict[str, list[float]] = {m.name: [] for m in smooth}
    for r in range(len(sizes)):
        without = np.where(np.arange(len(sizes)) == r, 0.0, share / (1 - share[r]))
        scored = masked.at(without)
        for m in smooth:
            left[m.name].append(float(m.value(scored, None)[0]))
    for name, values in left.items():
        corrected, off, _ = from_left_out(plain[name], np.array(values), sizes)
        value[name], error[name] = float(corrected), float(off)
    apart, odds = _shifts(masked, others, plain, share, _halves(len(sizes)) if others else ())
    corrected = [m for m in others if m.corrected]
    parted, quarter_odds = _shifts(masked, corrected, plain, share, _quarters(len(sizes)) if corrected else ())
    for m in others:
        shift, bias, doubt = apart[m.name], 0.0, 0.0
        if m.corrected:
            # Each partition by itself says what the bias is, and all of them are of the same masks.
            each = (parted[m.name] * quarter_odds).reshape(-1, _PARTS).mean(axis=1)
            bias, doubt = float(each.mean()), float(each.var())
            shift = shift - bias / odds
        value[m.name] = plain[m.name] - bias
        # About the metric itself, its bias is part of the error where it stays.
        error[m.name] = math.sqrt(float((shift**2 * odds).mean()) + doubt)
    return value, error


def _shifts(
    masked: Masked,
    measures: Sequence[Measure],
    plain: dict[str, float],
    share: Floats,
    samples: Iterable[NDArray[np.bool_]],
) -> tuple[dict[str, Floats], Floats]:
    """What each metric changes by with these replicates only, and the odds of being one of them."""
    found: dict[str, list[float]] = {m.name: [] for m in measures}
    odds = []
    for kept in samples:
        part = float(share[kept].sum())
        odds.append(part / (1 - part))
        scored = masked.at(np.where(kept, share / part, 0.0))
        for m in measures:
            found[m.name].append(float(m.value(scored, None)[0]) - plain[m.name])
    return {name: np.array(shifts) for name, shifts in found.items()}, np.array(odds)


def _quarters(n: int) -> Iterator[NDArray[np.bool_]]:
    """Partitions of the replicates into four (into halves, each met twice, below eight): a linear change cancels."""
    rng = np.random.default_rng(0x0A4)
    for _ in range(_PARTITIONS):
        owner = rng.permutation(np.arange(n) % (_PARTS if n >= 2 * _PARTS else 2))
        yield from (owner == part % (owner.max() + 1) for part in range(_PARTS))


def _halves(n: int) -> Iterator[NDArray[np.bool_]]:
    """Half-samples of replicates: always the same ones.

    Of 2ᵏ replicates the rows of a Hadamard matrix, which give a linear metric the jackknife's variance exactly; random
    halves, with what they leave out, know it with half as many degrees of freedom.
    """
    if n >= 8 and n & (n - 1) == 0:
        yield from (hadamard(n)[1:] > 0)
        return
    rng = np.random.default_rng(0xA1F)
    for _ in range(_HALVES):
        kept = np.zeros(n, bool)
        kept[rng.permutation(n)[: n // 2]] = True
        yield kept
        yield ~kept


def _over_data(
    whole: Any, at_mean: Any, measures: Sequence[Measure], units: Units, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Spread over units of a metric, of the same in eval mode, and of the difference."""
    found: dict[str, tuple[float, float, float]] = {}
    resampled = [m for m in measures if m.influence is None]
    for m in measures:
        if m.influence is not None:
            own = m.influence(whole)
            other = m.influence(at_mean) if m.eval_mode else np.zeros_like(own)
            spreads = (units.error(own), units.error(other), units.error(own - other))
            found[m.name] = spreads if m.smooth else tuple(map(_seen, spreads))  # type: ignore[assignment]
    draws: dict[str, list[Floats]] = {m.name: [] for m in resampled}
    for weights in units.bootstraps(seed) if resampled else ():
        for m in resampled:
            own = m.value(whole, weights)
            draws[m.name].append(np.stack([own, m.value(at_mean, weights) if m.eval_mode else np.zeros_like(own)]))
    for name, parts in draws.items():
        own, other = np.concatenate(parts, axis=1)
        if units.n < 2:
            found[name] = (math.nan,) * 3
            continue
        found[name] = tuple(_deviation(v) for v in (own, other, own - other))  # type: ignore[assignment]
    return found


def _deviation(values: Floats) -> float:
    """Of bootstrap values; a sample without any positive has none, and says nothing."""
    known = values[np.isfinite(values)]
    return _seen(float(known.std(ddof=1))) if 2 * len(known) > len(values) else math.nan


def _seen(error: float) -> float:
    """Units that are all alike where others need not be (not one wrong answer) show no error: it is not known."""
    return error if error > 0 else math.nan


def by_masks(
    masked: Masked, measures: Sequence[Measure], least: int = 1, most: int = 2**62
) -> dict[str, list[AtMasks]]:
    """What means over so many masks give: over sets of 1, 2, 4, … replicates in turn, at most eight of each."""
    found: dict[str, list[AtMasks]] = {m.name: [] for m in measures}
    sizes = masked.sizes
    if len(sizes) < 2:
        return found
    whole = len(sizes) if sizes[-1] == sizes[0] else len(sizes) - 1
    together = 1
    while 2 * together <= whole and len(set(sizes[:whole].tolist())) == 1:
        n_masks, sets = int(sizes[0]) * together, min(whole // together, _SETS)
        if least <= n_masks < most:
            values: dict[str, list[float]] = {m.name: [] for m in measures}
            for i in range(sets):
                share = np.zeros(len(sizes))
                share[i * together : (i + 1) * together] = 1 / together
                scored = masked.at(share)
                for m in measures:
                    values[m.name].append(float(m.value(scored, None)[0]))
            for name, each in values.items():
                error = float(np.std(each, ddof=1)) / math.sqrt(sets)
                found[name].append(AtMasks(n_masks, float(np.mean(each)), error))
        together *= 2
    return found
