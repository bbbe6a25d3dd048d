"""Inner loops over eight complex numbers side by side in the processor's vectors: 16 numbers, real parts first.

numba does not keep a small array in vector registers across a loop, so these are written out for LLVM: several times
as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "gathered_product", "gathered_sum", "set_factors", "tilted_part", "times_factors", "turn"]

LANES = 8
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_INT = ir.IntType(64)
_FUSED = ("contract",)


class _Arguments:
    """Arguments of a loop: pointers into arrays, integers as int64, floats as vectors of equal lanes."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._b = builder
        self.values = [
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else context.cast(builder, value, kind, types.int64)
            if isinstance(kind, types.Integer)
            else self.spread(value)
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def spread(self, value: Any) -> Any:
        start = self._b.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self._b.shuffle_vector(start, ir.Constant(_VECTOR, ir.Undefined), zeros)

    def _at(self, data: Any, place: Any) -> Any:
        return self._b.bitcast(self._b.gep(data, [place]), _VECTOR.as_pointer())

    def load(self, data: Any, row: Any = None) -> tuple[Any, Any]:
        """Both halves of a row of 16."""
        start = ir.Constant(_INT, 0) if row is None else self._b.mul(row, ir.Constant(_INT, 2 * LANES))
        middle = self._b.add(start, ir.Constant(_INT, LANES))
        return self._b.load(self._at(data, start), align=8), self._b.load(self._at(data, middle), align=8)

    def named(self, table: Any, index: Any, entry: Any) -> tuple[Any, Any]:
        """The row of the table that entry of the index, int32, names."""
        return self.load(table, self._b.sext(self._b.load(self._b.gep(index, [entry])), _INT))

    def store(self, data: Any, pair: tuple[Any, Any]) -> None:
        for value, place in zip(pair, (0, LANES), strict=True):
            self._b.store(value, self._at(data, ir.Constant(_INT, place)), align=8)

    def times(self, a: tuple[Any, Any], c: tuple[Any, Any]) -> tuple[Any, Any]:
        b, (x, y), (u, v) = self._b, a, c
        re = b.fsub(b.fmul(x, u, flags=_FUSED), b.fmul(y, v, flags=_FUSED), flags=_FUSED)
        return re, b.fadd(b.fmul(x, v, flags=_FUSED), b.fmul(y, u, flags=_FUSED), flags=_FUSED)

    def factor(self, z: tuple[Any, Any], p: Any, q: Any) -> tuple[Any, Any]:
        """p + q z."""
        b = self._b
        return b.fadd(p, b.fmul(q, z[0], flags=_FUSED), flags=_FUSED), b.fmul(q, z[1], flags=_FUSED)

    def total(self, vector: Any) -> Any:
        """Sum of the lanes."""
        width = LANES
        while width > 1:
            width //= 2
            halves = [
                ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(lo, lo + width))) for lo in (0, width)
            ]
            low, high = (self._b.shuffle_vector(vector, vector, half) for half in halves)
            vector = self._b.fadd(low, high)
        return self._b.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _loop(body: Callable[..., Any], returns: Any = types.void) -> Callable[..., Any]:
    """A numba intrinsic of `body(builder, arguments, *their values)`."""

    def typed(_: Any, *args: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            arguments = _Arguments(context, builder, signature, values)
            result = body(builder, arguments, *arguments.values)
            return context.get_dummy_value() if result is None else result

        return returns(*args), codegen

    return typed


def _accumulators(builder: Any, values: tuple[float, ...]) -> list[Any]:
    places = [cgutils.alloca_once(builder, _VECTOR) for _ in values]
    for place, value in zip(places, values, strict=True):
        builder.store(ir.Constant(_VECTOR, [value] * LANES), place)
    return places


def _gathered_product(b: Any, on: _Arguments, table: Any, index: Any, lo: Any, hi: Any, out: Any) -> None:
    one, two = ir.Constant(_INT, 1), ir.Constant(_INT, 2)
    # Two chains: the multiplications of one wait for each other.
    ar, ai, br, bi = _accumulators(b, (1.0, 0.0, 1.0, 0.0))

    def multiply(re: Any, im: Any, entry: Any) -> None:
        new = on.times((b.load(re), b.load(im)), on.named(table, index, entry))
        b.store(new[0], re)
        b.store(new[1], im)

    length = b.sub(hi, lo)
    with cgutils.for_range(b, b.sdiv(length, two)) as loop:
        entry = b.add(lo, b.mul(loop.index, two))
        multiply(ar, ai, entry)
        multiply(br, bi, b.add(entry, one))
    with b.if_then(b.icmp_signed("==", b.srem(length, two), one)):
        multiply(ar, ai, b.sub(hi, one))
    on.store(out, on.times((b.load(ar), b.load(ai)), (b.load(br), b.load(bi))))


def _gathered_sum(b: Any, on: _Arguments, table: Any, index: Any, lo: Any, hi: Any, out: Any) -> None:
    places = _accumulators(b, (0.0, 0.0))
    with cgutils.for_range(b, b.sub(hi, lo)) as loop:
        for place, value in zip(places, on.named(table, index, b.add(lo, loop.index)), strict=True):
            b.store(b.fadd(b.load(place), value), place)
    on.store(out, (b.load(places[0]), b.load(places[1])))


def _turn(b: Any, on: _Arguments, z: Any, re: Any, im: Any) -> None:
    on.store(z, on.times(on.load(z), (re, im)))


def _set_factors(b: Any, on: _Arguments, z: Any, p: Any, q: Any, out: Any) -> None:
    on.store(out, on.factor(on.load(z), p, q))


def _times_factors(b: Any, on: _Arguments, z: Any, p: Any, q: Any, out: Any) -> None:
    on.store(out, on.times(on.load(out), on.factor(on.load(z), p, q)))


def _tilted_part(b: Any, on: _Arguments, h: Any, z: Any, p: Any, q: Any) -> Any:
    x, y = on.load(z)
    fr, fi = on.factor((x, y), p, q)
    # z / f is z conj(f) / |f|²: divided by the very factor that was multiplied in.
    square = b.fadd(b.fmul(fr, fr, flags=_FUSED), b.fmul(fi, fi, flags=_FUSED), flags=_FUSED)
    _, im = on.times(on.load(h), on.times((x, y), (fr, b.fneg(fi))))
    zero = ir.Constant(_VECTOR, [0.0] * LANES)
    return on.total(b.select(b.fcmp_ordered(">", square, zero), b.fdiv(im, square), zero))


@intrinsic
def gathered_product(_, table, index, lo, hi, out):  # type: ignore[no-untyped-def]
    """out (16,) = Π of the rows index[lo : hi] of table (rows, 16); index is int32."""
    return _loop(_gathered_product)(_, table, index, lo, hi, out)


@intrinsic
def gathered_sum(_, table, index, lo, hi, out):  # type: ignore[no-untyped-def]
    """out (16,) = Σ of the rows index[lo : hi] of table (rows, 16); index is int32."""
    return _loop(_gathered_sum)(_, table, index, lo, hi, out)


@intrinsic
def turn(_, z, re, im):  # type: ignore[no-untyped-def]
    """z (16,) *= re + i im."""
    return _loop(_turn)(_, z, re, im)


@intrinsic
def set_factors(_, z, p, q, out):  # type: ignore[no-untyped-def]
    """out (16,) = p + q z."""
    return _loop(_set_factors)(_, z, p, q, out)


@intrinsic
def times_factors(_, z, p, q, out):  # type: ignore[no-untyped-def]
    """out (16,) *= p + q z."""
    return _loop(_times_factors)(_, z, p, q, out)


@intrinsic
def tilted_part(_, h, z, p, q):  # type: ignore[no-untyped-def]
    """Σ Im(h z / (p + q z)) over the eight, h and z (16,); a factor of 0 counts as 0."""
    return _loop(_tilted_part, types.float64)(_, h, z, p, q)
