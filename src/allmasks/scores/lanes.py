"""Two inner loops over table rows named by an index, eight nodes side by side in the processor's vectors.

numba does not keep a small array in vector registers across a loop, so these are written out for LLVM: several times
as fast. A row is 16 numbers: eight real parts, eight imaginary ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "gathered_product", "gathered_sum"]

LANES = 8
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_FUSED = ("contract",)


class _Rows:
    """Pointers into the arguments (table, index, lo, hi, out) of a loop."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder = builder
        table, index, lo, hi, out = signature.args
        self._table, self._index, self._out = (
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip((table, index, out), (args[0], args[1], args[4]), strict=True)
        )
        self.lo, self.hi = (
            context.cast(builder, value, kind, types.int64) for kind, value in ((lo, args[2]), (hi, args[3]))
        )

    def _vector(self, data: Any, at: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(data, [at]), _VECTOR.as_pointer())

    def row(self, entry: Any) -> tuple[Any, Any]:
        """Both halves of the table row that the index names."""
        b = self.builder
        number = b.sext(b.load(b.gep(self._index, [entry])), ir.IntType(64))
        start = b.mul(number, ir.Constant(ir.IntType(64), 2 * LANES))
        middle = b.add(start, ir.Constant(ir.IntType(64), LANES))
        return b.load(self._vector(self._table, start), align=8), b.load(self._vector(self._table, middle), align=8)

    def store(self, re: Any, im: Any) -> None:
        for value, at in ((re, 0), (im, LANES)):
            self.builder.store(value, self._vector(self._out, ir.Constant(ir.IntType(64), at)), align=8)


def _accumulators(builder: Any, values: tuple[float, ...]) -> list[Any]:
    places = [cgutils.alloca_once(builder, _VECTOR) for _ in values]
    for place, value in zip(places, values, strict=True):
        builder.store(ir.Constant(_VECTOR, [value] * LANES), place)
    return places


def _times(b: Any, x: Any, y: Any, u: Any, v: Any) -> tuple[Any, Any]:
    """(x + iy)(u + iv)."""
    re = b.fsub(b.fmul(x, u, flags=_FUSED), b.fmul(y, v, flags=_FUSED), flags=_FUSED)
    im = b.fadd(b.fmul(x, v, flags=_FUSED), b.fmul(y, u, flags=_FUSED), flags=_FUSED)
    return re, im


@intrinsic  # type: ignore[untyped-decorator]
def gathered_product(_, table, index, lo, hi, out):  # type: ignore[no-untyped-def]
    """out (16,) = Π of the rows index[lo : hi] of table (rows, 16), as eight complex numbers; index is int32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = _Rows(context, builder, signature, args)
        one, two = ir.Constant(ir.IntType(64), 1), ir.Constant(ir.IntType(64), 2)
        # Two chains: the multiplications of one wait for each other.
        ar, ai, br, bi = _accumulators(builder, (1.0, 0.0, 1.0, 0.0))

        def multiply(re: Any, im: Any, entry: Any) -> None:
            new = _times(builder, builder.load(re), builder.load(im), *rows.row(entry))
            builder.store(new[0], re)
            builder.store(new[1], im)

        length = builder.sub(rows.hi, rows.lo)
        with cgutils.for_range(builder, builder.sdiv(length, two)) as loop:
            entry = builder.add(rows.lo, builder.mul(loop.index, two))
            multiply(ar, ai, entry)
            multiply(br, bi, builder.add(entry, one))
        with builder.if_then(builder.icmp_signed("==", builder.srem(length, two), one)):
            multiply(ar, ai, builder.sub(rows.hi, one))
        rows.store(*_times(builder, builder.load(ar), builder.load(ai), builder.load(br), builder.load(bi)))
        return context.get_dummy_value()

    return types.void(table, index, lo, hi, out), codegen


@intrinsic  # type: ignore[untyped-decorator]
def gathered_sum(_, table, index, lo, hi, out):  # type: ignore[no-untyped-def]
    """out (16,) = Σ of the rows index[lo : hi] of table (rows, 16); index is int32."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        rows = _Rows(context, builder, signature, args)
        re, im = _accumulators(builder, (0.0, 0.0))
        with cgutils.for_range(builder, builder.sub(rows.hi, rows.lo)) as loop:
            for place, value in zip((re, im), rows.row(builder.add(rows.lo, loop.index)), strict=True):
                builder.store(builder.fadd(builder.load(place), value), place)
        rows.store(builder.load(re), builder.load(im))
        return context.get_dummy_value()

    return types.void(table, index, lo, hi, out), codegen
