"""Running what follows a site with its units scaled by given numbers: the one tool of every instrument.

0 removes a unit, 1 leaves it, 1 / (1 − p) is a unit that dropout kept. All other sites stay at their mean mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.expect import Expectation, prepare
from allmasks.expect.under_masks import Plain
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.sources import MaskChunk
from allmasks.results import Note
from allmasks.sites import DropoutSite, is_sharded

__all__ = ["ScaledUnits", "each_site", "generator", "refusal"]


def refusal(site: DropoutSite) -> str | None:
    """Why the units of this site cannot be removed one by one, or None where they can."""
    if not site.controllable:
        return site.reason or Note("its masks cannot be set")
    if not site.mean_preserving:
        return Note("alpha dropout puts a constant in a dropped unit's place, so a unit is never removed")
    if site.batch_dim is None or site.merged:
        return Note("its examples do not lie along an axis of their own")
    if site.kind == "attention":
        return Note("its units are attention weights, of which every query has its own")
    if site.wakes is not None:
        return Note("it acts in training mode only, so what enters it is not to be seen outside")
    return None


def each_site(
    model: nn.Module, data: Any, y: Any, loss: Any, sites: Iterable[str] | None, leave_off: str | Sequence[str] = ()
) -> Iterator[ScaledUnits]:
    """A runner for each of the named sites (default: all whose units can be removed).

    Raises
    ------
    ValueError : a name that is no site, or a site whose units cannot be removed.
    """
    problem = prepare(model, data, y, loss, leave_off=leave_off, paired=True)

    def refused(site: DropoutSite) -> str | None:
        if problem.look.varies_in_form(site):
            return "it has other units in batches of another shape; pad all batches to one length"
        return refusal(site)

    known = {site.name: site for site in problem.look.sites}
    if sites is None:
        chosen = [site for site in problem.look.sites if refused(site) is None]
        if not chosen:
            reasons = "; ".join(f"{site.name}: {refused(site)}" for site in problem.look.sites) or "it has no dropout"
            raise ValueError(f"{type(model).__name__} has no site whose units can be removed ({reasons})")
    else:
        names = [sites] if isinstance(sites, str) else list(sites)
        for name in names:
            if name not in known:
                raise ValueError(f"no dropout site is called {name!r}; the sites are {', '.join(known) or 'none'}")
            if (why := refused(known[name])) is not None:
                raise ValueError(f"the units of {name} cannot be removed one by one: {why}")
        chosen = [known[name] for name in names]
    for site in chosen:
        yield ScaledUnits(problem, site)


def generator(seed: int, site: DropoutSite, purpose: int) -> np.random.Generator:
    """Random numbers for choices of pairs and orders: a function of (seed, site, purpose) alone."""
    return np.random.default_rng([seed, site.id, purpose])


@dataclass
class ScaledUnits:
    """Losses of every example with the site's units multiplied by each of some rows of numbers."""

    problem: Expectation
    site: DropoutSite
    _plain: Plain = field(init=False)

    def __post_init__(self) -> None:
        # As a site of rate 0 its "mask" is multiplied in as it is, without the factor 1 / (1 - p).
        self._plain = self.problem.plain((replace(self.site, p=0.0),))

    @property
    def units(self) -> int:
        """Units of the site."""
        return self.site.units

    @property
    def n_examples(self) -> int:
        """Examples of the data."""
        return self.problem.look.data.n_examples

    def ones(self, rows: int) -> Tensor:
        """(rows, units) multipliers that change nothing."""
        return torch.ones(rows, self.units, dtype=torch.float64)

    def losses(self, multipliers: Tensor, *, with_error: bool = False) -> tuple[Tensor, Tensor]:
        """(rows, n) float64 losses of each example, and their round-off bounds, under (rows, units) multipliers."""
        found = [self._chunk(rows, with_error) for rows in multipliers.split(self._rows_at_once())]
        return torch.cat([loss for loss, _ in found]), torch.cat([error for _, error in found])

    def mean_losses(self, multipliers: Tensor) -> tuple[Tensor, Tensor]:
        """(rows,) weighted mean losses under (rows, units) multipliers, and their round-off bounds."""
        losses, errors = self.losses(multipliers, with_error=True)
        return self.averaged(losses), self.averaged(errors) + self.summing(losses)

    def averaged(self, values: Tensor) -> Tensor:
        """(rows,) weighted means over the examples of (rows, n)."""
        return values @ self.problem.weight.cpu()

    def summing(self, values: Tensor) -> Tensor:
        """(rows,) round-off bounds of `averaged`: one unit in the last place for each term, of their sizes' sum."""
        return (self.n_examples + 64) * torch.finfo(torch.float64).eps * self.averaged(values.abs())

    def without_each(self) -> tuple[Tensor, Tensor]:
        """(units + 1,) mean losses without each unit alone, the last with all on, and their round-off bounds."""
        rows = self.ones(self.units + 1)
        rows[torch.arange(self.units), torch.arange(self.units)] = 0.0
        return self.mean_losses(rows)

    def accuracies(self, multipliers: Tensor) -> Tensor | None:
        """(rows,) share of examples classified rightly; None where the loss is not that of a classifier."""
        loss = self.problem.loss
        if loss.whole_output or loss.n_outputs > 1:
            return None
        found, forward = [], self.problem.look.forward((replace(self.site, p=0.0),))
        for rows in multipliers.split(self._rows_at_once()):
            hits = []
            with torch.no_grad(), self.problem.look.lent():
                for batch in self.problem.look.data:
                    for _, outputs in forward(batch, self._as_chunk(rows)):
                        target = loss.check(outputs[0], batch.target)
                        each = [loss.hits(output, target) for output in outputs]
                        if any(hit is None for hit in each):
                            return None
                        hit = torch.stack([hit for hit in each if hit is not None])
                        hits.append(hit.reshape(len(hit), len(batch), -1).double().mean(dim=2).cpu())
            found.append(_joined(hits, len(rows), self.n_examples))
        return torch.cat(found) @ self.problem.share.cpu()

    def activations(self) -> Tensor:
        """(n, units) float64 what enters the site, averaged over elements that share a mask bit."""
        return self._observed(lambda h: h.double())

    def squares(self) -> Tensor:
        """(n, units) float64 squares of what enters the site, summed over elements that share a mask bit."""
        return self._observed(lambda h: h.double() ** 2, total=True)

    def silent(self) -> Tensor:
        """(n, units) share of a unit's elements that are exactly 0."""
        return self._observed(lambda h: (h == 0).double())

    def curvature(self, at_once: int = 64) -> Tensor:
        """(n, units) ∂²L/∂mⱼ² at m = 1, which is hⱼ² ∂²L/∂hⱼ²; nan where the model cannot be differentiated twice."""
        rows = []
        if is_sharded(self.problem.look.model):
            return torch.full((self.n_examples, self.units), torch.nan, dtype=torch.float64)
        with self.problem.look.lent(), torch.enable_grad():
            for batch in self.problem.look.data:
                noise = torch.ones(1, len(batch), self.units, dtype=torch.float64, requires_grad=True)
                chunk = MaskChunk({self.site.name: noise}, torch.ones(1), 0)
                (found,) = self._plain(batch, chunk, with_error=False)
                rows.append(_diagonal(found.loss.sum(), noise, at_once).detach().cpu())
        return torch.cat(rows)

    def _chunk(self, rows: Tensor, with_error: bool) -> tuple[Tensor, Tensor]:
        losses, errors = [], []
        with torch.no_grad(), self.problem.look.lent():
            for batch in self.problem.look.data:
                for found in self._plain(batch, self._as_chunk(rows), with_error=with_error):
                    losses.append(found.loss.detach().cpu())
                    errors.append(found.error.detach().cpu())
        return _joined(losses, len(rows), self.n_examples), _joined(errors, len(rows), self.n_examples)

    def _as_chunk(self, rows: Tensor) -> MaskChunk:
        device = self.problem.weight.device
        kept = rows[:, None, :].to(device)
        return MaskChunk({self.site.name: kept}, torch.ones(len(rows), dtype=torch.float64, device=device), 0)

    def _rows_at_once(self) -> int:
        return self.problem.look.chunk_masks

    def _observed(self, transform: Any, *, total: bool = False) -> Tensor:
        forward: Forward = self.problem.look.forward((), observe=self.site.name)
        rows = []
        empty = MaskChunk({}, torch.ones(1), 0)
        with torch.no_grad(), self.problem.look.lent():
            for batch in self.problem.look.data:
                ((_, seen),) = forward(batch, empty)
                h = transform(seen[0].movedim(self.site.batch_dim or 0, 0))
                # Elements that share a bit lie along axes where the mask has length 1 and the activation has not.
                shared = [1 + i for i, (m, a) in enumerate(zip(self.site.shape, h.shape[1:], strict=True)) if m < a]
                if shared:
                    h = h.sum(dim=shared, keepdim=True) if total else h.mean(dim=shared, keepdim=True)
                rows.append(h.reshape(len(batch), -1).cpu())
        return torch.cat(rows)


