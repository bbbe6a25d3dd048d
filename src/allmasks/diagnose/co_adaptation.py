"""Do units lean on one another? Pairwise interactions of ablations, correlation and effective rank of activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import nn

from allmasks.diagnose.scaled_units import ScaledUnits, each_site, generator
from allmasks.reliability import FEWEST_SEEN
from allmasks.replicates import half_width
from allmasks.results import Guarantee, Result
from allmasks.sites import DropoutSite, leaves_no_trace

__all__ = ["CoAdaptation", "co_adaptation", "measure_co_adaptation"]

Array = NDArray[np.float64]

DUPLICATE = 0.95
"""Two units are called duplicates when their correlation is surely above this."""


@dataclass(frozen=True)
class CoAdaptation(Result):
    """How far the units of a site do together what none does alone.

    Attributes
    ----------
    pairs : (k, 2) pairs of units whose interaction was computed: all of them, or a random sample.
    interaction : (k,) I = L(without both) − L(without i) − L(without j) + L, in units of the loss. Positive: each
        covers for the other's loss. Negative: what one does needs the other.
    interaction_error : (k,) round-off bounds.
    ablation : (units,) L(without i) − L.
    strength, strength_error : mean |I| over all pairs divided by mean |ablation|; the error is that of sampling pairs.
    guarantee : "exact" where every pair was computed, else "statistical"; "uncontrolled" (nan) from a single pair.
    correlation : (units, units) of activations over examples; nan for a constant unit.
    mean_correlation, mean_correlation_error : mean |r| over pairs of units that vary; jackknife over examples.
    effective_rank, effective_rank_error : exp of the entropy of the covariance's normalized eigenvalues (Roy & Vetterli
        2007), between 1 and the number of units; jackknife over examples.
    reliable : False where the pairs drawn are too few for `strength_error` to be trusted; `notes` then says so.
    duplicates : pairs whose |correlation| is above 0.95 beyond doubt (Fisher's z, corrected for the number of pairs).
    """

    site: DropoutSite
    pairs: NDArray[np.int64]
    interaction: Array
    interaction_error: Array
    ablation: Array
    strength: float
    strength_error: float
    guarantee: Guarantee
    correlation: Array
    mean_correlation: float
    mean_correlation_error: float
    effective_rank: float
    effective_rank_error: float
    duplicates: tuple[tuple[int, int], ...]
    n_examples: int
    reliable: bool = True
    notes: tuple[str, ...] = ()

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of `strength`: Student's t over the pairs drawn, ± round-off where all were computed."""
        half = self.strength_error
        if self.guarantee != "exact":
            half = half_width(half, level, len(self.pairs))
        return self.strength - half, self.strength + half

    @property
    def order(self) -> list[int]:
        """Positions in `pairs`, the strongest interactions first."""
        return np.argsort(-np.abs(self.interaction), kind="stable").tolist()


@leaves_no_trace
def co_adaptation(
    model: nn.Module,
    data: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sites: Iterable[str] | None = None,
    max_pairs: int = 2048,
    seed: int = 0,
    leave_off: str | Sequence[str] = (),
) -> list[CoAdaptation]:
    """Pairwise interactions of ablations, exact up to `max_pairs` pairs and sampled beyond.

    Parameters
    ----------
    model, data, y, loss, sites, leave_off : as in `unit_penalty`.
    max_pairs : pairs of units computed at most; one pass of what follows the site for each.
    seed : chooses the pairs, where not all are computed.

    Raises
    ------
    ValueError : as `unit_penalty`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, 1.0]]))
    >>> x, y = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[2.0]]).double()
    >>> co_adaptation(net, (x, y), "squared_error")[0].interaction.tolist()  # 4 − 1 − 1 + 0
    [2.0]
    """
    if max_pairs < 1:
        raise ValueError(f"max_pairs must be at least 1, got {max_pairs}")
    return [measure_co_adaptation(run, max_pairs, seed) for run in each_site(model, data, y, loss, sites, leave_off)]


def measure_co_adaptation(run: ScaledUnits, max_pairs: int = 2048, seed: int = 0) -> CoAdaptation:
    """`co_adaptation` of one site that is ready to run."""
    units = run.units
    n_pairs = units * (units - 1) // 2
    pairs = _some_pairs(units, n_pairs, max_pairs, run, seed)
    alone, alone_error = (found.numpy() for found in run.without_each())
    without = run.ones(len(pairs))
    for column in range(2):
        without[torch.arange(len(pairs)), torch.from_numpy(pairs[:, column])] = 0.0
    nothing = np.zeros(0)
    both, both_error = (found.numpy() for found in run.mean_losses(without)) if len(pairs) else (nothing, nothing)
    i, j = pairs.T
    interaction = both - alone[i] - alone[j] + alone[-1]
    error = both_error + alone_error[i] + alone_error[j] + alone_error[-1]
    ablation = alone[:-1] - alone[-1]
    strength = _strength(interaction, error, ablation, alone_error[:-1] + alone_error[-1], n_pairs)
    h = run.activations().numpy()
    correlation = _correlation(h)
    (rank, corr), (rank_error, corr_error) = _jackknifed(h)
    return CoAdaptation(
        site=run.site,
        pairs=pairs,
        interaction=interaction,
        interaction_error=error,
        ablation=ablation,
        strength=strength.value,
        strength_error=strength.error,
        guarantee=strength.guarantee,
        correlation=correlation,
        mean_correlation=corr,
        mean_correlation_error=corr_error,
        effective_rank=rank,
        effective_rank_error=rank_error,
        duplicates=_duplicates(correlation, len(h)),
        n_examples=run.n_examples,
        reliable=strength.reliable,
        notes=() if strength.reliable else (_TOO_FEW.format(len(pairs), n_pairs),),
    )


_TYPICAL_SKEW = 3.5
"""Skewness that |interaction| is taken to have at least, whatever few pairs show of it: a few pairs lean on one another
far more than the rest in every net (1.2 to 5 in eighteen of them), and pairs drawn that missed those look alike."""

_TOO_FEW = (
    "The strength is a mean over {} of {} pairs, too few for its error to be trusted: few pairs may carry most of it. "
    "A larger max_pairs helps."
)


@dataclass(frozen=True)
class _Strength:
    value: float
    error: float
    guarantee: Guarantee
    reliable: bool


def _strength(interaction: Array, error: Array, ablation: Array, ablation_error: Array, n_pairs: int) -> _Strength:
    """mean |I| over mean |ablation|, from all pairs or from a sample of them."""
    size, n = np.abs(interaction), len(interaction)
    scale, scale_error = float(np.abs(ablation).mean()), float(ablation_error.mean())
    if not n or not scale_error < scale:
        return _Strength(float(size.mean()) / scale if n and scale > 0 else math.nan, math.nan, "uncontrolled", False)
    value = float(size.mean()) / scale
    round_off = (float(error.mean()) + value * scale_error) / (scale - scale_error) + 8 * np.finfo(float).eps * value
    if n == n_pairs:
        return _Strength(value, round_off, "exact", True)
    if n < 2:
        return _Strength(value, math.nan, "uncontrolled", False)
    # Drawn without replacement: the pairs not drawn are all that is uncertain.
    share = n / n_pairs
    deviation = size - size.mean()
    spread = float(size.std(ddof=1)) / scale
    drawn = float((deviation**3).mean()) / max(float((deviation**2).mean()) ** 1.5, 1e-300)
    # What a pair that was not drawn may be worth: interactions go with what both units do alone.
    alone = np.abs(ablation)
    expected = np.outer(alone, alone)[np.triu_indices(len(alone), 1)]
    foreseen = float(((expected - expected.mean()) ** 3).mean()) / max(float(expected.std()) ** 3, 1e-300)
    skew = max(_TYPICAL_SKEW, drawn, foreseen)
    # The mean of n of N without replacement has skewness γ (1 − 2f) / √(n (1 − f)), f = n/N; and its error goes with
    # that of the spread, with correlation γ √((1 − f) / n), whatever f.
    reliable = n * (1 - share) >= FEWEST_SEEN * (skew * (1 - 2 * share)) ** 2
    reliable &= n >= 1.5 * FEWEST_SEEN * skew**2 * (1 - share)
    return _Strength(value, round_off + spread * math.sqrt((1 - share) / n), "statistical", reliable)


def _some_pairs(units: int, n_pairs: int, at_most: int, run: ScaledUnits, seed: int) -> NDArray[np.int64]:
    if n_pairs <= at_most:
        return np.array(list(combinations(range(units), 2)), dtype=np.int64).reshape(-1, 2)
    rng = generator(seed, run.site, 1)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < at_most:
        i, j = sorted(rng.integers(units, size=2).tolist())
        if i < j:
            chosen.add((i, j))
    return np.array(sorted(chosen), dtype=np.int64)


def _correlation(h: Array) -> Array:
    centered = h - h.mean(axis=0)
    scale = np.sqrt((centered**2).sum(axis=0))
    # A constant unit's deviations are round-off, not nothing.
    varies = scale > 1e-12 * np.sqrt(len(h)) * np.maximum(np.abs(h).max(axis=0, initial=0.0), 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (centered.T @ centered) / np.outer(scale, scale)
    r[~varies] = np.nan
    r[:, ~varies] = np.nan
    return r


def _statistics(h: Array) -> tuple[float, float]:
    """Effective rank, and mean |correlation| between different units that vary."""
    eigenvalues = np.linalg.svd(h - h.mean(axis=0), compute_uv=False) ** 2
    total = eigenvalues.sum()
    share = eigenvalues[eigenvalues > 1e-14 * total] / total if total > 0 else np.ones(1)
    r = np.abs(_correlation(h)[np.triu_indices(h.shape[1], 1)])
    r = r[np.isfinite(r)]
    return float(np.exp(-(share * np.log(share)).sum())), float(r.mean()) if len(r) else math.nan


def _jackknifed(h: Array, groups: int = 10) -> tuple[tuple[float, float], tuple[float, float]]:
    """The statistics, and their standard errors from leaving out each of ten groups of examples."""
    value = _statistics(h)
    if len(h) < 2 * groups:
        return value, (math.nan, math.nan)
    part = np.arange(len(h)) % groups
    left_out = np.array([_statistics(h[part != g]) for g in range(groups)])
    spread = np.sqrt((groups - 1) / groups * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    return value, (float(spread[0]), float(spread[1]))


def _duplicates(correlation: Array, n: int) -> tuple[tuple[int, int], ...]:
    units = len(correlation)
    n_pairs = units * (units - 1) // 2
    if n < 8 or not n_pairs:
        return ()
    margin = norm.isf(0.01 / n_pairs) / math.sqrt(n - 3)
    i, j = np.triu_indices(units, 1)
    r = np.clip(np.nan_to_num(np.abs(correlation[i, j])), 0.0, 1.0 - 1e-15)
    sure = np.arctanh(r) - margin > math.atanh(DUPLICATE)
    return tuple((int(a), int(b)) for a, b in zip(i[sure], j[sure], strict=True))
