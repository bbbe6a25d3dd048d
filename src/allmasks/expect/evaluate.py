"""From masks to losses: the loss under each mask of a chunk, or the last layer's masks integrated exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from allmasks.expect.data import Batch
from allmasks.expect.forward import Forward
from allmasks.expect.last_layer import expected_score_terms
from allmasks.expect.model_losses import CallableLoss, ModelLoss
from allmasks.expect.sources import MaskChunk
from allmasks.methods import Method
from allmasks.results import Guarantee
from allmasks.sites import DropoutSite

__all__ = ["Evaluator", "Integrated", "Losses", "Plain"]


@dataclass(frozen=True)
class Losses:
    """Losses under some masks of a chunk: (masks, n) float64, and a round-off or integration error of each."""

    where: slice
    loss: Tensor
    error: Tensor


class Evaluator(Protocol):
    """Losses of a batch under the masks of a chunk."""

    guarantee: Guarantee

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]: ...


@dataclass
class Plain:
    """The loss of the model's output under each mask.

    The error is an allowance for the model's own arithmetic: `_ROUND_OFF` units in the last place of the model's
    dtype for each output, carried to the loss by its derivative, and as many of the loss itself.
    """

    forward: Forward
    loss: ModelLoss
    output_dim: int = 0
    guarantee: Guarantee = "exact"

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, outputs in self.forward(batch, chunk):
            if isinstance(self.loss, CallableLoss):
                yield self._one_by_one(batch, outputs, where)
                continue
            folded = outputs.movedim(1 + self.output_dim, 1)
            m, n = folded.shape[:2]
            target = self.loss.check(folded[0], batch.target)
            flat = folded.reshape(m * n, *folded.shape[2:])
            repeated = target.repeat(m, *(1,) * (target.ndim - 1))
            losses = self.loss.per_example(flat, repeated)
            error = self._round_off(flat, repeated, losses) if with_error else torch.zeros_like(losses)
            yield Losses(where, losses.reshape(m, n), error.reshape(m, n))

    def _one_by_one(self, batch: Batch, outputs: Any, where: slice) -> Losses:
        rows, eps = [], torch.finfo(torch.float32).eps
        for m in range(where.stop - where.start):
            output = torch.utils._pytree.tree_map(
                lambda leaf, m=m: leaf[m] if isinstance(leaf, Tensor) else leaf, outputs
            )
            losses = self.loss.per_example(output, batch.target)
            if len(losses) != len(batch):
                raise ValueError(
                    f"the loss must return one loss per example: {self.loss.name} returned {len(losses)} for "
                    f"{len(batch)} examples"
                )
            rows.append(losses)
            leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
            eps = max(torch.finfo(leaf.dtype).eps for leaf in leaves if leaf.is_floating_point())
        loss = torch.stack(rows)
        return Losses(where, loss, _ROUND_OFF * eps * (1 + loss.detach().abs()))

    def _round_off(self, output: Tensor, target: Tensor, losses: Tensor) -> Tensor:
        eps = torch.finfo(output.dtype).eps if output.is_floating_point() else 0.0
        with torch.enable_grad():
            z = output.detach().double().requires_grad_()
            (slope,) = torch.autograd.grad(self.loss.per_example(z, target).sum(), z)
        carried = (slope * z.detach()).abs().reshape(len(z), -1).sum(dim=1)
        return _ROUND_OFF * eps * (carried + losses.detach().abs())


_ROUND_OFF = 16.0


@dataclass
class Integrated:
    """The masks of the site before the last Linear integrated by formula, for each mask of the sites before it.

    Rao–Blackwell: the mean over that site's masks given the others, so the rest only has to be enumerated or
    sampled.
    """

    forward: Forward
    loss: ModelLoss
    site: DropoutSite
    weight: Tensor
    bias: Tensor | None
    method: Method | None = None
    guarantee: Guarantee = "exact"
    used: Method | None = None

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, hidden in self.forward(batch, chunk):
            m, n = hidden.shape[:2]
            like_output = hidden.new_zeros(n, len(self.weight))
            target = self.loss.check(like_output, batch.target)
            terms = self.loss.score_terms(self.weight, self.bias, target)
            assert terms is not None
            result = expected_score_terms(hidden.reshape(m * n, -1), terms, self.site.p, repeat=m, method=self.method)
            self.used, self.guarantee = result.method, result.guarantee
            eps = torch.finfo(hidden.dtype).eps
            # The model computes h in its own dtype; the formula's own error comes on top.
            arithmetic = _ROUND_OFF * eps * result.scale if eps > 1e-12 else 0.0
            yield Losses(where, result.value.reshape(m, n), (result.error + arithmetic).reshape(m, n))
