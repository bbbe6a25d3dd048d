"""Dropout as a function: torch's arguments, keyed bits, memory speed, nothing stored for backward."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from allmasks.masks import alpha_constants
from allmasks.nn.ops import Masked, draw_key, mask_multiply, mask_multiply_

__all__ = ["alpha_dropout", "channel_dropout", "dropout", "keyed_noise"]


def check_rate(p: float) -> None:
    """ValueError unless 0 ≤ p ≤ 1; the text is torch's."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _check_input(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout takes a tensor, got {type(x).__name__}")
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"dropout needs a floating-point tensor, got {x.dtype}; convert it with .float() first")
    if x.is_complex():
        raise TypeError("dropout of complex tensors is not supported; drop real and imaginary parts by hand")


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, key: int | Tensor | None = None
) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1 − p), with bits that a key decides.

    Parameters
    ----------
    input : a floating-point tensor of any shape and layout.
    p : probability of an element to be zeroed, 0 … 1. The rate drawn is within 2⁻¹⁷ of it (see
        `allmasks.nn.law.drawn_law`), and the scale is that rate's, so that E[out] = input.
    training : without it the input comes back as it is.
    inplace : overwrite the input.
    key : 64 bits, an int or an int64 tensor; the same key gives the same mask on every device, with any number of
        threads, eager or compiled. None draws one from torch's CPU generator, so `torch.manual_seed` works as ever.

    No mask is stored for backward: it is made again from the key. Where a NaN is dropped it stays NaN, as in torch.

    Raises
    ------
    ValueError : p outside [0, 1]. TypeError : integer or complex input.

    Example
    -------
    >>> import torch
    >>> x = torch.ones(6)
    >>> dropout(x, 0.5, key=1)
    tensor([2., 2., 0., 0., 2., 2.])
    >>> torch.equal(dropout(x, 0.5, key=1), dropout(x, 0.5, key=1))
    True
    """
    if has_torch_function_unary(input):
        return handle_torch_function(dropout, (input,), input, p=p, training=training, inplace=inplace, key=key)
    check_rate(p)
    _check_input(input)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input.mul_(0.0) if inplace else input * 0.0
    if torch.compiler.is_compiling() or type(input) not in _PLAIN or _transformed():
        return _general(input, p, inplace, key)
    word = _int_key(key)
    if input.requires_grad and torch.is_grad_enabled():
        return Masked.apply(input, word, p, inplace)
    return mask_multiply_(input, word, p) if inplace else mask_multiply(input, word, p)


_PLAIN = (Tensor, torch.nn.Parameter)
"""Tensors whose memory is what it seems; subclasses (fake, distributed, nested) take the operators."""


def _transformed() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp) is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _int_key(key: int | Tensor | None) -> int:
    if key is None:
        return int(draw_key())
    return int(key)


def _general(x: Tensor, p: float, inplace: bool, key: int | Tensor | None) -> Tensor:
    """Through the registered operators: compiled, traced, transformed, or a tensor subclass."""
    if key is None:
        word = _transform_key(x) if _transformed() else torch.ops.allmasks.draw_key()
    else:
        word = key if isinstance(key, Tensor) else torch.tensor(_signed(key), dtype=torch.int64)
    if _transformed():
        # A product with a constant has every derivative and every batching rule there is.
        result = x * torch.ops.allmasks.noise(x.detach(), word, p)
    else:
        result = torch.ops.allmasks.masked(x, word, p)
    return x.copy_(result) if inplace else result


def _signed(key: int) -> int:
    key &= 2**64 - 1
    return key - 2**64 if key >= 2**63 else key


def _transform_key(x: Tensor) -> Tensor:
    """A key under torch.func: vmap's own rule for randomness decides (error, same, different)."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64)


def keyed_noise(like: Tensor, shape: tuple[int, ...], p: float, key: int | Tensor | None) -> Tensor:
    """The factors 0 or 1/(1 − p) for a mask of this shape, in the dtype and on the device of `like`."""
    return dropout(like.new_ones(shape), p, True, False, key=key)


def channel_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    axes: int = 2,
    key: int | Tensor | None = None,
) -> Tensor:
    """Dropout of whole feature maps: one bit for each index of the first `axes` axes (example and channel).

    The mask is small and is multiplied in by broadcasting; backward keeps the mask of (N, C) only.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(
            channel_dropout, (input,), input, p=p, training=training, inplace=inplace, axes=axes, key=key
        )
    check_rate(p)
    _check_input(input)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input.mul_(0.0) if inplace else input * 0.0
    shape = tuple(input.shape[:axes]) + (1,) * (input.ndim - axes)
    noise = keyed_noise(input.detach(), shape, p, key)
    return input.mul_(noise) if inplace else input * noise


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    axes: int | None = None,
    key: int | Tensor | None = None,
) -> Tensor:
    """Alpha dropout (Klambauer et al. 2017): dropped units take SELU's negative limit, mean 0 and variance 1 return.

    Does not keep the mean of an arbitrary input: E[out] = a (q x + p α′) + b, see `alpha_constants`.
    axes : share one bit among all but the first axes ("feature" alpha dropout: 2).
    """
    if has_torch_function_unary(input):
        return handle_torch_function(
            alpha_dropout, (input,), input, p=p, training=training, inplace=inplace, axes=axes, key=key
        )
    check_rate(p)
    _check_input(input)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input.mul_(0.0) if inplace else input * 0.0
    constants = alpha_constants(p)
    shape = tuple(input.shape) if axes is None else tuple(input.shape[:axes]) + (1,) * (input.ndim - axes)
    kept = keyed_noise(input.detach(), shape, p, key) != 0
    shift = torch.where(kept, constants.shift, constants.scale * constants.dropped + constants.shift)
    factor = kept * constants.scale
    result = input * factor.to(input.dtype) + shift.to(input.dtype)
    return input.copy_(result) if inplace else result


def gaussian_variance(p: float) -> float:
    """p/(1 − p): the variance of the multiplicative Gaussian noise that stands for dropout at rate p."""
    return math.inf if p == 1.0 else p / (1.0 - p)
