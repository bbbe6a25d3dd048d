"""A run of the layout as vector instructions.

Loops over small arrays leave a compiler one vector at a time, whose thirteen rounds wait for each other; here 32
counters go through together, as four vectors of AVX2 or two of AVX-512. The word of counter i decides on elements i,
i + 128 and so on, so that loads and stores are whole vectors too.

With 16 or 32 bits an element the words take most of the time: they stay in registers, and all lanes of 32 counters are
done before the next 32 are drawn. With fewer bits the words are soon drawn and serve many lanes, and memory takes the
time: the words wait in memory, and lanes are done one after the other, which goes through the data as it lies.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["lanes_of_few_bits", "run_of_16_bits", "run_of_32_bits"]

_WIDTH = 32
"""Counters at a time: 16 leave execution units idle, 64 do not fit in the registers (AVX2)."""

_STRIDE = 128  # reference.LANE_STRIDE
_PARTS = _STRIDE // _WIDTH
_LINE = 64
"""Bytes of a cache line; where lines have 128, every second request is for a line that is on its way already."""
_AHEAD = 4096
"""Bytes by which lanes of few bits ask for memory in advance."""
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _SINGLE, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()


def _vector(element: Any) -> Any:
    return ir.VectorType(element, _WIDTH)


def _constant(n: int, element: Any = _I32) -> Any:
    return ir.Constant(_vector(element), [n] * _WIDTH)


def _splat(b: Any, value: Any) -> Any:
    kind = _vector(value.type)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_vector(_I32), [0] * _WIDTH))


def _threefry(b: Any, x0: Any, x1: Any, schedule: list[Any]) -> tuple[Any, Any]:
    """Threefry-2x32-13 after the first key injection."""
    for r in range(13):
        left = _ROTATIONS[r % 8]
        x0 = b.add(x0, x1)
        x1 = b.xor(b.or_(b.shl(x1, _constant(left)), b.lshr(x1, _constant(32 - left))), x0)
        if r % 4 == 3:
            s = r // 4 + 1
            x0 = b.add(x0, schedule[s % 3])
            x1 = b.add(x1, b.add(schedule[(s + 1) % 3], _constant(s)))
    return x0, x1


_STORED = {types.float32: (_SINGLE, 4), types.float64: (_DOUBLE, 8), types.uint16: (_I16, 2), types.int16: (_I16, 2)}
"""What an address points to, and its bytes; the 16-bit integers stand for bfloat16 and float16, as in `cpu`."""


def _place(b: Any, address: Any, index: Any, kind: Any) -> Any:
    """A pointer to the vector that starts at this element."""
    element, size = _STORED[kind]
    return b.inttoptr(b.add(address, b.mul(index, ir.Constant(_I64, size))), _vector(element).as_pointer())


def _fetch(b: Any, addresses: tuple[Any, Any], size: int) -> None:
    """Ask for so many bytes at these two addresses, the first to be read and the second to be written.

    Nothing is read or written by asking, so that the end of memory is no matter.
    """
    byte = ir.IntType(8).as_pointer()
    fetch = b.module.declare_intrinsic("llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, *[_I32] * 3]))
    for write, address in enumerate(addresses):
        for line in range(0, size, _LINE):
            place = b.inttoptr(b.add(address, _I64(line)), byte)
            b.call(fetch, [place, _I32(write), _I32(3), _I32(1)])


def _widened(b: Any, value: Any, kind: Any) -> Any:
    """Numbers as stored -> the floats to compute with."""
    if kind == types.uint16:
        return b.bitcast(b.shl(b.zext(value, _vector(_I32)), _constant(16)), _vector(_SINGLE))
    if kind == types.int16:
        return b.fpext(b.bitcast(value, _vector(_HALF)), _vector(_SINGLE))
    return value


def _narrowed(b: Any, value: Any, kind: Any) -> Any:
    """The floats -> as stored, rounded to nearest even."""
    if kind == types.uint16:
        bits = b.bitcast(value, _vector(_I32))
        odd = b.and_(b.lshr(bits, _constant(16)), _constant(1))
        return b.trunc(b.lshr(b.add(b.add(bits, _constant(0x7FFF)), odd), _constant(16)), _vector(_I16))
    if kind == types.int16:
        return b.bitcast(b.fptrunc(value, _vector(_HALF)), _vector(_I16))
    return value


def _schedule(b: Any, k0: Any, k1: Any) -> list[Any]:
    key = [_splat(b, k0), _splat(b, k1)]
    return [*key, b.xor(b.xor(_constant(0x1BD11BDA), key[0]), key[1])]


def _counters(b: Any, low: Any) -> Any:
    """The low words of the first counters."""
    return b.add(_splat(b, low), ir.Constant(_vector(_I32), list(range(_WIDTH))))


def _apply(b: Any, addresses: tuple[Any, Any], at: Any, word: Any, least: Any, factor: Any, kind: Any) -> None:
    """out = x * (factor where the word < least, else 0) for the elements from `at` on."""
    source, target = (_place(b, address, at, kind) for address in addresses)
    size = _STORED[kind][1]
    noise = b.select(b.icmp_unsigned("<", word, least), factor, ir.Constant(factor.type, [0.0] * _WIDTH))
    value = b.fmul(_widened(b, b.load(source, align=size), kind), noise)
    b.store(_narrowed(b, value, kind), target, align=size)


def _wide(kind: Any) -> Any:
    return types.float64 if kind == types.float64 else types.float32


def _run(bits: int) -> Any:
    """out = x * (scale where the word < threshold, else 0) for the 128 counters from (high, low) on; x may be out.

    high and low are the counter's words with the key's added, as the generator starts.
    """

    def run(context, x_at, out_at, high, low, k0, k1, threshold, scale, like):  # type: ignore[no-untyped-def]
        kind = types.unliteral(like)

        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            x_at, out_at, high, low, k0, k1, threshold, scale, _ = args
            schedule, top, start = _schedule(b, k0, k1), _splat(b, high), _counters(b, low)
            # Words of 16 bits are compared in the upper half of 32, where the one half of a word already is.
            least = _splat(b, threshold if bits == 32 else b.shl(threshold, ir.Constant(_I32, 16)))
            factor, size = _splat(b, scale), _STORED[kind][1] * (64 // bits)

            before, body, after = b.block, b.append_basic_block("counters"), b.append_basic_block("done")
            b.branch(body)
            b.position_at_end(body)
            index, counter = b.phi(_I64), b.phi(_vector(_I32))
            index.add_incoming(ir.Constant(_I64, 0), before)
            counter.add_incoming(start, before)
            # A part of the next run's memory: going through a run in steps of a lane hides that it is one stream.
            ahead = b.mul(b.add(index, _I64(_STRIDE)), _I64(size))
            _fetch(b, (b.add(x_at, ahead), b.add(out_at, ahead)), _WIDTH * size)
            lanes = []
            for word in _threefry(b, top, counter, schedule):
                lanes += [word] if bits == 32 else [b.shl(word, _constant(16)), word]
            for lane, word in enumerate(lanes):
                at = b.add(index, ir.Constant(_I64, lane * _STRIDE))
                _apply(b, (x_at, out_at), at, word, least, factor, kind)
            index.add_incoming(b.add(index, ir.Constant(_I64, _WIDTH)), body)
            counter.add_incoming(b.add(counter, _constant(_WIDTH)), body)
            more = b.icmp_unsigned("<", index, ir.Constant(_I64, _STRIDE - _WIDTH))
            b.cbranch(more, body, after)
            b.position_at_end(after)
            return context.get_dummy_value()

        words = (types.uint32,) * 5
        return types.void(types.int64, types.int64, *words, _wide(kind), like), generate

    return intrinsic(run)


run_of_16_bits, run_of_32_bits = _run(16), _run(32)


def _words(b: Any, high: Any, low: Any, k0: Any, k1: Any) -> Any:
    """The words of 128 counters in memory: all the first ones, then all the second ones."""
    schedule, top, start = _schedule(b, k0, k1), _splat(b, high), _counters(b, low)
    with b.goto_entry_block():  # once for a function, not once for each run in its loop
        words = b.alloca(ir.ArrayType(_vector(_I32), 2 * _PARTS))
        words.align = _LINE
    for part in range(_PARTS):
        pair = _threefry(b, top, b.add(start, _constant(part * _WIDTH)), schedule)
        for which, word in enumerate(pair):
            b.store(word, b.gep(words, [_I32(0), _I32(which * _PARTS + part)]), align=_LINE)
    return words


@intrinsic
def lanes_of_few_bits(context, x_at, out_at, lanes, high, low, k0, k1, bits, threshold, scale, like):  # type: ignore[no-untyped-def]
    """What `_run` gives, for the first lanes of a run, one at least, with any number of bits that divides 32."""
    kind = types.unliteral(like)

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        x_at, out_at, lanes, high, low, k0, k1, bits, threshold, scale, _ = args
        size = _STORED[kind][1]
        words = _words(b, high, low, k0, k1)
        # Compared is at the upper end of 32 bits, where what is below the element's own bits does not matter.
        spare = b.sub(_I32(32), bits)
        least, factor = _splat(b, b.shl(threshold, spare)), _splat(b, scale)

        before, body, after = b.block, b.append_basic_block("lane"), b.append_basic_block("done")
        b.branch(body)
        b.position_at_end(body)
        lane = b.phi(_I64)
        lane.add_incoming(_I64(0), before)
        first_bit = b.mul(b.trunc(lane, _I32), bits)
        row = b.mul(b.lshr(first_bit, _I32(5)), _I32(_PARTS))
        left = _splat(b, b.sub(spare, b.and_(first_bit, _I32(31))))
        start = b.mul(lane, _I64(_STRIDE))
        ahead = b.add(b.mul(start, _I64(size)), _I64(_AHEAD))
        _fetch(b, (b.add(x_at, ahead), b.add(out_at, ahead)), _STRIDE * size)
        for part in range(_PARTS):
            word = b.shl(b.load(b.gep(words, [_I32(0), b.add(row, _I32(part))]), align=_LINE), left)
            _apply(b, (x_at, out_at), b.add(start, _I64(part * _WIDTH)), word, least, factor, kind)
        done = b.add(lane, _I64(1))
        lane.add_incoming(done, body)
        b.cbranch(b.icmp_unsigned("<", done, lanes), body, after)
        b.position_at_end(after)
        return context.get_dummy_value()

    words = (types.uint32,) * 6
    return types.void(types.int64, types.int64, types.int64, *words, _wide(kind), like), generate
