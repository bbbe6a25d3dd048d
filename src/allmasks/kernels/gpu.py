"""Dropout on a GPU by Triton: the bits of `reference.stream`, made and applied in one pass.

A program takes up to four lanes of whole runs of the layout: a counter is encrypted once for them, and each lane reads
and writes contiguous stretches. Where a run has more lanes, other programs encrypt its counters again: there are as
many programs whatever the number of bits, and a GPU waits for memory meanwhile. Loaded only where a CUDA tensor
arrives; `TRITON_INTERPRET=1` runs it on a CPU, which is how its bits are tested where there is no GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["multiply", "multiply_units"]

_COUNTERS = 1024
"""Counters a program: eight runs of 128."""

_GROUP = 4
"""Lanes a program, at most."""


@triton.jit
def _turn(x0, x1, LEFT: tl.constexpr):  # type: ignore[no-untyped-def]
    x0 = x0 + x1
    x1 = ((x1 << LEFT) | (x1 >> (32 - LEFT))) ^ x0
    return x0, x1


@triton.jit
def _threefry(counter, k0, k1):  # type: ignore[no-untyped-def]
    """Threefry-2x32-13 of 64-bit counters."""
    k2 = k0 ^ k1 ^ 0x1BD11BDA
    x0 = (counter >> 32).to(tl.uint32) + k0
    x1 = (counter & 0xFFFFFFFF).to(tl.uint32) + k1
    x0, x1 = _turn(x0, x1, 13)
    x0, x1 = _turn(x0, x1, 15)
    x0, x1 = _turn(x0, x1, 26)
    x0, x1 = _turn(x0, x1, 6)
    x0, x1 = x0 + k1, x1 + (k2 + 1)
    x0, x1 = _turn(x0, x1, 17)
    x0, x1 = _turn(x0, x1, 29)
    x0, x1 = _turn(x0, x1, 16)
    x0, x1 = _turn(x0, x1, 24)
    x0, x1 = x0 + k2, x1 + (k0 + 2)
    x0, x1 = _turn(x0, x1, 13)
    x0, x1 = _turn(x0, x1, 15)
    x0, x1 = _turn(x0, x1, 26)
    x0, x1 = _turn(x0, x1, 6)
    x0, x1 = x0 + k0, x1 + (k1 + 3)
    x0, x1 = _turn(x0, x1, 17)
    return x0, x1


@triton.jit
def _widened(x):  # type: ignore[no-untyped-def]
    """What is multiplied in: float64 stays, everything else is float32."""
    if x.dtype == tl.float64:  # noqa: SIM108 - Triton would give both sides one type
        wide = x
    else:
        wide = x.to(tl.float32)
    return wide


@triton.jit
def _narrowed(value, x):  # type: ignore[no-untyped-def]
    """Rounded to nearest even in x's dtype; for bfloat16 by hand, because Triton's interpreter cuts off instead."""
    if x.dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        narrow = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        narrow = value.to(x.dtype)
    return narrow


@triton.jit
def _counters(COUNTERS: tl.constexpr):  # type: ignore[no-untyped-def]
    return tl.program_id(0).to(tl.int64) * COUNTERS + tl.arange(0, COUNTERS).to(tl.int64)


@triton.jit
def _elements(counter, lane, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    return (counter // 128) * (128 * LANES) + lane * 128 + counter % 128


@triton.jit
def _lane(x_ptr, out_ptr, n, scale, word, threshold, counter, lane, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    e = _elements(counter, lane, LANES)
    inside = e < n
    x = tl.load(x_ptr + e, mask=inside)
    wide = _widened(x)
    factor = tl.where(word.to(tl.int64) < threshold, scale.to(wide.dtype), 0.0)
    tl.store(out_ptr + e, _narrowed(wide * factor, x), mask=inside)


_SCALARS = ["n", "k0", "k1", "law", "units"]
"""Triton would compile a kernel for some values of these."""


@triton.jit(do_not_specialize=_SCALARS)
def _multiply(x_ptr, out_ptr, n, k0, k1, law, BITS: tl.constexpr, COUNTERS: tl.constexpr, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    counter = _counters(COUNTERS)
    w0, w1 = _threefry(counter, k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True))
    threshold = law.to(tl.uint32, bitcast=True).to(tl.int64)
    one = tl.full((), 2**BITS, tl.int64).to(tl.float64)
    scale = one / threshold.to(tl.float64)
    for i in tl.static_range(GROUP):
        lane = tl.program_id(1) * GROUP + i
        first_bit = lane * BITS
        word = tl.where(first_bit < 32, w0, w1) >> (first_bit % 32).to(tl.uint32)
        _lane(x_ptr, out_ptr, n, scale, word & (0xFFFFFFFF >> (32 - BITS)), threshold, counter, lane, 64 // BITS)


@triton.jit
def _lane_units(x_ptr, out_ptr, n, last_ptr, scale_ptr, units, word, counter, lane):  # type: ignore[no-untyped-def]
    e = _elements(counter, lane, 2)
    inside = e < n
    x = tl.load(x_ptr + e, mask=inside)
    last = tl.load(last_ptr + e % units, mask=inside, other=0)
    scale = tl.load(scale_ptr + e % units, mask=inside, other=0.0)
    factor = tl.where(word.to(tl.int64) <= last, scale, 0.0)
    tl.store(out_ptr + e, _narrowed(_widened(x) * factor, x), mask=inside)


@triton.jit(do_not_specialize=_SCALARS)
def _multiply_units(x_ptr, out_ptr, n, k0, k1, last_ptr, scale_ptr, units, COUNTERS: tl.constexpr):  # type: ignore[no-untyped-def]
    counter = _counters(COUNTERS)
    w0, w1 = _threefry(counter, k0.to(tl.uint32, bitcast=True), k1.to(tl.uint32, bitcast=True))
    _lane_units(x_ptr, out_ptr, n, last_ptr, scale_ptr, units, w0, counter, 0)
    _lane_units(x_ptr, out_ptr, n, last_ptr, scale_ptr, units, w1, counter, 1)


def multiply(x: Tensor, out: Tensor, key: tuple[int, int], bits: int, threshold: int) -> None:
    """out = x * (2**bits / threshold where the element's word < threshold, else 0), for contiguous tensors."""
    lanes = 64 // bits
    group = min(lanes, _GROUP)
    grid = (triton.cdiv(x.numel(), _COUNTERS * lanes), lanes // group)
    words = (_signed(word) for word in (*key, threshold))
    with _device_of(x):
        _multiply[grid](x, out, x.numel(), *words, BITS=bits, COUNTERS=_COUNTERS, GROUP=group)


def multiply_units(x: Tensor, out: Tensor, key: tuple[int, int], last: Any, scale: Any) -> None:
    """The same with 32 bits and a law for each unit: kept where word <= last; element e belongs to unit e % units."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    lasts = torch.from_numpy(last.astype(np.int64)).to(x.device)
    scales = torch.from_numpy(scale).to(device=x.device, dtype=wide)
    grid = (triton.cdiv(x.numel(), _COUNTERS * 2),)
    with _device_of(x):
        _multiply_units[grid](
            x, out, x.numel(), _signed(key[0]), _signed(key[1]), lasts, scales, len(last), COUNTERS=_COUNTERS
        )


def _signed(word: int) -> int:
    """32 bits as Triton takes them whatever their value: a signed integer."""
    return word - 2**32 if word >= 2**31 else word


def _device_of(x: Tensor) -> Any:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else torch.cuda.device(-1)
