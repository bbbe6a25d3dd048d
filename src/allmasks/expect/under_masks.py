"""From masks to losses: the loss under each mask of a chunk, or the last layer's masks integrated exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from allmasks.expect.loss import ModelLoss, class_term, score_terms
from allmasks.methods import Method, SoftmaxBounds
from allmasks.over_masks.class_layer import ClassTerm, bounded_class_loss
from allmasks.over_masks.data import Batch
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.last_layer import ScoreTerm, expected_score_terms
from allmasks.over_masks.look import Look
from allmasks.over_masks.passes import Losses
from allmasks.over_masks.sources import MaskChunk
from allmasks.results import Guarantee
from allmasks.sites import DropoutSite, LastLayer

__all__ = ["Bounded", "Integrated", "Plain", "plain", "softmax_of", "terms_of"]


@dataclass
class Plain:
    """The loss of the model's output under each mask.

    The error is an allowance for the model's own arithmetic: `_ROUND_OFF` units in the last place of the model's
    dtype for each output, carried to the loss by its derivative, and as many of the loss itself. Where the output is a
    Linear's that a site feeds, the units are those of the sum of its products' magnitudes.

    Parameters
    ----------
    output_dims : example axis of each tensor that the loss is about.
    last : that Linear, where it is known and wanted; `forward` then gives its site's input along with the output.
    steep : take the largest slope within the allowance, at three points, and not the one at the output alone.
    """

    forward: Forward
    loss: ModelLoss
    output_dims: tuple[int, ...] = (0,)
    last: LastLayer | None = None
    steep: bool = False
    guarantee: Guarantee = "exact"

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, found in self.forward(batch, chunk):
            outputs, hidden = found if self.last is not None else (found, None)
            if self.loss.whole_output:
                yield self._one_by_one(batch, outputs, where)
                continue
            m, n = where.stop - where.start, len(batch)
            folded = [self._folded(z, dim, n) for z, dim in zip(_tensors(outputs), self.output_dims, strict=True)]
            flat, first = (z[0] if len(z) == 1 else tuple(z) for z in (folded, [z[:n] for z in folded]))
            target = self.loss.check(first, batch.target)
            repeated = _repeated(target, m)
            losses = self.loss.per_example(flat, repeated)
            error = torch.zeros_like(losses)
            if with_error:
                sizes = [z.detach().double().abs() for z in folded]
                if hidden is not None:
                    sizes = [self._products(hidden.detach().double(), chunk, where).reshape(sizes[0].shape)]
                error = self._round_off(folded, sizes, repeated, losses)
            weight = self.loss.example_weight(first, target)
            yield Losses(where, losses.reshape(m, n), error.reshape(m, n), weight)

    def _products(self, hidden: Tensor, chunk: MaskChunk, where: slice) -> Tensor:
        """(masks, n, outputs) sums of the magnitudes of what the last Linear adds up under each mask."""
        assert self.last is not None
        held = next((site for site in self.forward.sites if site.name == self.last.site), None)
        size = hidden.abs()
        if held is not None:
            size = size * held.by_row(chunk.kept[held.name][where]).to(size) / (1.0 - held.p)
        bias = 0.0 if self.last.bias is None else self.last.bias.detach().double().abs()
        return size @ self.last.weight.detach().double().abs().T + bias

    def _folded(self, output: Tensor, dim: int, n: int) -> Tensor:
        """Outputs (masks, ...) as (masks · n, ...), whichever axis the examples lie along."""
        rows = output.movedim(1 + dim, 1)
        if rows.shape[1] != n:
            raise ValueError(
                f"the model's output has {rows.shape[1]} entries along its example axis for a batch of {n} examples; "
                "the model must treat each example on its own"
            )
        return rows.flatten(0, 1)

    def _one_by_one(self, batch: Batch, outputs: Any, where: slice) -> Losses:
        rows, eps = [], torch.finfo(torch.float32).eps
        for m in range(where.stop - where.start):
            output = tree_map(lambda leaf, m=m: leaf[m] if isinstance(leaf, Tensor) else leaf, outputs)
            losses = self.loss.per_example(output, batch.target)
            if len(losses) != len(batch):
                raise ValueError(
                    f"the loss must return one loss per example: {self.loss.name} returned {len(losses)} for "
                    f"{len(batch)} examples"
                )
            rows.append(losses)
            eps = max((torch.finfo(t.dtype).eps for t in _floating(output)), default=eps)
        loss = torch.stack(rows)
        return Losses(where, loss, _ROUND_OFF * eps * (1 + loss.detach().abs()))

    def _round_off(self, outputs: list[Tensor], sizes: list[Tensor], target: Any, losses: Tensor) -> Tensor:
        eps = max((torch.finfo(z.dtype).eps for z in outputs if z.is_floating_point()), default=0.0)
        off = [_ROUND_OFF * eps * size for size in sizes]
        steepest = self._slopes(outputs, target)
        for sign in (-1.0, 1.0) if self.steep and eps else ():
            moved = [z.detach().double() + sign * d for z, d in zip(outputs, off, strict=True)]
            steepest = [torch.maximum(a, b) for a, b in zip(steepest, self._slopes(moved, target), strict=True)]
        carried = _ROUND_OFF * eps * losses.detach().abs()
        for slope, d in zip(steepest, off, strict=True):
            carried += (slope * d).reshape(len(d), -1).sum(dim=1)
        given = outputs[0] if len(outputs) == 1 else tuple(outputs)
        # The loss itself is computed in float64, from terms that may cancel.
        return carried + _ROUND_OFF * torch.finfo(torch.float64).eps * self.loss.magnitude(given, target, losses)

    def _slopes(self, outputs: list[Tensor], target: Any) -> list[Tensor]:
        """|∂ loss / ∂ output| of each tensor."""
        with torch.enable_grad():
            free = [z.detach().double().requires_grad_() for z in outputs]
            total = self.loss.per_example(free[0] if len(free) == 1 else tuple(free), target).sum()
            return [slope.abs() for slope in torch.autograd.grad(total, free, materialize_grads=True)]


_ROUND_OFF = 16.0


def _repeated(target: Any, times: int) -> Any:
    return tree_map_only(Tensor, lambda y: y.repeat(times, *(1,) * (y.ndim - 1)), target)


def _tensors(outputs: Any) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _floating(output: Any) -> list[Tensor]:
    """The tensors with fractions in an output, dataclasses that torch does not know of included."""
    if is_dataclass(output) and not isinstance(output, type):
        return [t for part in vars(output).values() for t in _floating(part)]
    leaves = tree_leaves(output)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    inside = [leaf for leaf in leaves if is_dataclass(leaf) or (isinstance(leaf, Mapping) and leaf is not output)]
    return found + [t for leaf in inside for t in _floating(dict(leaf) if isinstance(leaf, Mapping) else leaf)]


def plain(look: Look, loss: ModelLoss, sites: tuple[DropoutSite, ...], *, proven: bool = True) -> Plain:
    """The loss under masks of these sites, all others at their mean mask.

    Parameters
    ----------
    proven : whether the round-off stands for a guarantee; beside a standard error an estimate of it will do.
    """
    last = look.last if proven and loss.n_outputs == 1 and not loss.whole_output else None
    forward = look.forward(sites, along=None if last is None else last.site)
    dims = tuple(dim or 0 for dim in look.seen.output_batch_dims)
    return Plain(forward, loss, dims, last, steep=proven)


def terms_of(loss: ModelLoss, last: LastLayer | None, batch: Batch) -> list[ScoreTerm] | None:
    """The loss of the last Linear's outputs as a sum of score losses, or None where it is not one."""
    if last is None or loss.whole_output:
        return None
    return score_terms(loss, last.weight, last.bias, batch.target, len(batch))


