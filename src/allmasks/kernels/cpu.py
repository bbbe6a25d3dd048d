"""Dropout on a CPU at memory speed: keyed bits made and applied in one pass, compiled by numba on first use.

The bits are those of `reference.stream`. Whole runs or lanes are vector instructions of our own (`vector`). What is
left goes to a small array that stays in the cache, and each lane is applied in a loop of its own over a contiguous
slice: that is what lets the compiler use whole vectors for both. Kernels take addresses instead of arrays, since boxing
an array would cost a small tensor more than its dropout does. Half types are given as their bits, widened and rounded
in registers.

Compiled code is cached on disk (numba's `cache=True`, `NUMBA_CACHE_DIR`): only the first use on a machine waits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic, overload

from allmasks.kernels import team
from allmasks.kernels.vector import lanes_of_few_bits, run_of_16_bits, run_of_32_bits

__all__ = ["BFLOAT16", "FLOAT16", "FLOAT32", "FLOAT64", "fill_words", "multiplier", "multiply_units"]

U = np.uint32

FLOAT32, FLOAT64 = np.float32(0), np.float64(0)
BFLOAT16, FLOAT16 = np.uint16(0), np.int16(0)
"""What an address points to, by example; numba has no half types, so that two integers stand for them."""

_STRIDE = 128  # reference.LANE_STRIDE, as a literal that the compiler can unroll by
_SERIAL_BELOW = 1 << 15
"""Elements below which waking threads costs more than they save."""

_TASK = 1 << 14
"""Elements in one parallel task: whole runs, and small enough to share out a small tensor evenly."""


# -- numbers in memory and numbers in registers ----------------------------------------------------------------


@intrinsic
def _pointer(context: Any, address: Any, like: Any) -> Any:
    """An integer address as a typed pointer; `like` is a value of the pointed-to type."""
    signature = types.CPointer(like)(types.int64, like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return signature, generate


def _cast(result: Any, argument: Any, steps: Any) -> Any:
    """An intrinsic of one argument made of LLVM conversions."""

    def typed(context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return steps(builder, args[0])

        return result(argument), generate

    return intrinsic(typed)


_half, _single, _i16, _i32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)
_half_to_float = _cast(types.float32, types.int16, lambda b, v: b.fpext(b.bitcast(v, _half), _single))
_float_to_half = _cast(types.int16, types.float32, lambda b, v: b.bitcast(b.fptrunc(v, _half), _i16))
_bits_to_float = _cast(types.float32, types.uint32, lambda b, v: b.bitcast(v, _single))
_float_to_bits = _cast(types.uint32, types.float32, lambda b, v: b.bitcast(v, _i32))


def _widen(value):  # type: ignore[no-untyped-def]
    """A number as stored -> the float to compute with."""
    raise NotImplementedError("compiled code only")


def _narrow(value, like):  # type: ignore[no-untyped-def]
    """The float -> as stored, rounded to nearest even."""
    raise NotImplementedError("compiled code only")


def _size(like):  # type: ignore[no-untyped-def]
    """Bytes of a number as stored."""
    raise NotImplementedError("compiled code only")


@overload(_size, inline="always")
def _size_typed(like):  # type: ignore[no-untyped-def]
    size = like.bitwidth // 8
    return lambda like: size


@overload(_widen, inline="always")
def _widen_typed(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: _bits_to_float(U(U(value) << U(16)))
    if value == types.int16:
        return lambda value: _half_to_float(value)
    return lambda value: value


@overload(_narrow, inline="always")
def _narrow_typed(value, like):  # type: ignore[no-untyped-def]
    if like == types.uint16:

        def rounded(value, like):  # type: ignore[no-untyped-def]
            b = _float_to_bits(value)
            return np.uint16(U(U(b + U(0x7FFF)) + U(U(b >> U(16)) & U(1))) >> U(16))

        return rounded
    if like == types.int16:
        return lambda value, like: _float_to_half(value)
    return lambda value, like: value


# -- the bits --------------------------------------------------------------------------------------------------


@njit(forceinline=True)
def _round(x0, x1, left, right):  # type: ignore[no-untyped-def]
    x0 = U(x0 + x1)
    return x0, U(U(U(x1 << U(left)) | U(x1 >> U(right))) ^ x0)


@njit(forceinline=True)
def fill_lanes(k0, k1, first, w0, w1):  # type: ignore[no-untyped-def]
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


# -- out = x * (scale where the word is below the threshold, else 0) -------------------------------------------


@njit(forceinline=True)
def _lane(x, out, w, right, bits, threshold, scale):  # type: ignore[no-untyped-def]
    """Decided on `bits` bits of each word, from bit number `right` on."""
    zero = scale - scale
    left, least = U(32 - bits - right), U(threshold << U(32 - bits))
    for i in range(len(x)):
        kept = U(w[i] << left) < least
        out[i] = _narrow(_widen(x[i]) * (scale if kept else zero), out[i])


@njit(cache=True, nogil=True)
def _span(x_at, out_at, n, lo, hi, k0, k1, bits, threshold, scale, like):  # type: ignore[no-untyped-def]
    """Elements lo … hi - 1 of n; lo is a multiple of the run. What whole lanes or runs leave over is a plain loop."""
    run = _STRIDE * (64 // bits)
    few = bits < 16
    whole = hi - (hi - lo) % (_STRIDE if few else run)
    for start in range(lo, whole, run):
        counter = np.uint64(start // run * _STRIDE)
        high = U(U(counter >> np.uint64(32)) + k0)
        low = U(U(counter & np.uint64(0xFFFFFFFF)) + k1)
        x, out = x_at + start * _size(like), out_at + start * _size(like)
        if few:
            lanes = (min(start + run, whole) - start) // _STRIDE
            lanes_of_few_bits(x, out, lanes, high, low, k0, k1, U(bits), threshold, scale, like)
        elif bits == 16:
            run_of_16_bits(x, out, high, low, k0, k1, threshold, scale, like)
        else:
            run_of_32_bits(x, out, high, low, k0, k1, threshold, scale, like)
    if whole < hi:
        source, target = carray(_pointer(x_at, like), n), carray(_pointer(out_at, like), n)
        w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
        fill_lanes(k0, k1, np.uint64(whole // run * _STRIDE), w0, w1)
        for a in range(whole, hi, _STRIDE):
            b = min(a + _STRIDE, hi)
            first_bit = a % run // _STRIDE * bits
            _lane(source[a:b], target[a:b], w0 if first_bit < 32 else w1, first_bit % 32, bits, threshold, scale)


# -- the same with a law for each unit: element e belongs to unit e % units ------------------------------------


@njit(cache=True, nogil=True)
def _span_units(x, out, lo, hi, k0, k1, last, scale):  # type: ignore[no-untyped-def]
    w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
    units = len(last)
    zero = scale[0] - scale[0]
    for start in range(lo, hi, 2 * _STRIDE):
        fill_lanes(k0, k1, np.uint64(start // 2), w0, w1)
        for lane in range(2):
            word = w0 if lane == 0 else w1
            a = start + lane * _STRIDE
            end = min(a + _STRIDE, hi)
            done = a
            while done < end:
                unit = done % units
                length = min(end - done, units - unit)
                own_last, own_scale = last[unit : unit + length], scale[unit : unit + length]
                own_words, source, target = word[done - a :], x[done : done + length], out[done : done + length]
                for i in range(length):
                    factor = own_scale[i] if own_words[i] <= own_last[i] else zero
                    target[i] = _narrow(_widen(source[i]) * factor, target[i])
                done += length


# -- a team's share: each thread takes tasks until none is left ------------------------------------------------


_block = struct.Struct("=7qd3q").pack
"""What the threads of a team read, each of 64 bits: the next task's number, the addresses of x and of the output, n,
key, bits, threshold, scale; for a law of each unit the addresses of the largest words and of the scales, and how many.
"""

_INT, _UINT32 = np.int64(0), np.uint32(0)


# Typed: the numbers that stand for the types are all zero, and equal to a cache that does not look at types.
@lru_cache(maxsize=8, typed=True)
def _shares(like: Any) -> Any:
    """The team's `_span` for numbers like this, compiled once and kept: others hold its address only."""
    wide = np.float64 if like.dtype == np.float64 else np.float32

    def share(at):  # type: ignore[no-untyped-def]
        block = carray(_pointer(at, _INT), 11)
        n, key, threshold = block[3], block[4], U(block[6])
        scale = wide(carray(_pointer(at, FLOAT64), 11)[7])
        lo = team.next_task(at) * _TASK
        while lo < n:
            hi = min(lo + _TASK, n)
            _span(block[1], block[2], n, lo, hi, U(key), U(key >> 32), block[5], threshold, scale, like)
            lo = team.next_task(at) * _TASK

    return cfunc(types.void(types.int64), cache=True)(share)


