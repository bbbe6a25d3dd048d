"""Dropout on a CPU at memory speed: keyed bits made and applied in one pass, compiled by numba on first use.

The bits are those of `reference.stream`. They go to a small array that stays in the cache, one run of the layout at a
time, and each lane is applied in a loop of its own over a contiguous slice: that is what lets the compiler use whole
vectors for both. Kernels take addresses instead of arrays, since boxing an array would cost a small tensor more than
its dropout does. In place is a loop of its own: with two arrays that may overlap the compiler falls back to scalars.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, get_num_threads, njit, prange, set_num_threads, types
from numba.core.config import NUMBA_NUM_THREADS
from numba.extending import intrinsic

__all__ = ["multiply", "multiply_bfloat16"]

U = np.uint32

_STRIDE = 128  # reference.LANE_STRIDE, as a literal that the compiler can unroll by
_SERIAL_BELOW = 1 << 16
"""Elements below which waking threads costs more than they save."""

_TASK = 1 << 15
"""Elements in one parallel task: whole runs, a few times the cache of a core."""


@intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    """An integer address as a typed pointer; `like` is a value of the pointed-to type."""
    signature = types.CPointer(like)(types.uint64, like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, generate


@njit(inline="always")
def _round(x0, x1, left, right):  # type: ignore[no-untyped-def]
    x0 = U(x0 + x1)
    return x0, U(U(U(x1 << U(left)) | U(x1 >> U(right))) ^ x0)


@njit(inline="always")
def _fill(k0, k1, first, w0, w1):  # type: ignore[no-untyped-def]
    """Threefry-2x32-13 of the 128 counters from `first` on (they never straddle a multiple of 2**32).

    Every result is cast back to 32 bits: numba computes on unsigned integers in 64.
    """
    k2 = U(U(U(0x1BD11BDA) ^ k0) ^ k1)
    high = U(U(first >> np.uint64(32)) + k0)
    low = U(U(first & np.uint64(0xFFFFFFFF)) + k1)
    for i in range(_STRIDE):
        x0, x1 = high, U(low + U(i))
        x0, x1 = _round(x0, x1, 13, 19)
        x0, x1 = _round(x0, x1, 15, 17)
        x0, x1 = _round(x0, x1, 26, 6)
        x0, x1 = _round(x0, x1, 6, 26)
        x0, x1 = U(x0 + k1), U(x1 + U(k2 + U(1)))
        x0, x1 = _round(x0, x1, 17, 15)
        x0, x1 = _round(x0, x1, 29, 3)
        x0, x1 = _round(x0, x1, 16, 16)
        x0, x1 = _round(x0, x1, 24, 8)
        x0, x1 = U(x0 + k2), U(x1 + U(k0 + U(2)))
        x0, x1 = _round(x0, x1, 13, 19)
        x0, x1 = _round(x0, x1, 15, 17)
        x0, x1 = _round(x0, x1, 26, 6)
        x0, x1 = _round(x0, x1, 6, 26)
        x0, x1 = U(x0 + k0), U(x1 + U(k1 + U(3)))
        x0, x1 = _round(x0, x1, 17, 15)
        w0[i], w1[i] = x0, x1


@njit(inline="always")
def _low(x, out, w, mask, threshold, scale):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(_STRIDE):
        out[i] = x[i] * (scale if U(w[i] & mask) < threshold else zero)


@njit(inline="always")
def _high(x, out, w, threshold, scale):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(_STRIDE):
        out[i] = x[i] * (scale if U(w[i] >> U(16)) < threshold else zero)


@njit(inline="always")
def _low_inplace(x, w, mask, threshold, scale):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(_STRIDE):
        x[i] *= scale if U(w[i] & mask) < threshold else zero


@njit(inline="always")
def _high_inplace(x, w, threshold, scale):  # type: ignore[no-untyped-def]
    zero = scale - scale
    for i in range(_STRIDE):
        x[i] *= scale if U(w[i] >> U(16)) < threshold else zero


@njit(cache=True)
def _word(e, bits, w0, w1):  # type: ignore[no-untyped-def]
    """The word of element e of a run."""
    lane, i = e // _STRIDE, e % _STRIDE
    if bits == 32:
        return w0[i] if lane == 0 else w1[i]
    word = w0[i] if lane < 2 else w1[i]
    return U(word & U(0xFFFF)) if lane % 2 == 0 else U(word >> U(16))


@njit(cache=True)
def _span(x, out, inplace, lo, hi, key0, key1, bits, threshold, scale, w0, w1):  # type: ignore[no-untyped-def]
    """Elements lo … hi - 1; lo is a multiple of the run."""
    run = _STRIDE * (64 // bits)
    zero = scale - scale
    every = U(0xFFFFFFFF) if bits == 32 else U(0xFFFF)
    for start in range(lo, hi, run):
        _fill(key0, key1, np.uint64(start // run * _STRIDE), w0, w1)
        if start + run > hi:
            for e in range(hi - start):
                out[start + e] = x[start + e] * (scale if _word(e, bits, w0, w1) < threshold else zero)
        elif bits == 16 and inplace:
            _low_inplace(x[start : start + 128], w0, every, threshold, scale)
            _high_inplace(x[start + 128 : start + 256], w0, threshold, scale)
            _low_inplace(x[start + 256 : start + 384], w1, every, threshold, scale)
            _high_inplace(x[start + 384 : start + 512], w1, threshold, scale)
        elif bits == 16:
            _low(x[start : start + 128], out[start : start + 128], w0, every, threshold, scale)
            _high(x[start + 128 : start + 256], out[start + 128 : start + 256], w0, threshold, scale)
            _low(x[start + 256 : start + 384], out[start + 256 : start + 384], w1, every, threshold, scale)
            _high(x[start + 384 : start + 512], out[start + 384 : start + 512], w1, threshold, scale)
        elif inplace:
            _low_inplace(x[start : start + 128], w0, every, threshold, scale)
            _low_inplace(x[start + 128 : start + 256], w1, every, threshold, scale)
        else:
            _low(x[start : start + 128], out[start : start + 128], w0, every, threshold, scale)
            _low(x[start + 128 : start + 256], out[start + 128 : start + 256], w1, every, threshold, scale)


@njit(cache=True)
def _serial(x_at, out_at, n, key0, key1, bits, threshold, scale):  # type: ignore[no-untyped-def]
    x, out = carray(_pointer(x_at, scale), n), carray(_pointer(out_at, scale), n)
    w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
    _span(x, out, x_at == out_at, 0, n, key0, key1, bits, threshold, scale, w0, w1)


@njit(cache=True, parallel=True)
def _parallel(x_at, out_at, n, key0, key1, bits, threshold, scale):  # type: ignore[no-untyped-def]
    for task in prange((n + _TASK - 1) // _TASK):
        x, out = carray(_pointer(x_at, scale), n), carray(_pointer(out_at, scale), n)
        w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
        lo = task * _TASK
        _span(x, out, x_at == out_at, lo, min(lo + _TASK, n), key0, key1, bits, threshold, scale, w0, w1)


@njit(cache=True)
def _span_bfloat16(x, out, lo, hi, key0, key1, bits, threshold, scale, work):  # type: ignore[no-untyped-def]
    """The same for bfloat16, given as its bits: widened, multiplied in float32, rounded to nearest even."""
    w0, w1, wide = work
    real = wide.view(np.float32)
    run = _STRIDE * (64 // bits)
    zero = scale - scale
    for start in range(lo, hi, run):
        _fill(key0, key1, np.uint64(start // run * _STRIDE), w0, w1)
        for lane in range(64 // bits):
            base = start + lane * _STRIDE
            length = min(_STRIDE, hi - base)
            if length <= 0:
                break
            word = w0 if lane < 32 // bits else w1
            shift = U(16) if bits == 16 and lane % 2 else U(0)
            every = U(0xFFFFFFFF) if bits == 32 else U(0xFFFF)
            source, target = x[base : base + length], out[base : base + length]
            for i in range(length):
                wide[i] = U(U(source[i]) << U(16))
            for i in range(length):
                real[i] *= scale if U(U(word[i] >> shift) & every) < threshold else zero
            for i in range(length):
                b = wide[i]
                target[i] = np.uint16(U(b + U(0x7FFF) + U(U(b >> U(16)) & U(1))) >> U(16))


@njit(cache=True, parallel=True)
def _parallel_bfloat16(x_at, out_at, n, key0, key1, bits, threshold, scale):  # type: ignore[no-untyped-def]
    for task in prange((n + _TASK - 1) // _TASK):
        like = np.uint16(0)
        x, out = carray(_pointer(x_at, like), n), carray(_pointer(out_at, like), n)
        work = (np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32))
        lo = task * _TASK
        _span_bfloat16(x, out, lo, min(lo + _TASK, n), key0, key1, bits, threshold, scale, work)


@njit(cache=True)
def _serial_bfloat16(x_at, out_at, n, key0, key1, bits, threshold, scale):  # type: ignore[no-untyped-def]
    like = np.uint16(0)
    x, out = carray(_pointer(x_at, like), n), carray(_pointer(out_at, like), n)
    work = (np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32))
    _span_bfloat16(x, out, 0, n, key0, key1, bits, threshold, scale, work)


def multiply(
    x_at: int, out_at: int, n: int, key: tuple[int, int], bits: int, threshold: int, scale: Any, threads: int
) -> None:
    """out = x * (scale where the element's word < threshold, else 0), for n float32 or float64 at these addresses.

    Parameters
    ----------
    x_at, out_at : addresses of contiguous data; equal for in place.
    bits : 16 or 32 bits decide on an element; threshold is at most 2**bits (2**32 itself is not needed: p = 0).
    scale : NumPy scalar of the data's dtype, which says what the addresses point to.
    threads : how many to use, at most.
    """
    arguments = (np.uint64(x_at), np.uint64(out_at), n, U(key[0]), U(key[1]), bits, U(threshold), scale)
    if threads < 2 or n < _SERIAL_BELOW:
        _serial(*arguments)
        return
    _use(threads)
    _parallel(*arguments)


def multiply_bfloat16(
    x_at: int, out_at: int, n: int, key: tuple[int, int], bits: int, threshold: int, scale: Any, threads: int
) -> None:
    """`multiply` for bfloat16 data; scale is float32."""
    arguments = (np.uint64(x_at), np.uint64(out_at), n, U(key[0]), U(key[1]), bits, U(threshold), scale)
    if threads < 2 or n < _SERIAL_BELOW:
        _serial_bfloat16(*arguments)
        return
    _use(threads)
    _parallel_bfloat16(*arguments)


def _use(threads: int) -> None:
    wanted = min(threads, NUMBA_NUM_THREADS)
    if get_num_threads() != wanted:
        set_num_threads(wanted)