def softmax_of(loss: ModelLoss, last: LastLayer | None, batch: Batch) -> ClassTerm | None:
    """The loss of the last Linear's outputs as the cross-entropy of a softmax, or None where it is none."""
    if last is None or loss.whole_output:
        return None
    return class_term(loss, last.weight, last.bias, batch.target, len(batch))


@dataclass
class Integrated:
    """The masks of the site before the last Linear integrated by formula, for each mask of the sites before it.

    Rao–Blackwell: the mean over that site's masks given the others, so the rest only has to be enumerated or
    sampled.
    """

    forward: Forward
    loss: ModelLoss
    site: DropoutSite
    last: LastLayer
    method: Method | None = None
    guarantee: Guarantee = "exact"

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, hidden in self.forward(batch, chunk):
            m, n = hidden.shape[:2]
            terms = terms_of(self.loss, self.last, batch)
            assert terms is not None
            result = expected_score_terms(
                hidden.reshape(m * n, -1),
                terms,
                self.site.p,
                repeat=m,
                method=self.method,
                # The model computes in its own dtype; the formula's own error comes on top.
                round_off=_ROUND_OFF * torch.finfo(hidden.dtype).eps,
            )
            self.guarantee = result.guarantee
            yield Losses(where, result.value.reshape(m, n), result.error.reshape(m, n))


@dataclass
class Bounded:
    """The masks of the site before a last Linear under a softmax, between bounds for each mask of the sites before it.

    Parameters
    ----------
    strict : refuse rows that no bound brings within the rule's tol, by name.
    """

    forward: Forward
    loss: ModelLoss
    site: DropoutSite
    last: LastLayer
    rule: SoftmaxBounds
    strict: bool
    guarantee: Guarantee = "bounded"

    def __call__(self, batch: Batch, chunk: MaskChunk, *, with_error: bool = True) -> Iterator[Losses]:
        for where, hidden in self.forward(batch, chunk):
            m, n = hidden.shape[:2]
            term = softmax_of(self.loss, self.last, batch)
            assert term is not None
            share = _ROUND_OFF * torch.finfo(hidden.dtype).eps
            rows = hidden.reshape(m * n, -1)
            value, error, half = bounded_class_loss(rows, term, self.site.p, repeat=m, rule=self.rule, round_off=share)
            if self.strict:
                self.rule.refuse_wide(half.cpu().numpy(), term.target.sum(dim=1).cpu().numpy(), batch.start)
            yield Losses(where, value.reshape(m, n), error.reshape(m, n))
