"""Gradients of a mean over masks, of any order, streamed: each is itself a sum over chunks that is gone through again.

The mean is Σ over chunks of f(inputs), and a scalar of it Σ g(f(inputs), upstream). Its gradient is a sum over the
same chunks, and so is the product of that gradient with a vector v; so the derivative of a derivative is one more
function of this kind, with v among its tensors. No graph is kept between passes: memory is that of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Streamed", "mean_with_gradients"]

Scalar = Callable[[Tensor, slice, tuple[Tensor, ...]], Tensor]
"""(weighted losses (masks, rows) of a chunk, which rows, tensors) -> what the chunk adds to the scalar."""


class Streamed(Protocol):
    """A mean over masks that can be gone through again."""

    mean: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that gradients flow to."""
        ...

    def run(self) -> None:
        """Compute `mean`, (n,)."""
        ...

    def lent(self) -> AbstractContextManager[None]:
        """The model, ready to be run."""
        ...

    def weighted_losses(self) -> Iterator[tuple[slice, Tensor]]:
        """(rows, weighted losses (masks, rows)) of every chunk, with a graph; refuses in the end if the sum is new."""
        ...


def mean_with_gradients(streamed: Streamed, inputs: tuple[Tensor, ...]) -> Tensor:
    """(n,) the mean, whose gradients with respect to `inputs` are computed chunk by chunk, whatever their order."""
    mean: Tensor = _Mean.apply(streamed, *inputs)
    return mean


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, streamed: Streamed, *inputs: Tensor) -> Tensor:
        streamed.run()
        ctx.streamed = streamed
        # Saved so that torch itself notices a parameter changed before backward.
        ctx.save_for_backward(*inputs)
        return streamed.mean.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        wanted = tuple(k + 1 for k, needed in enumerate(ctx.needs_input_grad[1:]) if needed)
        found = _Gradient.apply(ctx.streamed, _of_upstream, wanted, upstream, *inputs)
        by_place = dict(zip(wanted, found, strict=True))
        return None, *(by_place.get(k + 1) for k in range(len(inputs)))


def _of_upstream(losses: Tensor, rows: slice, tensors: tuple[Tensor, ...]) -> Tensor:
    return (losses * tensors[0][rows]).sum()


class _Gradient(torch.autograd.Function):
    """The gradient of Σ over chunks of `scalar` with respect to the wanted ones of some tensors.

    The first tensor is the upstream gradient, then come the inputs, then a vector for each gradient of before. Only the
    inputs are what the model computes with; the others are stand-ins, since their own graphs are none of ours.
    """

    @staticmethod
    def forward(
        ctx: Any, streamed: Streamed, scalar: Scalar, wanted: tuple[int, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.streamed, ctx.scalar, ctx.wanted = streamed, scalar, wanted
        ctx.save_for_backward(*tensors)
        return _summed(streamed, scalar, wanted, tensors)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        tensors, scalar, before = ctx.saved_tensors, ctx.scalar, ctx.wanted
        n = len(tensors)

        def product(losses: Tensor, rows: slice, given: tuple[Tensor, ...]) -> Tensor:
            own, vectors = given[:n], given[n:]
            grads = _gradients(scalar(losses, rows, own), [own[k] for k in before], keep=True)
            parts = [(v * g).sum() for v, g in zip(vectors, grads, strict=True) if g is not None]
            return torch.stack([part.double() for part in parts]).sum() if parts else losses.sum() * 0.0

        wanted = tuple(k for k, needed in enumerate(ctx.needs_input_grad[3:]) if needed)
        found = _Gradient.apply(ctx.streamed, product, wanted, *tensors, *upstream)
        by_place = dict(zip(wanted, found, strict=True))
        return None, None, None, *(by_place.get(k) for k in range(n))


def _summed(
    streamed: Streamed, scalar: Scalar, wanted: tuple[int, ...], tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    sums = tuple(torch.zeros_like(tensors[k]) for k in wanted)
    last_input = len(streamed.inputs)
    given = tuple(t if 1 <= k <= last_input else t.detach().requires_grad_() for k, t in enumerate(tensors))
    with torch.enable_grad(), streamed.lent():
        for rows, losses in streamed.weighted_losses():
            part = scalar(losses, rows, given)
            for total, grad in zip(sums, _gradients(part, [given[k] for k in wanted]), strict=True):
                if grad is not None:
                    total += grad
    return sums


def _gradients(scalar: Tensor, tensors: list[Tensor], *, keep: bool = False) -> tuple[Tensor | None, ...]:
    if not scalar.requires_grad or not tensors:
        return (None,) * len(tensors)
    return torch.autograd.grad(scalar, tensors, allow_unused=True, create_graph=keep)
