"""From a source of masks and an evaluator to per-example means with errors, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from allmasks.over_masks.data import Batch
from allmasks.over_masks.derivatives import mean_with_gradients
from allmasks.over_masks.forms import Form, in_form
from allmasks.over_masks.look import Look
from allmasks.over_masks.sources import MaskChunk, MaskSource, SampledMasks
from allmasks.replicates import RunningMean
from allmasks.results import Guarantee, weakest
from allmasks.sampling import Blocks

__all__ = ["Evaluator", "Job", "Losses", "Solution", "solve"]


@dataclass(frozen=True)
class Losses:
    """Losses under some masks of a chunk: (masks, n) float64, and a round-off or integration error of each.

    weight : (n,) what each example weighs by itself, where that is not the same for all; the same under every mask.
    """

    where: slice
    loss: Tensor
    error: Tensor
    weight: Tensor | None = None


class Evaluator(Protocol):
    """Losses of a batch under the masks of a chunk."""

    guarantee: Guarantee

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]: ...


@dataclass
class Job:
    """One mean over masks to be computed.

    Parameters
    ----------
    weight : (n,) what each example's loss is multiplied by in the value.
    inputs : tensors that gradients flow to.
    tick : called with the number of (mask, example) evaluations done.
    """

    look: Look
    source: MaskSource
    evaluate: Evaluator
    weight: Tensor
    inputs: tuple[Tensor, ...] = ()
    tick: Callable[[int], None] = lambda done: None
    _others: dict[Form, Job] = field(default_factory=dict, init=False, repr=False)

    def for_batch(self, batch: Batch) -> Job:
        """This job, with the sites as they lie in that batch."""
        sites = self.look.sites_in(batch)
        if sites is None:
            return self
        if batch.form not in self._others:
            source, evaluate = in_form(self.source, sites), in_form(self.evaluate, sites)
            self._others[batch.form] = replace(self, source=source, evaluate=evaluate)
        return self._others[batch.form]

    @property
    def guarantee(self) -> Guarantee:
        """What the evaluators of all batches have come to guarantee."""
        return weakest(self.evaluate.guarantee, *(job.evaluate.guarantee for job in self._others.values()))


@dataclass(frozen=True)
class Solution:
    """(n,) means and errors in float64; where masks were sampled the weighted mean under each, (K,), and the blocks."""

    per_example: Tensor
    per_example_error: Tensor
    totals: Tensor | None
    blocks: Blocks | None
    guarantee: Guarantee
    inner: Tensor | None = None
    """Of sampled masks: (n,) mean of the errors that each mask's loss has by itself."""


def solve(job: Job) -> Solution:
    """Go through all masks of all examples, in constant memory; `per_example` carries gradients to `inputs`."""
    tally = _Tally(job)
    if torch.is_grad_enabled() and job.inputs:
        per_example = mean_with_gradients(tally, job.inputs)
    else:
        tally.run()
        per_example = tally.mean
    blocks = job.source.blocks if isinstance(job.source, SampledMasks) else None
    return Solution(per_example, tally.error, tally.totals, blocks, tally.guarantee, tally.inner)


