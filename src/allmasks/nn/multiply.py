"""x times its keyed mask: one function over all kernels, which give the same bits. No autograd here."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.kernels import anywhere, pages
from allmasks.nn.law import drawn_law, unit_law

__all__ = ["gaussian_multiply", "has_own_memory", "mask_multiply", "mask_multiply_", "split_key"]


def split_key(key: int) -> tuple[int, int]:
    """A 64-bit key, signed or not, as the generator's two words."""
    return key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF


def mask_multiply(x: Tensor, key: int, p: float, units: Tensor | None = None) -> Tensor:
    """x times the keyed mask / keep probability, in x's memory format.

    Parameters
    ----------
    x : any layout; the bits follow the logical order of its elements.
    key : 64 bits as a signed integer.
    p : 0 < p < 1, used where `units` is None.
    units : (d,) float64 rates from 0 to 1; element e belongs to unit e % d, so d is the size of x's last axes.
    """
    if units is None and x.is_cpu and x.is_contiguous() and x.dtype in _WIDE and not x.is_neg():
        # The usual road in one piece: for a small tensor each call in between counts.
        at, out, n = x.data_ptr(), torch.empty_like(x), x.numel()
        if not at:
            return mask_multiply(_materialized(x), key, p) if n else out
        if n >= _PERHAPS_FRESH and n * x.element_size() >= pages.FRESH_FROM:
            pages.ask_for_large(out.data_ptr(), n * x.element_size())
        _compiled(p, x.dtype)(at, out.data_ptr(), n, key, torch.get_num_threads())
        return out
    x = _materialized(x)
    kernel = _kernel(x)
    if kernel is None:
        return torch.empty_like(x) if x.device.type == "meta" else x * _noise(x, key, p, units)
    if x.is_contiguous():
        out = torch.empty_like(x)
        kernel(x, out, key, p, units)
        return out
    # Two more passes over memory, which is still far from what a serial generator takes.
    dense = x.contiguous()
    kernel(dense, dense, key, p, units)
    out = torch.empty_like(x)
    return dense if out.is_contiguous() else out.copy_(dense)


def mask_multiply_(x: Tensor, key: int, p: float, units: Tensor | None = None) -> Tensor:
    """The same in place, where x `has_own_memory`; the caller has asked whether x may be written to."""
    kernel = _kernel(x)
    if kernel is None:
        return x if x.is_meta else x.mul_(_noise(x, key, p, units))
    kernel(x, x, key, p, units)
    return x


def has_own_memory(x: Tensor) -> bool:
    """Whether x is what lies at its address, element by element, and a kernel of ours can read and write it there."""
    return _kernel(x) is not None and x.is_contiguous() and not x.is_neg() and (x.data_ptr() != 0 or not x.numel())


def _materialized(x: Tensor) -> Tensor:
    """x as numbers in memory, if it is negated when it is read, or zero without any memory."""
    if x.is_neg():
        return x.resolve_neg()
    if x._is_zerotensor():
        return x.clone()
    if x.is_cpu and x.numel() and x.data_ptr() == 0:
        raise RuntimeError(f"this tensor of shape {tuple(x.shape)} has no memory: its storage was freed")
    return x


def gaussian_multiply(x: Tensor, key: int, p: float) -> Tensor:
    """x times 1 + √(p/(1 − p)) z, z the standard normal quantile of the element's word."""
    if x.device.type == "meta":
        return torch.empty_like(x)
    uniform = _uniform(x, key)
    noise = torch.special.ndtri(uniform).mul_((p / (1.0 - p)) ** 0.5).add_(1.0)
    wide = torch.promote_types(x.dtype, torch.float32)  # in a half type the product is rounded once
    return (x.to(wide) * noise.reshape(x.shape).to(wide)).to(x.dtype)


def _uniform(x: Tensor, key: int) -> Tensor:
    """(word + ½) / 2³² of each element: never 0 or 1, and symmetric, so that the mean of the noise is 1 exactly."""
    n = x.numel()
    if x.device.type == "cpu":
        from allmasks.kernels import cpu

        pages.keep_freed()
        words = np.empty(n, np.uint32)
        cpu.fill_words(words, key, torch.get_num_threads())
        signed = torch.from_numpy(words.view(np.int32)).to(torch.float64)
        return torch.where(signed < 0, signed + 2.0**32, signed).add_(0.5).mul_(2.0**-32)
    return anywhere.stream(split_key(key), n, bits=32, device=x.device).double().add_(0.5).mul_(2.0**-32)


# -- which kernel ----------------------------------------------------------------------------------------------


def _kernel(x: Tensor) -> Any:
    if x.dtype not in _WIDE:
        return None
    if x.is_cpu:
        return _on_cpu
    if x.is_cuda and _has_triton():
        return _on_gpu
    return None


_PERHAPS_FRESH = pages.FRESH_FROM // 8
"""Elements below which no dtype is that large."""

_WIDE = {torch.float32: np.float32, torch.float64: np.float64, torch.bfloat16: np.float32, torch.float16: np.float32}
"""What each dtype is multiplied in."""


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@lru_cache(maxsize=1024)
def _compiled(p: float, dtype: torch.dtype) -> Callable[[int, int, int, int, int], None]:
    """The compiled kernel of this rate and number type, loaded when first needed."""
    from allmasks.kernels import cpu

    pages.keep_freed()
    law = drawn_law(p)
    return cpu.multiplier(law.bits, law.threshold, _WIDE[dtype](law.scale), _like(dtype))


def _like(dtype: torch.dtype) -> Any:
    from allmasks.kernels import cpu

    return {
        torch.float32: cpu.FLOAT32,
        torch.float64: cpu.FLOAT64,
        torch.bfloat16: cpu.BFLOAT16,
        torch.float16: cpu.FLOAT16,
    }[dtype]


def _on_cpu(x: Tensor, out: Tensor, key: int, p: float, units: Tensor | None) -> None:
    if units is None:
        _compiled(p, x.dtype)(x.data_ptr(), out.data_ptr(), x.numel(), key, torch.get_num_threads())
        return
    from allmasks.kernels import cpu

    pages.keep_freed()
    by_unit = unit_law(units.numpy())
    scale = by_unit.scale_as(_WIDE[x.dtype])
    cpu.multiply_units(
        x.data_ptr(), out.data_ptr(), x.numel(), key, by_unit.last, scale, _like(x.dtype), torch.get_num_threads()
    )


def _on_gpu(x: Tensor, out: Tensor, key: int, p: float, units: Tensor | None) -> None:
    from allmasks.kernels import gpu

    if units is None:
        law = drawn_law(p)
        gpu.multiply(x, out, split_key(key), law.bits, law.threshold)
        return
    by_unit = unit_law(units.cpu().numpy())
    gpu.multiply_units(x, out, split_key(key), by_unit.last, by_unit.scale)


def _noise(x: Tensor, key: int, p: float, units: Tensor | None) -> Tensor:
    """The factor of each element, in x's dtype and logical order, by torch's own operations."""
    if units is None:
        law = drawn_law(p)
        words = anywhere.stream(split_key(key), x.numel(), bits=law.bits, device=x.device)
        return ((words < law.threshold) * law.scale).to(x.dtype).reshape(x.shape)
    by_unit = unit_law(units.cpu().numpy())
    words = anywhere.stream(split_key(key), x.numel(), bits=32, device=x.device).reshape(-1, len(by_unit.last))
    last = torch.from_numpy(by_unit.last.astype(np.int64)).to(x.device)
    scale = torch.from_numpy(by_unit.scale).to(x.device)
    return ((words <= last) * scale).to(x.dtype).reshape(x.shape)