@lru_cache(maxsize=8, typed=True)
def _shares_units(like: Any) -> Any:
    """The same for `_span_units`."""
    wide = FLOAT64 if like.dtype == np.float64 else FLOAT32

    def share(at):  # type: ignore[no-untyped-def]
        block = carray(_pointer(at, _INT), 11)
        n, key, units = block[3], block[4], block[10]
        x, out = carray(_pointer(block[1], like), n), carray(_pointer(block[2], like), n)
        last, scale = carray(_pointer(block[8], _UINT32), units), carray(_pointer(block[9], wide), units)
        lo = team.next_task(at) * _TASK
        while lo < n:
            _span_units(x, out, lo, min(lo + _TASK, n), U(key), U(key >> 32), last, scale)
            lo = team.next_task(at) * _TASK

    return cfunc(types.void(types.int64), cache=True)(share)


@lru_cache(maxsize=1)
def _shares_words() -> Any:
    """The same for the words themselves."""

    def share(at):  # type: ignore[no-untyped-def]
        block = carray(_pointer(at, _INT), 11)
        n, key = block[3], block[4]
        out = carray(_pointer(block[2], _UINT32), n)
        w0, w1 = np.empty(_STRIDE, np.uint32), np.empty(_STRIDE, np.uint32)
        lo = team.next_task(at) * _TASK
        while lo < n:
            for start in range(lo, min(lo + _TASK, n), 2 * _STRIDE):
                fill_lanes(U(key), U(key >> 32), np.uint64(start // 2), w0, w1)
                for i in range(min(_STRIDE, n - start)):
                    out[start + i] = w0[i]
                for i in range(min(_STRIDE, n - start - _STRIDE)):
                    out[start + _STRIDE + i] = w1[i]
            lo = team.next_task(at) * _TASK

    return cfunc(types.void(types.int64), cache=True)(share)


# -- called from Python ----------------------------------------------------------------------------------------


def multiplier(bits: int, threshold: int, scale: Any, like: Any) -> Callable[[int, int, int, int, int], None]:
    """The kernel of a law: a function of (x_at, out_at, n, key, threads).

    It sets out = x * (scale where the element's word < threshold, else 0), for the n numbers at these addresses.

    Parameters
    ----------
    bits : 1, 2, 4, 8, 16 or 32 bits decide on an element; 0 < threshold < 2**bits.
    scale : NumPy scalar, float64 for float64 data, otherwise float32.
    like : FLOAT32, FLOAT64, BFLOAT16 or FLOAT16: what the addresses point to.

    x_at, out_at : addresses of contiguous data; equal for in place, otherwise disjoint.
    key : 64 bits as a signed integer.
    threads : how many to use, at most.
    """
    share, factor = _shares(like), float(scale)  # the function holds it: compiled code lives as long as it does
    alone = team.alone(share.address)

    def multiply(x_at: int, out_at: int, n: int, key: int, threads: int) -> None:
        block = _block(0, x_at, out_at, n, key, bits, threshold, factor, 0, 0, 0)
        if n < _SERIAL_BELOW:
            alone(block)
        else:
            team.run(share.address, block, threads)

    return multiply


def multiply_units(x_at: int, out_at: int, n: int, key: int, last: Any, scale: Any, like: Any, threads: int) -> None:
    """The same with 32 bits and a law for each unit; element e belongs to unit e % len(last).

    Parameters
    ----------
    last : uint32 array, the largest word that keeps.
    scale : array of float64 or float32, as above; 0 where nothing is kept.
    """
    block = _block(0, x_at, out_at, n, key, 0, 0, 0.0, last.ctypes.data, scale.ctypes.data, len(last))
    team.run(_shares_units(like).address, block, 1 if n < _SERIAL_BELOW else threads)


def fill_words(out: Any, key: int, threads: int) -> None:
    """out[e] = the 32-bit word of element e, for a contiguous uint32 array."""
    block = _block(0, 0, out.ctypes.data, len(out), key, 0, 0, 0.0, 0, 0, 0)
    team.run(_shares_words().address, block, threads)
