"""Does the function gather in few units? Ablation and Shapley importance, and how unequally they are spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t
from torch import nn

from allmasks.diagnose.scaled_units import ScaledUnits, each_site, generator
from allmasks.reliability import FEWEST_SEEN
from allmasks.replicates import half_width, standard_error
from allmasks.results import Guarantee, Result
from allmasks.sites import DropoutSite, leaves_no_trace

__all__ = ["Concentration", "concentration", "entropy", "gini", "measure_concentration", "units_for"]

Array = NDArray[np.float64]

EXACT_UNITS = 12
"""Up to this many units all coalitions are evaluated."""

DECISIVE = 0.5
"""A unit is called decisive when its share of all importance is surely above this."""


def gini(importance: Array) -> float:
    """Gini coefficient of |importance|: 0 where all are equal, 1 − 1/d where one has everything.

    >>> gini(np.array([1.0, 1.0, 1.0])), gini(np.array([0.0, 0.0, 3.0]))
    (0.0, 0.6666666666666667)
    """
    x = np.sort(np.abs(importance))
    d, total = len(x), float(x.sum())
    if total == 0:
        return math.nan
    return float(2 * (np.arange(1, d + 1) @ x) / (d * total) - (d + 1) / d)


def entropy(importance: Array) -> float:
    """Entropy (nats) of the shares of |importance|; exp of it is an effective number of units."""
    x = np.abs(importance)
    total = float(x.sum())
    if total == 0:
        return math.nan
    share = x[x > 0] / total
    return float(-(share * np.log(share)).sum()) + 0.0


def units_for(importance: Array, share: float = 0.9) -> float:
    """How many of the most important units carry this share of |importance|."""
    x = np.sort(np.abs(importance))[::-1]
    total = float(x.sum())
    return float(np.searchsorted(np.cumsum(x), share * total * (1 - 1e-12)) + 1) if total > 0 else math.nan


@dataclass(frozen=True)
class Concentration(Result):
    """How the function is spread over the units of a site.

    Attributes
    ----------
    ablation, ablation_error : (units,) L(without j) − L, in units of the loss, and round-off bounds.
    shapley, shapley_error : (units,) mean over all orders of how much the loss falls when unit j joins those before it;
        they sum to L(none) − L(all). The error is round-off where all coalitions were evaluated, else a standard error.
    gini, entropy, carry_90 : of |shapley|, each with its `_error` (jackknife over blocks of orders, bias removed).
    decisive : units whose share of importance is above one half beyond doubt; none of those not `reliable`.
    n_orders : random orders, in opposite pairs; 0 where all coalitions were evaluated.
    guarantee : "exact" or "statistical", of the Shapley values.
    reliable : (units,) False where the orders drawn are too few for their error to be trusted: few of them decide, or
        what a unit is worth as the first or last of an order is seldom seen and weighs much. More orders help.
    """

    site: DropoutSite
    ablation: Array
    ablation_error: Array
    shapley: Array
    shapley_error: Array
    gini: float
    gini_error: float
    entropy: float
    entropy_error: float
    carry_90: float
    carry_90_error: float
    decisive: tuple[int, ...]
    n_orders: int
    n_examples: int
    guarantee: Guarantee
    reliable: NDArray[np.bool_]

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper ends, (units,) each, of intervals for the Shapley values.

        Student's t over pairs of orders; where all coalitions were evaluated, the value ± its round-off bound.
        """
        half = self.shapley_error
        if self.n_orders:
            half = half_width(half, level, self.n_orders // 2)
        return self.shapley - half, self.shapley + half

    @property
    def order(self) -> list[int]:
        """Units, the most important first."""
        return np.argsort(-np.abs(self.shapley), kind="stable").tolist()


@leaves_no_trace
def concentration(
    model: nn.Module,
    data: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sites: Iterable[str] | None = None,
    n_orders: int = 64,
    seed: int = 0,
    leave_off: str | Sequence[str] = (),
) -> list[Concentration]:
    """Importance of each unit, by ablation and by Shapley value, and how concentrated it is.

    φⱼ = Σ_S |S|!(d−|S|−1)!/d! · [L(S) − L(S ∪ j)] over coalitions S of units that are on (Shapley 1953); exact up to
    12 units, otherwise the mean over random orders taken in opposite pairs (Castro, Gómez & Tejada 2009).

    Parameters
    ----------
    model, data, y, loss, sites, leave_off : as in `unit_penalty`.
    n_orders : random orders, an even number of at least 8; each costs one pass a unit.
    seed : draws the orders.

    Raises
    ------
    ValueError : a number of orders that is too small or odd; and as `unit_penalty`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, 1.0]]))
    >>> x, y = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[2.0]]).double()
    >>> concentration(net, (x, y), "squared_error")[0].shapley.tolist()
    [2.0, 2.0]
    """
    if n_orders < 8 or n_orders % 2:
        raise ValueError(f"n_orders must be an even number of at least 8, got {n_orders}")
    return [measure_concentration(run, n_orders, seed) for run in each_site(model, data, y, loss, sites, leave_off)]


def measure_concentration(run: ScaledUnits, n_orders: int = 64, seed: int = 0) -> Concentration:
    """`concentration` of one site that is ready to run."""
    units = run.units
    alone, alone_error = run.without_each()
    ablation = (alone[:-1] - alone[-1]).numpy()
    ablation_error = (alone_error[:-1] + alone_error[-1]).numpy()
    guarantee: Guarantee = "exact"
    reliable = np.ones(units, bool)
    if units <= EXACT_UNITS:
        shapley, shapley_error = _all_coalitions(run)
        n_blocks, n_orders = 0, 0
        summary = {name: _carried(name, f, shapley, shapley_error) for name, f in _SUMMARIES.items()}
    else:
        blocks, round_off = _by_orders(run, n_orders, generator(seed, run.site, 2))
        n_blocks, guarantee = len(blocks), "statistical"
        shapley = blocks.mean(axis=0)
        shapley_error = standard_error(blocks) + round_off
        reliable = _enough(blocks, round_off, _at_the_ends(run, alone.numpy()))
        summary = {name: _jackknifed(f, shapley, blocks) for name, f in _SUMMARIES.items()}
    return Concentration(
        site=run.site,
        ablation=ablation,
        ablation_error=ablation_error,
        shapley=shapley,
        shapley_error=shapley_error,
        gini=summary["gini"][0],
        gini_error=summary["gini"][1],
        entropy=summary["entropy"][0],
        entropy_error=summary["entropy"][1],
        carry_90=summary["carry_90"][0],
        carry_90_error=summary["carry_90"][1],
        decisive=_decisive(shapley, np.where(reliable, shapley_error, np.inf), n_blocks),
        n_orders=n_orders,
        n_examples=run.n_examples,
        guarantee=guarantee,
        reliable=reliable,
    )


_SUMMARIES: dict[str, Callable[[Array], float]] = {"gini": gini, "entropy": entropy, "carry_90": units_for}


def _all_coalitions(run: ScaledUnits) -> tuple[Array, Array]:
    """(units,) Shapley values, and what the losses' round-off and that of the sums makes of them."""
    units = run.units
    numbers = np.arange(2**units)
    bits = (numbers[:, None] >> np.arange(units)) & 1
    value, off = (found.numpy() for found in run.mean_losses(torch.from_numpy(bits.astype(np.float64))))
    off = off + (len(numbers) + 8) * np.finfo(float).eps * np.abs(value)
    size = bits.sum(axis=1)
    share = np.array([1.0 / (units * math.comb(units - 1, k)) for k in range(units)])
    shapley, error = np.empty(units), np.empty(units)
    for j in range(units):
        without = numbers[bits[:, j] == 0]
        both = without | (1 << j)
        shapley[j] = share[size[without]] @ (value[without] - value[both])
        error[j] = share[size[without]] @ (off[without] + off[both])
    return shapley, error


def _by_orders(run: ScaledUnits, n_orders: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """(n_orders / 2, units): for each random order and its reverse, how much the loss fell as each unit joined.

    And (units,) the round-off in their means.
    """
    units = run.units
    blocks, round_off = np.empty((n_orders // 2, units)), np.zeros(units)
    for block in range(n_orders // 2):
        order = rng.permutation(units)
        found = np.zeros(units)
        for way in (order, order[::-1]):
            steps = torch.zeros(units + 1, units, dtype=torch.float64)
            # Row k has the first k units of the order on.
            steps[:, torch.from_numpy(way.copy())] = torch.tril(torch.ones(units + 1, units), -1).double()
            value, off = (part.numpy() for part in run.mean_losses(steps))
            found[way] += (value[:-1] - value[1:]) / 2
            round_off[way] += (off[:-1] + off[1:]) / n_orders
        blocks[block] = found
    return blocks, round_off


def _at_the_ends(run: ScaledUnits, alone: Array) -> Array:
    """(units,) what a pair of opposite orders says of a unit that comes first in one and last in the other."""
    rows = torch.cat([torch.eye(run.units, dtype=torch.float64), torch.zeros(1, run.units, dtype=torch.float64)])
    only = run.mean_losses(rows)[0].numpy()
    return ((only[-1] - only[:-1]) + (alone[:-1] - alone[-1])) / 2


def _enough(blocks: Array, round_off: Array, ends: Array) -> NDArray[np.bool_]:
    """(units,) where the pairs of orders are enough for their t interval.

    By the skewness of what was drawn, and of what may not have been: a unit is first or last in 2 of `units` pairs,
    and its worth there is known.
    """
    n, units = blocks.shape
    centered = blocks - blocks.mean(axis=0)
    rare = ends - blocks.mean(axis=0)
    second = np.maximum((centered**2).mean(axis=0), 2 / units * rare**2)
    third = np.maximum(np.abs((centered**3).mean(axis=0)), 2 / units * np.abs(rare) ** 3)
    return (n * second**3 >= FEWEST_SEEN * third**2) | (np.sqrt(second) <= 4 * round_off)


def _carried(name: str, f: Callable[[Array], float], shapley: Array, error: Array) -> tuple[float, float]:
    """A summary of values that are off by no more than `error`, and how far that may move it."""
    value, x = f(shapley), np.abs(shapley)
    total, off = float(x.sum()), float(error.sum())
    if not off < total:
        return value, math.nan
    relative = off / (total - off)
    if name == "gini":
        moved = 5 * relative
    elif name == "entropy":
        share, by = x / total, (error / total + x / total * relative) * (1 + relative)
        moved = float(np.sum(2 * by * (1 + np.abs(np.log(np.clip(np.maximum(share, by), 1e-300, 1.0))))))
    else:
        margin = 4 * relative
        moved = units_for(shapley, min(0.9 + margin, 1.0)) - units_for(shapley, max(0.9 - margin, 0.0))
    return value, moved + 1e-14 * len(x) * (name != "carry_90")


def _jackknifed(f: Callable[[Array], float], shapley: Array, blocks: Array) -> tuple[float, float]:
    """A summary and its error. Noise in each importance makes any spread look wider: the jackknife takes that off."""
    value, n = f(shapley), len(blocks)
    left_out = np.array([f((shapley * n - block) / (n - 1)) for block in blocks])
    error = math.sqrt((n - 1) / n * float(((left_out - left_out.mean()) ** 2).sum()))
    return float(n * value - (n - 1) * left_out.mean()), error


def _decisive(shapley: Array, error: Array, n_blocks: int) -> tuple[int, ...]:
    total = float(np.abs(shapley).sum())
    if total == 0 or len(shapley) < 3:
        return ()
    quantile = t.isf(0.01 / len(shapley), n_blocks - 1) if n_blocks else 1.0
    sure = np.abs(shapley) - quantile * error > DECISIVE * total
    return tuple(np.flatnonzero(sure).tolist())