class _Tally:
    """Running means, block statistics and errors over the stream of masks."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.sampled = isinstance(job.source, SampledMasks)
        self.guarantee: Guarantee = "exact"
        self.totals: Tensor | None = None
        self.inner: Tensor | None = None

    def run(self) -> None:
        self.job.look.group.run(self._run)
        if self.totals is not None:
            self.totals = self.job.look.group.sum(self.totals)
        self.guarantee = weakest(*self.job.look.group.gather(self.guarantee))

    def _run(self) -> None:
        job, n = self.job, self.job.look.data.n_examples
        device = job.weight.device
        self.mean = torch.zeros(n, dtype=torch.float64, device=device)
        self.error = torch.zeros(n, dtype=torch.float64, device=device)
        self.totals = None
        if self.sampled:
            self.inner = torch.zeros_like(self.error)
            self.totals = torch.zeros(job.source.n_masks, dtype=torch.float64, device=device)
        with torch.no_grad(), job.look.lent():
            for batch in job.look.data:
                rows = slice(batch.start, batch.start + len(batch))
                if self.sampled:
                    self._sampled_batch(batch, rows)
                else:
                    self._weighted_batch(batch, rows)
        self.guarantee = weakest(job.guarantee, "statistical") if self.sampled else job.guarantee

    def _weighted_batch(self, batch: Batch, rows: slice) -> None:
        magnitude = torch.zeros(len(batch), dtype=torch.float64, device=self.mean.device)
        for chunk, losses in _losses(self.job, batch):
            weight = chunk.weight[losses.where, None]
            self.mean[rows] += (weight * losses.loss).sum(dim=0)
            self.error[rows] += (weight * losses.error).sum(dim=0)
            magnitude += (weight * losses.loss.abs()).sum(dim=0)
        # Adding n numbers in float64 costs at most n roundings of their absolute sum; so does each weight.
        n_masks = self.job.source.n_masks
        self.error[rows] += (n_masks + 64) * np.finfo(np.float64).eps * magnitude * (n_masks > 1)

    def _sampled_batch(self, batch: Batch, rows: slice) -> None:
        source, weight = self.job.source, self.job.weight[rows]
        assert self.totals is not None
        running = RunningMean(source.n_masks, source.block)
        count, inner = 0, torch.zeros(len(batch), dtype=torch.float64, device=self.mean.device)
        for _, losses in _losses(self.job, batch):
            inner += losses.error.sum(dim=0)
            running.add(losses.loss)
            self.totals[count : count + len(losses.loss)] += losses.loss @ weight
            count += len(losses.loss)
        assert self.inner is not None
        self.inner[rows] = inner / source.n_masks
        self.mean[rows], mcse = running.mean_and_error()
        # Replicates all alike prove nothing.
        self.error[rows] = torch.where(running.alike(), math.nan, mcse) + inner / source.n_masks

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that gradients flow to."""
        return self.job.inputs

    def lent(self) -> AbstractContextManager[None]:
        """The model, ready to be run."""
        return self.job.look.lent()

    def weighted_losses(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, losses (masks, rows) times what each mask counts) of every chunk, as `run` has summed them."""
        again, reached = torch.zeros_like(self.mean), False
        for batch in self.job.look.data:
            rows = slice(batch.start, batch.start + len(batch))
            for chunk, losses in _losses(self.job, batch, with_error=False):
                weighted = chunk.weight[losses.where, None] * losses.loss
                again[rows] += weighted.detach().sum(dim=0)
                reached = reached or weighted.requires_grad
                yield rows, weighted
        if not reached:
            raise RuntimeError(
                "the loss has no derivative: does forward run under no_grad or inference_mode, or cut its graph?"
            )
        drift = (again - self.mean).abs() > 1e-3 * (1e-3 + self.mean.abs())
        if bool(drift.any()):
            raise RuntimeError(
                f"backward recomputed another loss for example {int(drift.nonzero()[0])} than forward: the data or "
                "the model changed in between. Pass tensors instead of a loader that draws anew, and call backward "
                "before changing the model"
            )


def _losses(job: Job, batch: Batch, *, with_error: bool = True) -> Iterator[tuple[MaskChunk, Any]]:
    job = job.for_batch(batch)
    for chunk in job.source.chunks(batch.examples, job.look.chunk_masks, job.weight.device):
        for losses in job.evaluate(batch, chunk, with_error=with_error):
            if not bool(torch.isfinite(losses.loss).all()):
                m, i = (int(k) for k in (~torch.isfinite(losses.loss)).nonzero()[0])
                raise ValueError(
                    f"the loss is not finite for example {batch.start + i} under "
                    f"{chunk.describe(losses.where.start + m)}; look at that example's inputs and targets, or at "
                    "the model's outputs"
                )
            yield chunk, losses
            job.tick(losses.loss.numel())
