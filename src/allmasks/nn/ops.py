"""The operators behind the layers: one multiplication by a keyed mask, which is its own derivative.

`masked(x, key, p)` is linear in x, so its gradient is `masked(grad, key, p)` and so is the gradient of that: backward
draws the bits again from the key and stores nothing. `draw_key` takes 64 bits from torch's CPU generator, as an
operator of its own, so that compiled code draws the very keys that eager code does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.kernels import anywhere
from allmasks.nn.law import drawn_law

__all__ = ["draw_key", "mask_multiply", "mask_multiply_", "split_key"]

_FLOAT32, _FLOAT64 = np.float32, np.float64


def split_key(key: int) -> tuple[int, int]:
    """A 64-bit key, signed or not, as the generator's two words."""
    return key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF


def mask_multiply(x: Tensor, key: int, p: float) -> Tensor:
    """x times the keyed mask / keep probability, for 0 < p < 1; no autograd. Logical order decides on the bits."""
    if x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64, torch.bfloat16):
        source = x if x.is_contiguous() else x.contiguous()
        out = torch.empty_like(source)
        _cpu(source, out, key, p)
        if source is not x and not x.is_contiguous():
            # The result keeps the input's memory format, as torch's does.
            return torch.empty_like(x).copy_(out)
        return out
    return x * _noise(x, key, p)


def mask_multiply_(x: Tensor, key: int, p: float) -> Tensor:
    """The same in place."""
    if x.device.type == "cpu" and x.is_contiguous() and x.dtype in (torch.float32, torch.float64, torch.bfloat16):
        _cpu(x, x, key, p)
        return x
    return x.mul_(_noise(x, key, p))


def _cpu(x: Tensor, out: Tensor, key: int, p: float) -> None:
    from allmasks.kernels import cpu

    n = x.numel()
    if n == 0:
        return
    law = drawn_law(p)
    wide: Any = _FLOAT64 if x.dtype == torch.float64 else _FLOAT32
    kernel = cpu.multiply_bfloat16 if x.dtype == torch.bfloat16 else cpu.multiply
    kernel(
        x.data_ptr(),
        out.data_ptr(),
        n,
        split_key(key),
        law.bits,
        law.threshold,
        wide(law.scale),
        torch.get_num_threads(),
    )


def _noise(x: Tensor, key: int, p: float) -> Tensor:
    """The factor of each element, in x's dtype and logical order."""
    law = drawn_law(p)
    words = anywhere.stream(split_key(key), x.numel(), bits=law.bits, device=x.device)
    return ((words < law.threshold) * law.scale).to(x.dtype).reshape(x.shape)


@torch.library.custom_op("allmasks::draw_key", mutates_args=(), tags=[torch.Tag.nondeterministic_seeded])
def _draw_key() -> Tensor:
    return torch.empty((), dtype=torch.int64).random_(-(2**63), None)


@_draw_key.register_fake
def _() -> Tensor:
    return torch.empty((), dtype=torch.int64)


@torch.library.custom_op("allmasks::masked", mutates_args=())
def _masked(x: Tensor, key: Tensor, p: float) -> Tensor:
    return mask_multiply(x, int(key), p)


@_masked.register_fake
def _(x: Tensor, key: Tensor, p: float) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, key, ctx.p = inputs
    ctx.save_for_backward(key)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (key,) = ctx.saved_tensors
    return torch.ops.allmasks.masked(grad, key, ctx.p), None, None


_masked.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("allmasks::noise", mutates_args=())
def _noise_op(like: Tensor, key: Tensor, p: float) -> Tensor:
    return mask_multiply(torch.ones_like(like), int(key), p)


@_noise_op.register_fake
def _(like: Tensor, key: Tensor, p: float) -> Tensor:
    return torch.empty_like(like)


@_noise_op.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], like: Tensor, key: Tensor, p: float) -> tuple[Tensor, int | None]:
    """A mask is a function of its key: one key for the whole batch is one mask for each of its examples."""
    like_dim, key_dim = in_dims[0], in_dims[1]
    one = like if like_dim is None else like.select(like_dim, 0)
    if key_dim is None:
        return torch.ops.allmasks.noise(one, key, p), None
    return torch.stack([torch.ops.allmasks.noise(one, k, p) for k in key.unbind(key_dim)]), 0


@_draw_key.register_vmap
def _(info: Any, in_dims: tuple[None, ...]) -> tuple[Tensor, int | None]:
    return draw_key(), None


def draw_key() -> Tensor:
    """64 bits from torch's CPU generator, as a 0-dimensional int64 tensor."""
    return torch.empty((), dtype=torch.int64).random_(-(2**63), None)


class Masked(torch.autograd.Function):
    """`masked` for plain eager tensors, without the operator's dispatch; in place if asked for."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: int, p: float, inplace: bool) -> Tensor:
        ctx.key, ctx.p = key, p
        if inplace:
            ctx.mark_dirty(x)
            return mask_multiply_(x, key, p)
        return mask_multiply(x, key, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        if grad.requires_grad and torch.is_grad_enabled():
            return Masked.apply(grad, ctx.key, ctx.p, False), None, None, None
        return mask_multiply(grad, ctx.key, ctx.p), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return mask_multiply(tangent, ctx.key, ctx.p)
