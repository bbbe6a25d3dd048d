"""Plain eager tensors: what the operators do, without their dispatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from allmasks.nn.multiply import gaussian_multiply, has_own_memory, mask_multiply, mask_multiply_
from allmasks.nn.ops import check_writable, in_transform, key_tensor, product

__all__ = ["gaussian_autograd", "masked_autograd", "masked_in_place"]


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, law: tuple[int, float, Tensor | None], inplace: bool = False) -> Tensor:
        ctx.law = law
        if inplace:
            ctx.mark_dirty(x)
            return mask_multiply_(x, *law)
        return mask_multiply(x, *law)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if type(grad) is Tensor and _has_storage(grad):
            return masked_autograd(grad, *ctx.law), None, None
        return _of_a_gradient(torch.ops.allmasks.masked, grad, *ctx.law), None, None


class _Gaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, key: int, p: float) -> Tensor:
        ctx.law = key, p
        return gaussian_multiply(x, key, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if type(grad) is Tensor and _has_storage(grad):
            return gaussian_autograd(grad, *ctx.law), None, None
        return _of_a_gradient(torch.ops.allmasks.gaussian, grad, *ctx.law), None, None


def _of_a_gradient(op: Any, grad: Tensor, key: int, *law: Any) -> Tensor:
    """A gradient need not be as plain as the input was: batched by vmap, new or old, fake, of a subclass."""
    if in_transform() or not _has_storage(grad):
        return product(op, grad, key_tensor(key), *law)
    return op(grad, key_tensor(key), *law)


_has_storage = torch._C._has_storage
_masked_apply = super(torch.autograd.Function, _Masked).apply
"""`Function.apply` in C: the Python part before it serves torch.func, whose transforms take the operators here."""
_Masked._backward_cls.apply = _Masked.backward  # type: ignore[attr-defined, unused-ignore]
"""The same in backward, where the Python part asks which of two names for it was defined."""


def masked_autograd(x: Tensor, key: int, p: float, units: Tensor | None = None) -> Tensor:
    """`mask_multiply` with derivatives of every order."""
    if forward_ad._current_level >= 0:
        return product(torch.ops.allmasks.masked, x, key_tensor(key), p, units)
    if x.requires_grad and torch.is_grad_enabled():
        return _masked_apply(x, (key, p, units))
    return mask_multiply(x, key, p, units)


def masked_in_place(x: Tensor, key: int, p: float, units: Tensor | None = None) -> Tensor:
    """The same, written over x; what torch refuses to write to is refused before anything is written.

    The kernel writes through a pointer, which asks nothing. So only what nobody asks about is left to it: memory of x
    alone that no leaf, view or tangent stands for. For the rest torch's own copy asks, and then writes.
    """
    if not x.numel():
        return x
    check_writable(x)
    graph = x.requires_grad and torch.is_grad_enabled()
    if forward_ad._current_level >= 0 or (graph and (x.is_leaf or x._is_view())) or not has_own_memory(x):
        return x.copy_(masked_autograd(x, key, p, units))
    if graph:
        return _masked_apply(x, (key, p, units), True)  # which counts x's version up
    mask_multiply_(x, key, p, units)
    torch.autograd.graph.increment_version(x)
    return x


def gaussian_autograd(x: Tensor, key: int, p: float) -> Tensor:
    """`gaussian_multiply` with derivatives of every order."""
    if forward_ad._current_level >= 0:
        return product(torch.ops.allmasks.gaussian, x, key_tensor(key), p)
    if x.requires_grad and torch.is_grad_enabled():
        return _Gaussian.apply(x, key, p)
    return gaussian_multiply(x, key, p)
