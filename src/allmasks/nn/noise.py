"""Keyed noise for any tensor: which road a call takes (plain, compiled, transformed), and where its key comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from allmasks.nn import keys
from allmasks.nn.keys import draw_key
from allmasks.nn.ops import CPU, at_once, call_number, gaussian_autograd, in_transform, key_tensor, masked_autograd

__all__ = [
    "Key",
    "check",
    "gaussian",
    "masked",
    "masked_ones",
    "nothing",
    "overridable",
    "rates_of_units",
]

Key = int | Tensor | None

P = ParamSpec("P")


def overridable(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let an active mode, or a subclass of Tensor, see the call: that is how sites are found and handed masks."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        first: Any = args[0] if args else kwargs.get("input", kwargs.get("weight"))
        if has_torch_function_unary(first):
            return handle_torch_function(called, (first,), *args, **kwargs)  # type: ignore[no-any-return, unused-ignore]
        return function(*args, **kwargs)

    return called


def check(x: Any, p: Any) -> None:
    """Refuse a rate or an input that dropout cannot take; a tensor of rates is checked where it is used.

    ValueError unless 0 ≤ p ≤ 1, with torch's text; TypeError unless x is a dense tensor of real floating-point numbers.
    """
    if not isinstance(p, Tensor) and not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if isinstance(x, Tensor) and x.is_floating_point() and x.layout is torch.strided:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout takes a tensor, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError("dropout of complex tensors is not supported; apply it to torch.view_as_real(x)")
    if not x.is_floating_point():
        raise TypeError(f"dropout needs a floating-point tensor, got {x.dtype}; convert it with .float() first")
    raise TypeError(f"dropout needs a dense tensor, got layout {x.layout}; apply it to the values")


def nothing(x: Tensor, inplace: bool) -> Tensor:
    """p = 1: zeros, whose gradient is zero and not NaN."""
    return x.mul_(0.0) if inplace else x * 0.0


def rates_of_units(p: Tensor, shape: Sequence[int]) -> Tensor:
    """Rates that broadcast over the last axes of this shape, as one float64 rate for each unit of those axes."""
    if p.requires_grad:
        raise TypeError("p is not learned here: its gradient would be that of a sample; pass p.detach()")
    if p.ndim > len(shape):
        raise ValueError(f"p of shape {tuple(p.shape)} has more axes than what it is for, of shape {tuple(shape)}")
    last = tuple(shape)[len(shape) - p.ndim :]
    try:
        return p.to(torch.float64).expand(last).reshape(-1)
    except RuntimeError:
        raise ValueError(
            f"p of shape {tuple(p.shape)} does not broadcast over the last axes {last} of what it is for: give one "
            "rate, or one for each unit"
        ) from None


def _key_now(key: Key, seed: int | None) -> int:
    if key is None:
        return keys.next_key(seed)
    return _signed(int(key) & (2**64 - 1))


def _signed(word: int) -> int:
    """64 bits as operators take them."""
    return word - 2**64 if word >= 2**63 else word


def _key_op(key: Key, seed: int | None) -> Tensor:
    """The same through the operators, so that compiled code holds the drawing and not what was drawn."""
    if isinstance(key, Tensor):
        return key
    if key is not None:
        return key_tensor(key)
    if not torch.compiler.is_dynamo_compiling() and torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace cannot record how dropout draws a key: trace in eval mode, pass key=, or use torch.export"
        )
    if seed is not None:
        return torch.ops.allmasks.seeded_key(_signed(seed), call_number(), device=CPU)
    return torch.ops.allmasks.draw_key(call_number(), device=CPU)


def _key_in_transform(key: Key, seed: int | None) -> Tensor:
    """Under torch.func, vmap's own rule for randomness decides: an error, one mask for all, or one for each."""
    if key is None and seed is None and in_transform(only_vmap=True):
        return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")
    return _key_op(key, seed)


def masked(x: Tensor, p: float, units: Tensor | None, inplace: bool, key: Key, seed: int | None) -> Tensor:
    """x times the keyed mask / keep probability, differentiable in every mode."""
    if at_once(x):
        now = draw_key() if key is None and seed is None else _key_now(key, seed)
        return masked_autograd(x, now, p, units, inplace)
    if in_transform():
        # A product with a constant has every derivative and every batching rule there is.
        ones = torch.ones(x.shape, dtype=x.dtype, device=x.device)
        result = x * torch.ops.allmasks.masked(ones, _key_in_transform(key, seed), p, units)
    elif key is None and torch.compiler.is_dynamo_compiling():
        stream = None if seed is None else _signed(seed)
        result, _ = torch.ops.allmasks.masked_next(x, stream, call_number(), p, units, device=CPU)
    else:
        result = torch.ops.allmasks.masked(x, _key_op(key, seed), p, units)
    return x.copy_(result) if inplace else result


def masked_ones(
    x: Tensor, shape: tuple[int, ...], p: float, units: Tensor | None, key: Key, seed: int | None
) -> Tensor:
    """The factors 0 or 1/(1 − p) of a mask of this shape, in x's dtype and on its device, without gradient."""
    ones = torch.ones(shape, dtype=x.dtype, device=x.device)
    if at_once(x):
        return masked_autograd(ones, _key_now(key, seed), p, units, True)
    return torch.ops.allmasks.masked(ones, _key_in_transform(key, seed), p, units)


def gaussian(x: Tensor, p: float, key: Key, seed: int | None) -> Tensor:
    """x times keyed Gaussian noise of mean 1 and variance p/(1 − p)."""
    if at_once(x):
        return gaussian_autograd(x, _key_now(key, seed), p)
    if in_transform():
        ones = torch.ones(x.shape, dtype=x.dtype, device=x.device)
        return x * torch.ops.allmasks.gaussian(ones, _key_in_transform(key, seed), p)
    return torch.ops.allmasks.gaussian(x, _key_op(key, seed), p)
