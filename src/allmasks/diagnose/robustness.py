"""What is left when units are taken away: loss and accuracy against the fraction removed, at random and worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from allmasks.diagnose.scaled_units import ScaledUnits, each_site, generator
from allmasks.reliability import FEWEST_SEEN
from allmasks.replicates import standard_error
from allmasks.results import Result
from allmasks.sites import DropoutSite, leaves_no_trace

__all__ = ["Robustness", "measure_robustness", "robustness"]

Array = NDArray[np.float64]

FRACTIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Robustness(Result):
    """Loss and accuracy as units are removed (set to 0); arrays are (fractions,).

    Attributes
    ----------
    fractions : share of units removed (rounded to whole units).
    loss, loss_error : mean over random orders of removal, and its standard error (round-off where nothing, or all, is
        removed).
    loss_low, loss_high : 5 % and 95 % quantiles over orders: the band in which one random removal falls.
    worst_loss : the units whose single removal costs most go first.
    accuracy, accuracy_error, accuracy_low, accuracy_high, worst_accuracy : the same; None where nothing is classified.
    area, area_error : mean accuracy over the fractions (mean loss where nothing is classified), random removal.
    worst_area : the same, worst first.
    reliable : False where so few orders cannot have shown what matters: one unit that is seldom among those removed,
        or among those left. More orders help.
    rescale : whether the units left were divided by the share that is left, or stayed as they are.
    """

    site: DropoutSite
    fractions: Array
    loss: Array
    loss_error: Array
    loss_low: Array
    loss_high: Array
    worst_loss: Array
    accuracy: Array | None
    accuracy_error: Array | None
    accuracy_low: Array | None
    accuracy_high: Array | None
    worst_accuracy: Array | None
    area: float
    area_error: float
    worst_area: float
    n_orders: int
    n_examples: int
    reliable: NDArray[np.bool_]
    rescale: bool = False


@leaves_no_trace
def robustness(
    model: nn.Module,
    data: Any,
    y: Any = None,
    loss: Any = None,
    *,
    sites: Iterable[str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    n_orders: int = 32,
    seed: int = 0,
    rescale: bool = False,
    leave_off: str | Sequence[str] = (),
) -> list[Robustness]:
    """Loss and accuracy against the fraction of a site's units removed.

    Parameters
    ----------
    model, data, y, loss, sites, leave_off : as in `unit_penalty`.
    fractions : shares in [0, 1], rising.
    n_orders : random orders of removal, at least 2.
    seed : draws the orders.
    rescale : whether units that are left are divided by their share of all units, as dropout does while it trains.
        A net trained with dropout looks fragile without: what follows then sees less than it was trained on. Hold
        nets against each other with the same `rescale`.

    Raises
    ------
    ValueError : fractions out of order or range, fewer than two orders; and as `unit_penalty`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, 3.0]]))
    >>> x, y = torch.tensor([[1.0, 1.0]]).double(), torch.tensor([[4.0]]).double()
    >>> robustness(net, (x, y), "squared_error", fractions=[0, 0.5, 1])[0].worst_loss.tolist()
    [0.0, 9.0, 16.0]
    """
    if n_orders < 2:
        raise ValueError(f"n_orders must be at least 2, got {n_orders}")
    shares = np.asarray(fractions, np.float64)
    if shares.ndim != 1 or not len(shares) or shares.min() < 0 or shares.max() > 1 or (np.diff(shares) <= 0).any():
        raise ValueError(f"fractions must be rising numbers in [0, 1], got {list(fractions)}")
    return [
        measure_robustness(run, shares, n_orders, seed, rescale)
        for run in each_site(model, data, y, loss, sites, leave_off)
    ]


def measure_robustness(
    run: ScaledUnits,
    fractions: Sequence[float] | Array = FRACTIONS,
    n_orders: int = 32,
    seed: int = 0,
    rescale: bool = False,
) -> Robustness:
    """`robustness` of one site that is ready to run."""
    units = run.units
    removed = np.rint(np.asarray(fractions) * units).astype(int)
    alone = run.without_each()[0].numpy()
    worst = np.argsort(-alone[:-1], kind="stable")
    rng = generator(seed, run.site, 3)
    orders = [rng.permutation(units) for _ in range(n_orders)] + [worst]
    rows = run.ones(len(orders) * len(removed))
    for i, order in enumerate(orders):
        for k, count in enumerate(removed):
            row = rows[i * len(removed) + k]
            row[torch.from_numpy(order[:count].copy())] = 0.0
            if rescale and count < units:
                row *= units / (units - count)
    losses, off = (found.numpy().reshape(len(orders), -1) for found in run.mean_losses(rows))
    hits = run.accuracies(rows)
    accuracies = None if hits is None else hits.numpy().reshape(len(orders), -1)
    # A share of examples is a sum of their weights.
    counted = np.full_like(losses, (run.n_examples + 64) * np.finfo(float).eps)
    area, area_error, worst_area = _area(losses, off) if accuracies is None else _area(accuracies, counted)
    mean, error, low, high = _summary(losses[:-1], off[:-1])
    accuracy = (None,) * 4 if accuracies is None else _summary(accuracies[:-1], counted[:-1])
    each = torch.eye(units, dtype=torch.float64) * (units if rescale else 1.0)
    left = run.mean_losses(each)[0].numpy()
    return Robustness(
        site=run.site,
        fractions=removed / units,
        loss=mean,
        loss_error=error,
        loss_low=low,
        loss_high=high,
        worst_loss=losses[-1],
        accuracy=accuracy[0],
        accuracy_error=accuracy[1],
        accuracy_low=accuracy[2],
        accuracy_high=accuracy[3],
        worst_accuracy=None if accuracies is None else accuracies[-1],
        area=area,
        area_error=area_error,
        worst_area=worst_area,
        n_orders=n_orders,
        n_examples=run.n_examples,
        reliable=_enough(losses[:-1], off[:-1], removed, units, alone[:-1] - alone[-1], left - left.mean()),
        rescale=rescale,
    )


def _summary(curves: Array, off: Array) -> tuple[Array, Array, Array, Array]:
    error = standard_error(curves) + np.mean(off, axis=0)
    low, high = np.quantile(curves, (0.05, 0.95), axis=0)
    return curves.mean(axis=0), error, low, high


def _area(curves: Array, off: Array) -> tuple[float, float, float]:
    areas = curves.mean(axis=1)
    error = float(standard_error(areas[:-1])) + float(np.mean(off))
    return float(areas[:-1].mean()), error, float(areas[-1])


def _enough(
    curves: Array, off: Array, removed: NDArray[np.int64], units: int, without: Array, only: Array
) -> NDArray[np.bool_]:
    """(fractions,) where the orders are enough for Student's t of the mean loss.

    By the skewness of what was drawn, and of what may not have been: one unit among few that are removed, or among few
    that are left, is drawn seldom, and what each is worth is known from taking it away alone and leaving it alone.
    """
    n, share = len(curves), removed / max(units, 1)
    centered = curves - curves.mean(axis=0)
    second, third = (centered**2).mean(axis=0), np.abs((centered**3).mean(axis=0))
    for worth, near in ((without - without.mean(), share <= 0.5), (only, share > 0.5)):
        # A sum of worths over a share f of the units, drawn without replacement.
        spread, tail = share * (1 - share), share * (1 - share) * np.abs(1 - 2 * share)
        second = np.where(near, np.maximum(second, spread * (worth**2).sum()), second)
        third = np.where(near, np.maximum(third, tail * np.abs((worth**3).sum())), third)
    fixed = (removed == 0) | (removed == units)
    return fixed | (n * second**3 >= FEWEST_SEEN * third**2) | (np.sqrt(second) <= 4 * off.mean(axis=0))
