"""Masks gone through batch by batch, and what the means of their features come to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from allmasks.methods import SoftmaxBounds
from allmasks.methods.options import Option
from allmasks.over_masks.data import Batch
from allmasks.over_masks.forms import in_form
from allmasks.over_masks.sources import EveryMask, MaskSource, SampledMasks
from allmasks.prediction.bounded import Bounded
from allmasks.prediction.features import DENSITIES, QUANTITIES, likelihood_features, quantities, within_bounds
from allmasks.prediction.foreseen import Foreseen, RareMasks, foresee
from allmasks.prediction.held import batch_held
from allmasks.prediction.outputs import Outputs, magnitudes
from allmasks.prediction.pieces import Evaluator, Integrated, LastOnly, Nested, Piece, Wanted, Whole
from allmasks.prediction.round_off import at_center, of_quantity
from allmasks.prediction.tally import Tally, jackknife
from allmasks.prediction.task import Task
from allmasks.prediction.weight import Weight, influences
from allmasks.ranks.groups import Group
from allmasks.reliability import FEWEST_MASKS
from allmasks.replicates import grouped_sizes

__all__ = ["Averages", "Route", "average", "over_ranks", "route_of"]

_TOO_VAGUE = 0.25
"""Relative error of a mean likelihood beyond which its log is no longer linear in it."""


@dataclass(frozen=True)
class Route:
    """How the masks are gone through: the option chosen, and what is made of each mask."""

    option: Option
    evaluate: Evaluator


def route_of(outputs: Outputs, chosen: Option, seed: int) -> Route:
    """What makes features of the masks of the option that was chosen."""
    last = outputs.last
    if isinstance(chosen.method, SoftmaxBounds):
        return Route(chosen, Bounded(outputs, chosen.method))
    if chosen.integrates_last:
        return Route(chosen, Integrated(outputs))
    if chosen.sampler is not None and chosen.inner > 1:
        return Route(chosen, Nested(outputs, chosen.sampler, seed, chosen.inner))
    alone = last is not None and [site.name for site in chosen.sites] == [last.site]
    return Route(chosen, LastOnly(outputs) if alone and chosen.sampler is not None else Whole(outputs))


@dataclass
class Averages:
    """(n, …) tensors of every quantity, for each tensor of the output; and what else was gathered.

    `samples` are (n, masks, …); the log-likelihood is a quantity of one tensor.
    """

    center: list[Tensor]
    value: dict[str, list[Tensor]]
    error: dict[str, list[Tensor]]
    reliable: dict[str, list[Tensor]]
    samples: list[Tensor]
    alike: dict[str, list[Tensor]] = field(default_factory=dict)
    """Where all replicates of a quantity agree."""
    deviation: list[Tensor] = field(default_factory=list)
    """Standard deviation of each prediction under one mask, as rare masks show it; empty without those."""
    held: dict[str, Tensor] = field(default_factory=dict)
    """What `held.batch_held` keeps of the replicates, and the digest."""

    @property
    def told(self) -> tuple[Any, ...]:
        """What is reported, all of it with the examples first."""
        return self.center, self.value, self.error, self.reliable, self.samples, self.held


def average(
    outputs: Outputs,
    route: Route,
    source: MaskSource,
    *,
    only: tuple[str, ...] = QUANTITIES,
    rare: RareMasks | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> Averages:
    """Go through the masks of every example in constant memory; `rare` ones, where given, say what those may miss."""
    parts = []
    for batch in outputs.look.data:
        with torch.no_grad():
            own = _for_batch(outputs, route, source, batch)
            alike = [site.shape for site in own[0].sites] == [site.shape for site in outputs.sites]
            parts.append(_of_batch(*own, batch, only, rare if alike else None, tick))
    shapes = {tuple(tuple(leaf.shape[1:]) for leaf in part.center) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            f"the model's predictions have other shapes for batches of other shapes: {sorted(shapes)}; pad all batches "
            "to one length, or predict each by itself"
        )
    return _joined(parts)


def _for_batch(outputs: Outputs, route: Route, source: MaskSource, batch: Batch) -> tuple[Outputs, Route, MaskSource]:
    """All three, with the sites as they lie in the batch."""
    sites = outputs.look.sites_in(batch)
    if sites is None:
        return outputs, route, source
    if isinstance(source, EveryMask) and any(sites[site.name].shape != site.shape for site in source.sites):
        raise ValueError(
            "batches are of several shapes, and each has other masks to list; pass method=am.methods.MonteCarlo(), "
            "or pad all batches to one length"
        )
    return in_form(outputs, sites), in_form(route, sites), in_form(source, sites)


def _of_batch(
    outputs: Outputs,
    route: Route,
    source: MaskSource,
    batch: Batch,
    only: tuple[str, ...],
    rare: RareMasks | None,
    tick: Callable[[int], None],
) -> Averages:
    batch, task, asked = outputs.keyed(batch), outputs.task, outputs.asked
    in_eval = outputs.in_eval(batch)
    center = [task.value(leaf) for leaf in in_eval]
    target = None
    if asked.likelihood:
        if batch.target is None:
            raise ValueError("y=True takes the targets of a data loader, but this data has none; pass y=targets")
        target = task.check_target(batch.target, in_eval[0])
    elif asked.digest is not None and batch.target is not None:
        target = asked.digest.checked(task, batch.target, in_eval[0])
    sampled = route.option.guarantee == "statistical"
    sizes = magnitudes(outputs, batch, in_eval, rough=sampled)
    wanted = Wanted(target if asked.likelihood else None, asked.precision, outputs.each_mask, sizes, carry=not sampled)
    off = _sum_error(outputs, sampled)
    replicates = grouped_sizes(source.blocks.sizes) if isinstance(source, SampledMasks) else np.array([1])
    tallies = [Tally(replicates) for _ in center]
    errors: list[dict[str, Tensor]] = [{} for _ in center]
    weights = [_weight(task, at_mean) for at_mean in center] if sampled else []
    fits = Tally(replicates)
    reference = torch.full((len(batch),), -math.inf, dtype=torch.float64, device=center[0].device)
    kept: list[list[Tensor]] = [[] for _ in center]
    shares: list[Tensor] = []
    for piece in route.evaluate(batch, source, center, wanted):
        share = piece.weight if not sampled else torch.ones_like(piece.weight)
        _tally(tallies, errors, piece, share, sampled)
        for held_weight, leaf in zip(weights, piece.features, strict=False):
            held_weight.add(leaf)
        shares.append(piece.weight)
        for held, values in zip(kept, piece.values, strict=False):
            held.append(values)
        if piece.fit is not None:
            densities, factor, reference = likelihood_features(piece.fit.flattened(), reference)
            for name, density in densities.items():
                fits.rescale(name, factor)
                per_mask = density.reshape(piece.fit.log.shape).mean(dim=1) * share[:, None]
                densities[name] = per_mask if sampled else per_mask.sum(dim=0, keepdim=True)
            fits.add(densities, tally_masks=sampled)
        tick(len(piece.weight) * len(batch))
    means = [tally.means() for tally in tallies]
    samples = [torch.cat(held).movedim(1, 0) for held in kept if held]
    results = Averages(center, {}, {}, {}, samples if asked.samples else [])
    known = foresee(outputs, route, rare, batch, center, means, wanted)
    for i, (mean, at_mean) in enumerate(zip(means, center, strict=True)):
        over = {name: values.mean(dim=0) for name, values in mean.items()}
        carried = errors[i] or at_center(task, in_eval[i].dtype, over, at_mean, sizes[i])
        _conclude(results, task, mean, at_mean, carried, replicates, sampled, off, only)
    if asked.likelihood:
        _conclude_likelihood(results, fits.means(), reference, replicates, sampled, off)
    if len(center) == 1:
        likelihood = fits.means()["density"] if asked.likelihood else None
        results.held = batch_held(means[0], likelihood, reference, replicates if sampled else None, outputs)
        if asked.likelihood and target is not None:
            results.held["target"] = target
        if asked.digest is not None:
            blocks = source.blocks.sizes if isinstance(source, SampledMasks) else None
            results.held |= asked.digest(target, center[0], samples[0] if samples else None, torch.cat(shares), blocks)
    if isinstance(source, SampledMasks):
        results.deviation = [] if known is None else [known.deviation(i) for i in range(len(center))]
        _judge(results, weights, known, source.n_masks)
    return results


def _judge(results: Averages, weights: list[Weight], known: Foreseen | None, masks: int) -> None:
    """Which errors can be trusted: by masks that are rare where there are such, else by the masks drawn alone."""
    for name, flags in results.reliable.items():
        for i, flag in enumerate(flags):
            if known is not None:
                flags[i] = known.enough(i, name, masks)
            elif name != "log_likelihood":
                flags[i] = flag & weights[i].enough(name)
            flags[i] = flags[i] & (masks >= FEWEST_MASKS)
        if known is None or name == "log_likelihood":
            continue
        for i, alike in enumerate(results.alike[name]):
            # Masks that all gave the same prove nothing where others would not have.
            error = results.error[name][i]
            results.error[name][i] = torch.where(alike & ~known.unchanged(i, name), torch.nan, error)
            flags[i] = flags[i] & (known.unchanged(i, name) | ~alike)


def _sum_error(outputs: Outputs, sampled: bool) -> float:
    """Round-off of a sum over masks, relative to the sum of its terms' sizes: a mask's probability is e^(its log)."""
    rates = [] if sampled else [(site.law.random_units, site.p) for site in outputs.sites]
    logs = sum(units * -math.log(min(p, 1.0 - p)) for units, p in rates)
    return 2.0**-52 * (64.0 + min(logs, 800.0))


def _weight(task: Task, center: Tensor) -> Weight:
    return Weight(lambda reference: influences(task, reference, center))


def _tally(tallies: list[Tally], errors: list[dict[str, Tensor]], piece: Piece, share: Tensor, sampled: bool) -> None:
    for i, (tally, leaf) in enumerate(zip(tallies, piece.features, strict=True)):
        if sampled:
            tally.add(leaf)
        else:
            tally.add({name: _weighted(f, share) for name, f in leaf.items()}, tally_masks=False)
        if piece.errors:
            for name, error in piece.errors[i].items():
                total = _weighted(error, piece.weight)[0]
                errors[i][name] = errors[i][name] + total if name in errors[i] else total


def _weighted(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight.reshape(-1, *[1] * (values.ndim - 1))).sum(dim=0, keepdim=True)


def _conclude(
    results: Averages,
    task: Task,
    means: dict[str, Tensor],
    center: Tensor,
    carried: dict[str, Tensor],
    replicates: np.ndarray,
    sampled: bool,
    off: float,
    only: tuple[str, ...],
) -> None:
    """Each quantity of one tensor of the output, from the features' means."""
    over = {k: m.mean(dim=0) for k, m in means.items()}
    for name, function in quantities(task, center).items():
        if name not in only:
            continue
        if sampled:
            estimate = jackknife(means, replicates, function)
            value, error, reliable = estimate.value, estimate.error, estimate.reliable
            alike = error <= 64 * 2.0**-52 * value.abs()
            results.alike.setdefault(name, []).append(alike)
        else:
            value = function(over)
            error, reliable = torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool)
        value = within_bounds(name, task, value)
        error = error + of_quantity(name, task, over, center, carried, value, off)
        for table, tensor in ((results.value, value), (results.error, error), (results.reliable, reliable)):
            table.setdefault(name, []).append(tensor)