def _diagonal(loss: Tensor, noise: Tensor, at_once: int) -> Tensor:
    """(n, units) second derivatives of a sum of per-example losses by each entry of (1, n, units) noise."""
    n, units = noise.shape[1:]
    if not loss.requires_grad:  # forward cuts its graph
        return torch.full((n, units), torch.nan, dtype=torch.float64)
    # A site that the loss does not read, as that of a second head, has no part in its graph: its slope is 0.
    (slope,) = torch.autograd.grad(loss, noise, create_graph=True, allow_unused=True)
    if slope is None or not slope.requires_grad:
        return torch.zeros(n, units, dtype=torch.float64)
    found = torch.empty(n, units, dtype=torch.float64)
    try:
        for lo in range(0, units, at_once):
            which = torch.arange(lo, min(lo + at_once, units))
            seeds = torch.zeros(len(which), 1, n, units, dtype=slope.dtype)
            seeds[torch.arange(len(which)), 0, :, which] = 1.0
            (rows,) = torch.autograd.grad(
                slope, noise, seeds, retain_graph=True, is_grads_batched=True, materialize_grads=True
            )
            found[:, which] = rows[torch.arange(len(which)), 0, :, which].T.to(found.dtype)
    except (RuntimeError, NotImplementedError):  # an operation without a second derivative
        return torch.full((n, units), torch.nan, dtype=torch.float64)
    return found


def _joined(parts: list[Tensor], rows: int, n: int) -> Tensor:
    """Pieces (rows of one batch, or one row at a time where vmap has no rule) as (rows, n)."""
    columns: list[Tensor] = []
    pending: list[Tensor] = []
    for part in parts:
        pending.append(part)
        if sum(len(p) for p in pending) == rows:
            columns.append(torch.cat(pending))
            pending = []
    whole = torch.cat(columns, dim=1)
    assert whole.shape == (rows, n)
    return whole
