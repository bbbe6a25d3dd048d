"""What a model's seldom units would change: each flipped alone in some of the masks drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allmasks.over_masks.data import Batch
from allmasks.over_masks.passes import Job
from allmasks.over_masks.sources import MaskChunk, SampledMasks
from allmasks.reliability import FEWEST_MASKS, Unseen, seldom, varying
from allmasks.sites import DropoutSite

__all__ = ["seldom_changes"]

_SHARE = 8
"""At most one pass in so many of the run's looks at units kept, and one at the same units dropped."""


@dataclass(frozen=True)
class _Unit:
    """A seldom unit: its site, its number there, and `varying` of it."""

    site: DropoutSite
    number: int
    more: float


def seldom_changes(job: Job) -> Unseen | None:
    """Moments of what units that are kept or dropped too seldom to be seen add to the mean over the examples.

    Every example has another unit flipped in each pass, so that a few passes over the data look at many. None where
    nothing was looked at: too few masks to say anything, or examples on several ranks.
    """
    source, ranks = job.source, job.look.group
    assert isinstance(source, SampledMasks)
    nothing = Unseen(0.0, 0.0, 0.0, 1.0)
    if source.n_masks < FEWEST_MASKS or ranks.size > 1:
        return None
    weight = job.weight.double()
    apart = len(np.unique(job.look.data.example_index)) == job.look.data.n_examples
    own, shared = _seldom_units(source, float(weight.sum() ** 2 / (weight**2).sum()) if apart else None)
    found = nothing
    with torch.no_grad(), job.look.lent():
        for units, together in ((own, False), (shared, True)):
            if units:
                found = found.plus(_changes(job, source, units, together))
    return found


def _seldom_units(source: SampledMasks, examples: float | None) -> tuple[list[_Unit], list[_Unit]]:
    """Seldom units of sites that each example has masks of its own at, and of those that examples share one at.

    Parameters
    ----------
    examples : how many examples carry the mean; None where some have the same key.
    """
    own: list[_Unit] = []
    shared: list[_Unit] = []
    for site in source.sites:
        q = site.law.keep_prob
        more = varying(q, source.block)
        together = examples is None or site.batch_dim is None
        few = np.flatnonzero(seldom(q, source.blocks, 1.0 if together or examples is None else examples))
        (shared if together else own).extend(_Unit(site, int(j), float(more[j])) for j in few)
    return own, shared


def _changes(job: Job, source: SampledMasks, units: list[_Unit], together: bool) -> Unseen:
    n = 1 if together else job.look.data.n_examples
    passes = max(1, min(-(-len(units) // n), source.n_masks // _SHARE))
    numbers = np.unique(np.linspace(0, source.n_masks - 1, passes).astype(np.int64))
    # Pass k looks at unit k · n + i in example i; a stride that shares no factor with their number spreads them.
    order = (np.arange(len(numbers) * n) * _stride(len(units))) % len(units)
    which = order.reshape(len(numbers), n)
    change = torch.zeros(len(numbers), job.look.data.n_examples, dtype=torch.float64)
    for batch in job.look.data:
        rows = slice(batch.start, batch.start + len(batch))
        place = np.repeat(which, len(batch), axis=1) if together else which[:, rows]
        here = job.for_batch(batch)
        assert isinstance(here.source, SampledMasks)
        kept = here.source.bits(numbers + source.first, batch.examples, torch.device("cpu"))
        on, off = (_losses(here, batch, _flipped(kept, units, place, state)) for state in (True, False))
        change[:, rows] = on - off
    weighted = change * job.weight.double().cpu()
    moved = (weighted.sum(dim=1, keepdim=True) if together else weighted).numpy().reshape(-1)
    more = np.array([unit.more for unit in units])[order]
    size = float(np.abs(moved).max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):  # of an infinite change all that is known is that it counts
        x = np.nan_to_num(moved / size, nan=1.0)
    # Each example saw len(numbers) of its units: those stand for all.
    each = Unseen.of(more, source.block, x**2, x**3, x**4, size)
    scale = len(units) / len(numbers)
    return Unseen(scale * each.second, scale * each.third, scale * each.excess, size)


def _stride(n: int) -> int:
    """About .618 n, without a factor in common with n."""
    stride = max(1, round(0.618 * n))
    while np.gcd(stride, n) > 1:
        stride += 1
    return stride


def _flipped(kept: dict[str, Tensor], units: list[_Unit], place: np.ndarray, state: bool) -> dict[str, Tensor]:
    changed = {name: bits.numpy().copy() for name, bits in kept.items()}
    for (k, i), u in np.ndenumerate(place):
        bits = changed[units[u].site.name]
        # A batch of another form has other units: its own by that number.
        bits[k, min(i, bits.shape[1] - 1), units[u].number % bits.shape[2]] = state
    return {name: torch.from_numpy(bits) for name, bits in changed.items()}


def _losses(job: Job, batch: Batch, kept: dict[str, Tensor]) -> Tensor:
    """(k, n) losses under these masks."""
    device, count = job.weight.device, len(next(iter(kept.values())))
    weight = torch.full((count,), 1.0 / count, dtype=torch.float64, device=device)
    whole = MaskChunk({name: bits.to(device) for name, bits in kept.items()}, weight, 0)
    found = [job.evaluate(batch, chunk, with_error=False) for chunk in whole.split(job.look.chunk_masks)]
    return torch.cat([losses.loss.detach().double().cpu() for each in found for losses in each])
