"""Cross-entropy with the last layer's quadratic form as control variate.

With logits o = h̃W + b under the last site's mask, mean μ over that mask and δ = o − μ, the second-order form
Q = gᵀδ + ½ δᵀHδ of the loss at μ has the closed-form mean ½ tr(HΣ), Σ = p/(1−p) Σⱼ hⱼ² WⱼWⱼᵀ, given everything below.
So L − c (Q − ½ tr(HΣ)) has the mean of L for every fixed c; c comes from a pilot with masks of its own, since one that
is fitted on the run would bias it, and c = 1 can do harm where logits are large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allmasks.errors import MethodNotApplicable
from allmasks.expect.class_losses import CrossEntropy
from allmasks.expect.loss import ModelLoss
from allmasks.methods import MonteCarlo
from allmasks.over_masks.data import Batch
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.look import Look
from allmasks.over_masks.passes import Losses
from allmasks.over_masks.sources import MaskChunk, SampledMasks
from allmasks.replicates import block_means
from allmasks.results import Guarantee
from allmasks.sampling import pilot_masks
from allmasks.sites import DropoutSite

__all__ = ["Controlled", "best_coefficient", "check_control", "controlled", "pilot_blocks"]

_FIRST = 2**41
"""First mask of the pilot that fits the coefficient: beyond every run's and every other pilot's."""


@dataclass
class Controlled:
    """The loss under each mask less `coefficient` times the quadratic form's deviation from its mean.

    Parameters
    ----------
    forward : gives the last site's input under the masks of the sites before it.
    """

    forward: Forward
    loss: CrossEntropy
    site: DropoutSite
    weight: Tensor
    bias: Tensor | None
    coefficient: float = 1.0
    guarantee: Guarantee = "statistical"

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, loss, control in self.parts(batch, chunk):
            value = loss - self.coefficient * control
            yield Losses(where, value, torch.zeros_like(value))

    def parts(self, batch: Batch, chunk: MaskChunk) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(which masks, losses, control variates of mean zero), both (k, n)."""
        for where, hidden in self.forward(batch, chunk):
            if not self.forward.sites:
                where = slice(0, len(chunk))
            kept = self.site.by_row(chunk.kept[self.site.name][where]).to(hidden.dtype)
            dropped = F.linear(hidden * kept / (1 - self.site.p), self.weight, self.bias)
            center = F.linear(hidden, self.weight, self.bias)
            target = self.loss.check(center[0], batch.target)
            k, n = dropped.shape[:2]
            loss = self.loss.per_example(dropped.flatten(end_dim=1), target.repeat(k, *[1] * (target.ndim - 1)))
            yield where, loss.reshape(k, n), self._control(hidden.double(), center.double(), dropped.double(), target)

    def _control(self, h: Tensor, center: Tensor, dropped: Tensor, target: Tensor) -> Tensor:
        s = torch.softmax(center, dim=-1)
        classes = center.shape[-1]
        t = target.double() if target.is_floating_point() else F.one_hot(target, classes).double()
        t = t * (1 - self.loss.label_smoothing) + self.loss.label_smoothing / classes
        delta = dropped - center
        mean = (s * delta).sum(dim=-1)
        quadratic = ((s - t) * delta).sum(dim=-1) + 0.5 * ((s * delta**2).sum(dim=-1) - mean**2)
        # tr(HΣ) = p/(1−p) Σⱼ hⱼ² (Σ_k s_k W_kj² − (Σ_k s_k W_kj)²)
        w = self.weight.double()
        spread = s @ w**2 - (s @ w) ** 2
        trace = self.site.p / (1 - self.site.p) * (h**2 * spread).sum(dim=-1)
        return quadratic - 0.5 * trace


def check_control(look: Look, loss: ModelLoss, sites: tuple[DropoutSite, ...]) -> None:
    """Raise MethodNotApplicable where the control variate has no formula."""
    _, site = look.split(sites)
    if look.last is None or site is None or not isinstance(loss, CrossEntropy) or loss.weight is not None:
        raise MethodNotApplicable(
            "MonteCarlo",
            'control="quadratic" needs the cross-entropy, without class weights, of a Linear fed by a dropout site',
            "MonteCarlo() without it",
        )
    if look.forms:
        raise MethodNotApplicable("MonteCarlo", "the control needs batches of one shape", "MonteCarlo()")
    targets = (torch.as_tensor(batch.target) for batch in look.data)
    if any(bool((y == loss.ignore_index).any()) for y in targets if not y.is_floating_point()):
        raise MethodNotApplicable("MonteCarlo", "the control needs targets without ignore_index", "MonteCarlo()")


def controlled(
    look: Look, loss: ModelLoss, weight: Tensor, sites: tuple[DropoutSite, ...], method: MonteCarlo, seed: int
) -> Controlled:
    """The loss with the last layer's quadratic form as control variate, its coefficient from a pilot."""
    check_control(look, loss, sites)
    before, site = look.split(sites)
    assert site is not None
    assert look.last is not None
    assert isinstance(loss, CrossEntropy)
    evaluate = Controlled(look.forward(before, observe=site.name), loss, site, look.last.weight, look.last.bias)
    pilot = SampledMasks(sites, method.sampler, pilot_masks(method.sampler), seed, first=_FIRST)

    def blocks() -> Tensor:
        with look.lent():
            return pilot_blocks(evaluate, look.data, pilot, weight, look.chunk_masks)

    evaluate.coefficient = best_coefficient(look.group.sum(look.group.run(blocks)))
    return evaluate


def pilot_blocks(evaluate: Controlled, data: Any, source: SampledMasks, weight: Tensor, chunk_masks: int) -> Tensor:
    """(2, blocks) weighted sums over these examples of the loss and of the control, under the pilot's masks."""
    sums = torch.zeros(2, source.n_masks, dtype=torch.float64, device=weight.device)
    with torch.no_grad():
        for batch in data:
            share = weight[batch.start : batch.start + len(batch)]
            for chunk in source.chunks(batch.examples, chunk_masks, weight.device):
                at = chunk.start - source.first
                for where, loss, control in evaluate.parts(batch, chunk):
                    rows = slice(at + where.start, at + where.stop)
                    sums[0, rows] += loss @ share
                    sums[1, rows] += control @ share
    return block_means(sums.T, source.block).T


def best_coefficient(blocks: Tensor) -> float:
    """The c that makes the blocks' weighted mean vary least in the pilot: Cov(L, Q) / Var(Q) between (2, blocks)."""
    loss, control = blocks - blocks.mean(dim=1, keepdim=True)
    scale = float(control @ control)
    return float(loss @ control) / scale if scale > 0 else 0.0
