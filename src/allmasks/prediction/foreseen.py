"""What the masks drawn may not have shown: how few masks would decide, foreseen from masks drawn to be rare.

A rare event leaves no trace in the masks that miss it, and those runs are the ones that look safe. So some masks are
drawn from a mixture Q in which rare ones are common: the law itself, the law with one unit forced into its rarer state,
and laws with rates from .02 to .98. A mask counts with P/Q, which is bounded by the law's own share of the mixture, so
the moments of each quantity's influence φ (see `weight`) under the law P follow, and n / γ² and n / kurtosis with them.
The masks are the same for every seed and example: which cells of a table are flagged is no matter of luck.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from allmasks.over_masks.data import Batch
from allmasks.over_masks.sources import EveryMask, MaskChunk
from allmasks.prediction.outputs import Outputs
from allmasks.prediction.pieces import LastOnly, Nested, Wanted, Whole
from allmasks.prediction.task import Task
from allmasks.prediction.weight import influences
from allmasks.reliability import FEWEST, FEWEST_MASKS
from allmasks.sites import DropoutSite

if TYPE_CHECKING:
    from allmasks.prediction.averages import Route

__all__ = ["Foreseen", "RareMasks", "foresee", "foreseeable", "rare_masks"]

_PLAIN, _LEAST_FLIPS, _LEAST_TILTED, _MOST_TILTED = 32, 32, 64, 512
_FLIPPED_UNITS, _TILTED_UNITS = 128, 64
"""Units, of all sites together, up to which each is forced once, and up to which rates are tilted: of more units no
single one, and no few together, can be singled out at this price, and sums of many have thin tails."""

_ALL = 1024
"""Masks up to which all are looked at, where they can be batched: then the moments are no estimates."""

_BENT = 0.25

_LEVELS = 1.0 / (1.0 + np.exp(-np.linspace(-math.log(49.0), math.log(49.0), 7)))


@dataclass(frozen=True)
class RareMasks:
    """A source of masks that are rare under the law, each weighted by P/Q; the same for all examples."""

    sites: tuple[DropoutSite, ...]
    bits: dict[str, np.ndarray] = field(repr=False)
    weight: np.ndarray = field(repr=False)
    block: int = 1

    @property
    def n_masks(self) -> int:
        return len(self.weight)

    def chunks(self, examples: np.ndarray, at_most: int, device: torch.device) -> Iterator[MaskChunk]:
        """See `MaskSource`."""
        kept = {}
        for site in self.sites:
            some = torch.from_numpy(self.bits[site.name][:, None, :]).to(device)
            kept[site.name] = some if site.batch_dim is None else some.expand(-1, len(examples), -1)
        yield from MaskChunk(kept, torch.from_numpy(self.weight).to(device), 0).split(at_most)


def rare_masks(sites: tuple[DropoutSite, ...], masks: int, *, batched: bool = True) -> RareMasks | None:
    """Masks to foresee by, for a run of so many `masks`: all there are, or the mixture; None for too many units.

    Where masks cannot be batched they are no more than half as many as the run's own.
    """
    drop = [site.law.rates for site in sites]
    units = sum(int(np.count_nonzero(rates)) for rates in drop)
    if not 0 < units <= _FLIPPED_UNITS or any(site.dependent for site in sites):
        return None
    if 2**units <= (max(_ALL, masks) if batched else masks // 2):
        (every,) = EveryMask(sites).chunks(np.zeros(1, np.int64), 2**units, torch.device("cpu"))
        return RareMasks(sites, {name: bits[:, 0].numpy() for name, bits in every.kept.items()}, every.weight.numpy())
    tilted_masks = min(max(_LEAST_TILTED, masks // 2), _MOST_TILTED) if batched else _LEAST_TILTED
    counts = [_PLAIN, -(-_LEAST_FLIPS // units) * units, tilted_masks if units <= _TILTED_UNITS else 0]
    if not batched and sum(counts) > masks // 2:
        return None
    rng = np.random.default_rng(0)
    total = sum(counts)
    kept = [rng.random((total, len(rates))) >= rates for rates in drop]
    places = [(s, j) for s, rates in enumerate(drop) for j in np.flatnonzero(rates)]
    for i in range(counts[1]):
        s, j = places[i % units]
        kept[s][counts[0] + i, j] = drop[s][j] > 0.5
    for s, rates in enumerate(drop):
        level = _LEVELS[rng.permutation(np.arange(counts[2]) % len(_LEVELS))][:, None]
        kept[s][total - counts[2] :] = (rng.random((counts[2], len(rates))) >= level) | (rates == 0)
    # log Q/P of each component, for every mask: of the law 0, of one forced unit the mean of 1/ε over those in their
    # rarer state, of tilted rates the product over sites of the mean over levels.
    forced, tilted = np.zeros(total), np.zeros(total)
    for rates, bits in zip(drop, kept, strict=True):
        varies = rates > 0
        bits, p = bits[:, varies], rates[varies]
        rare = np.where(p > 0.5, bits, ~bits)
        forced += (rare / np.minimum(p, 1 - p)).sum(axis=1) / units
        logs = [
            np.where(bits, np.log((1 - r) / (1 - p)), np.log(r / p)).sum(axis=1) - math.log(len(_LEVELS))
            for r in _LEVELS
        ]
        tilted += np.logaddexp.reduce(logs, axis=0)
    with np.errstate(divide="ignore"):
        parts = [np.zeros(total), np.log(forced), tilted]
        ratio = np.logaddexp.reduce(
            [math.log(n / total) + part for n, part in zip(counts, parts, strict=True) if n], axis=0
        )
    weight = np.exp(-ratio)
    return RareMasks(sites, {site.name: bits for site, bits in zip(sites, kept, strict=True)}, weight / weight.sum())


@dataclass(frozen=True)
class Foreseen:
    """What rare masks say of each quantity, for each tensor of the output.

    Attributes
    ----------
    influences : (k, n, …) under each mask.
    bends : (n, …) B where the quantity's second-order term over K masks is B/K times a χ² of one degree; else absent.
    still : (n, …) outputs that none of the rare masks changes.
    density : (k, n) likelihoods of the target, up to a factor, where there is one.
    weight : (k,) of the masks.
    class_dim : the axis of the classes.
    """

    influences: list[dict[str, Tensor]]
    bends: list[dict[str, Tensor]]
    still: list[Tensor]
    density: Tensor | None
    weight: Tensor
    class_dim: int

    def enough(self, output: int, name: str, masks: int) -> Tensor:
        """Where so many masks are enough for the quantity's interval.

        That many of them matter, by n / γ² and 3 n / kurtosis, and the quantity is linear in their means: its
        second-order term's deviation is below a quarter of the first's. Or that no mask changes it at all.
        """
        value = self.density if name == "log_likelihood" else self.influences[output][name]
        assert value is not None
        share = self.weight.reshape(-1, *[1] * (value.ndim - 1))
        centered = value - (share * value).sum(dim=0)
        size = centered.abs().amax(dim=0)
        size = torch.where(size > 0, size, 1.0)
        second, third, fourth = ((share * (centered / size) ** n).sum(dim=0) for n in (2, 3, 4))
        # A root takes most of a variance's skewness away, as it makes counts of rare events nearly normal.
        fewest = FEWEST / 2 if name == "std" else FEWEST
        trusted = (masks * second**3 >= fewest * third**2) & (3 * masks * second**2 >= fewest * fourth) & (second > 0)
        bend = self.bends[output].get(name)
        if bend is not None:
            trusted &= 2 * (bend / size) ** 2 <= _BENT**2 * masks * second
        return trusted | self.unchanged(output, name)

    def deviation(self, output: int) -> Tensor:
        """(n, …) standard deviation of the prediction under one mask."""
        value = self.influences[output]["mean"]
        share = self.weight.reshape(-1, *[1] * (value.ndim - 1))
        return (share * (value - (share * value).sum(dim=0)) ** 2).sum(dim=0).sqrt()

    def unchanged(self, output: int, name: str) -> Tensor:
        """Where no mask changes a quantity."""
        still = self.still[output]
        if name == "log_likelihood":
            return still.reshape(len(still), -1).all(dim=1)
        extra = still.ndim - (self.influences[output][name].ndim - 1)
        return still.all(dim=self.class_dim) if extra else still


def foresee(
    outputs: Outputs,
    route: Route,
    source: RareMasks | None,
    batch: Batch,
    center: list[Tensor],
    means: list[dict[str, Tensor]],
    wanted: Wanted,
) -> Foreseen | None:
    """The influences of masks that are rare, linearized where the run's means are; None without such masks."""
    if source is None:
        return None
    evaluate = Whole(outputs) if isinstance(route.evaluate, Nested) else route.evaluate
    pieces = list(evaluate(batch, source, center, replace(wanted, values=False, carry=False)))
    weight = torch.cat([piece.weight for piece in pieces])
    found, bends, still = [], [], []
    for i, (at_mean, mean) in enumerate(zip(center, means, strict=True)):
        features = {name: torch.cat([piece.features[i][name] for piece in pieces]) for name in mean}
        over = {name: values.mean(dim=0) for name, values in mean.items()}
        found.append({name: phi(features) for name, phi in influences(outputs.task, over, at_mean).items()})
        still.append((features["first"] - features["first"][:1]).abs().amax(dim=0) <= 64 * 2.0**-52 * at_mean.abs())
        bends.append(_bends(outputs.task, features["first"], weight, at_mean))
    density = None
    if wanted.target is not None:
        logs = torch.cat([piece.fit.log.logsumexp(dim=1) for piece in pieces if piece.fit is not None])
        density = (logs - logs.amax(dim=0).clamp(min=-1e300)).exp()
    return Foreseen(found, bends, still, density, weight, outputs.task.class_dim)


def foreseeable(outputs: Outputs, route: Route, masks: int) -> RareMasks | None:
    """The rare masks of a route's sites for a run of so many masks; None where that few show nothing anyway."""
    if masks < FEWEST_MASKS:
        return None
    sites = outputs.sites if isinstance(route.evaluate, Nested) else route.option.sites
    alone = isinstance(route.evaluate, LastOnly)
    return rare_masks(sites, masks, batched=alone or outputs.forward(sites).can_be_batched(outputs.look.data.first(2)))


def _bends(task: Task, first: Tensor, weight: Tensor, center: Tensor) -> dict[str, Tensor]:
    share = weight.reshape(-1, *[1] * (first.ndim - 1))
    mean = (share * first).sum(dim=0)
    variance = (share * (first - mean) ** 2).sum(dim=0)
    if not task.classifies:
        return {"std": variance}
    p = (mean + center).clamp(1e-300, 1.0)
    bend = variance / p / 2
    bend = variance / (p * (1 - p).clamp(min=1e-300)) / 2 if task.name == "binary" else bend.sum(dim=task.class_dim)
    return {"std": variance, "entropy": bend, "mutual_information": bend}