def _conclude_likelihood(
    results: Averages, means: dict[str, Tensor], reference: Tensor, replicates: np.ndarray, sampled: bool, off: float
) -> None:
    whole, low, high = (means[name].mean(dim=0).log() for name in DENSITIES)
    possible = whole.isfinite()
    # Where no mask has any likelihood its log is -inf, and what round-off may hide is all there is to say.
    moved = torch.maximum(high - whole, whole - low).where(possible, torch.where(high.isfinite(), torch.inf, 0.0))
    if sampled:
        # Likelihoods are not counted mask by mask (their unit changes as larger ones come), so replicates must do.
        estimate = jackknife({"density": means["density"]}, replicates, lambda m: m["density"], skew=0.9, excess=2.5)
        average = estimate.value.clamp(min=1e-300)
        # The mean is what is estimated, its log follows to second order: log m̄ is too low by v/2. v is at most about
        # 1, where one replicate holds all; a jackknife of the log itself would multiply that replicate by their number.
        relative = estimate.error / average
        value, error = average.log() + relative**2 / 2, relative
        results.reliable["log_likelihood"] = [estimate.reliable & (relative <= _TOO_VAGUE)]
    else:
        value, error = whole, torch.zeros_like(whole)
    at = torch.where(reference.isfinite(), reference, 0.0)
    results.value["log_likelihood"] = [value + at]
    results.error["log_likelihood"] = [error + moved + off + 8 * 2.0**-52 * at.abs()]


def _joined(parts: list[Averages]) -> Averages:
    # Rare masks are made for examples of the first batch's form: where others have another, nothing is foreseen.
    deviation = [torch.cat(rows) for rows in zip(*(part.deviation for part in parts), strict=False)]
    joined = tree_map(lambda *rows: torch.cat(rows), *(part.told for part in parts))
    return replace(_told(joined), deviation=deviation)


def _told(told: tuple[Any, ...]) -> Averages:
    center, value, error, reliable, samples, held = told
    return Averages(center, value, error, reliable, samples, held=held)


def over_ranks(results: Averages, ranks: Group) -> Averages:
    """The results of every rank's examples, in order of rank."""
    return _told(tree_map(ranks.concatenate, results.told))
