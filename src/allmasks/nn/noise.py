"""Keyed noise for any tensor: which road a call takes (plain, compiled, transformed), and where its key comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from allmasks.nn import keys
from allmasks.nn.eager import gaussian_autograd, masked_autograd, masked_in_place
from allmasks.nn.keys import check_key, check_key_tensor, draw_key, need_seed, signed
from allmasks.nn.multiply import mask_multiply_
from allmasks.nn.ops import CPU, at_once, call_number, check_writable, in_transform, key_tensor, product, wide

__all__ = [
    "Key",
    "UnsupportedInput",
    "check_kind",
    "check_rate",
    "gaussian",
    "key_op",
    "masked",
    "masked_ones",
    "need_tensor",
    "nothing",
    "overridable",
    "rates_of_units",
]

Key = int | Tensor | None

_STRIDED = torch.strided

P = ParamSpec("P")


class UnsupportedInput(TypeError, NotImplementedError):
    """A tensor whose elements cannot be dropped; torch's layers raise NotImplementedError or RuntimeError."""


def overridable(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let an active mode, or a subclass of Tensor, see the call: that is how sites are found and handed masks."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first: Any = args[0] if args else kwargs.get("input", kwargs.get("weight"))
        if has_torch_function_unary(first):
            return handle_torch_function(called, (first,), *args, **kwargs)  # type: ignore[no-any-return, unused-ignore]
        return function(*args, **kwargs)

    return called


def check_rate(p: Any) -> None:
    """ValueError unless 0 ≤ p ≤ 1, with torch's text; a tensor of rates is checked where it is used."""
    if isinstance(p, str | bytes | list | tuple | dict) or p is None:
        raise TypeError(f"p must be a number in [0, 1] or a tensor of rates, got {p!r}")
    if not isinstance(p, Tensor) and not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def need_tensor(x: Any) -> Tensor:
    """x, or the TypeError that it is none."""
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout takes a tensor, got {type(x).__name__}")
    return x


def check_kind(x: Any) -> None:
    """UnsupportedInput unless x is a dense tensor of real floating-point numbers."""
    if need_tensor(x).is_floating_point() and x.layout is torch.strided:
        return
    if x.is_complex():
        raise UnsupportedInput("dropout of complex tensors is not supported; apply it to torch.view_as_real(x)")
    if not x.is_floating_point():
        raise UnsupportedInput(f"dropout needs a floating-point tensor, got {x.dtype}; convert it with .float() first")
    raise UnsupportedInput(f"dropout needs a dense tensor, got layout {x.layout}; apply it to the values")


def nothing(x: Tensor, inplace: bool) -> Tensor:
    """p = 1: zeros, whose gradient is zero and not NaN."""
    if need_tensor(x).numel() == 0:
        return x
    if inplace:
        check_writable(x)
    if x.layout is not torch.strided and x.layout is not torch.sparse_coo:
        return torch.dropout_(x, 1.0, True) if inplace else torch.dropout(x, 1.0, True)
    # Zero of x's own type: integers stay such.
    zero = 0.0 if x.is_floating_point() else torch.zeros((), dtype=x.dtype, device=x.device)
    return x.mul_(zero) if inplace else x * zero


def rates_of_units(p: Tensor, shape: Sequence[int]) -> Tensor:
    """Rates that broadcast over the last axes of this shape, as one float64 rate for each unit of those axes.

    A copy: backward makes the mask again from these rates, whatever became of p.
    """
    if p.requires_grad:
        raise TypeError("p is not learned here: its gradient would be that of a sample; pass p.detach()")
    if p.ndim > len(shape):
        raise ValueError(f"p of shape {tuple(p.shape)} has more axes than what it is for, of shape {tuple(shape)}")
    last = tuple(shape)[len(shape) - p.ndim :]
    if at_once(p) and not p.is_meta and not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    try:
        return p.to(torch.float64, copy=True).expand(last).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"p of shape {tuple(p.shape)} does not broadcast over the last axes {last} of what it is for: give one "
            "rate, or one for each unit"
        ) from None


def _key_now(key: Key, seed: int | None) -> int:
    if key is None:
        return draw_key() if seed is None else keys.seeded_key(need_seed(seed))
    if seed is not None:
        raise ValueError(_BOTH)
    return check_key(key)


_BOTH = "key and seed both say which mask is drawn: pass one of them"


def key_op(key: Key, seed: int | None) -> Tensor:
    """The key by operators, so that compiled code holds the drawing and not what was drawn.

    Under torch.func, vmap's own rule for randomness decides: an error, one mask for all, or one for each.
    """
    if key is not None and seed is not None:
        raise ValueError(_BOTH)
    if isinstance(key, Tensor):
        return check_key_tensor(key)
    if key is not None:
        return key_tensor(check_key(key))
    if not torch.compiler.is_dynamo_compiling() and torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record how dropout draws a key: trace in eval mode, pass key=, or use torch.export"
        )
    if seed is not None:
        return torch.ops.allmasks.seeded_key(signed(need_seed(seed)), call_number(), device=CPU)
    return torch.ops.allmasks.draw_key(call_number(), device=CPU)


def masked(x: Tensor, p: float, units: Tensor | None, inplace: bool, key: Key, seed: int | None) -> Tensor:
    """x times the keyed mask / keep probability, differentiable in every mode."""
    if at_once(x):
        if not x.is_floating_point() or x.layout is not _STRIDED:
            check_kind(x)
        now = draw_key() if key is None and seed is None else _key_now(key, seed)
        return masked_in_place(x, now, p, units) if inplace else masked_autograd(x, now, p, units)
    if isinstance(x, Tensor) and x.layout is torch.jagged:
        return _jagged(x, p, inplace, key, seed)
    check_kind(x)
    if in_transform():
        result = product(torch.ops.allmasks.masked, x, key_op(key, seed), p, units)
    elif key is None and torch.compiler.is_dynamo_compiling():
        stream = None if seed is None else signed(need_seed(seed))
        result, _ = torch.ops.allmasks.masked_next(x, stream, call_number(), p, units, device=CPU)
    else:
        result = torch.ops.allmasks.masked(x, key_op(key, seed), p, units)
    return x.copy_(result) if inplace else result


def _jagged(x: Any, p: float, inplace: bool, key: Key, seed: int | None) -> Tensor:
    """A nested tensor's elements are those of its values."""
    values = masked(x.values(), p, None, inplace, key, seed)
    if inplace:
        return need_tensor(x)
    return torch.nested.nested_tensor_from_jagged(values, x.offsets(), x.lengths(), x._ragged_idx)


def masked_ones(
    x: Tensor, shape: tuple[int, ...], p: float, units: Tensor | None, key: Key, seed: int | None
) -> Tensor:
    """The factors 0 or 1/(1 − p) of a mask of this shape for x, on its device, without gradient, for `ops.times`."""
    ones = torch.ones(shape, dtype=wide(x.dtype), device=x.device)
    if at_once(x):
        return mask_multiply_(ones, _key_now(key, seed), p, units)
    return torch.ops.allmasks.masked(ones, key_op(key, seed), p, units)


def gaussian(x: Tensor, p: float, key: Key, seed: int | None) -> Tensor:
    """x times keyed Gaussian noise of mean 1 and variance p/(1 − p)."""
    check_kind(x)
    if at_once(x):
        return gaussian_autograd(x, _key_now(key, seed), p)
    if in_transform():
        return product(torch.ops.allmasks.gaussian, x, key_op(key, seed), p)
    return torch.ops.allmasks.gaussian(x, key_op(key, seed), p)
