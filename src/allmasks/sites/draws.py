"""Random draws that are a mask by themselves, in modules that drop only while their training flag is set.

`x * bernoulli / q` written by hand, stochastic depth and drop path call no dropout function, and in eval mode nothing
at all. While such a module is awake (its own flag set, nobody else's), its draws arrive here as calls whose "input"
is the tensor that is drawn. A new function is a new row of `DRAWS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from allmasks.sites.calls import Call

__all__ = ["DRAWN", "DRAWS", "HIGHEST", "parse_draw", "uniform_call"]

DRAWN = ("bernoulli", "uniform")
"""Kinds of site whose mask is what is drawn."""

HIGHEST = 1.0 - 2.0**-11
"""A number near the top of [0, 1) in every dtype."""


def _bernoulli(out: Tensor, q: Any) -> Call:
    """Ones with probability q in `out`'s shape. All replaced by q, what is scaled by 1 / q stays as it is."""
    keep, refusal = _one_number(q)

    def apply(kept: Tensor, p: float) -> Tensor:
        # Not in place: under vmap the bits are batched and the tensor they replace is not.
        return kept.expand(out.shape).to(out.dtype)

    return Call(
        op="bernoulli",
        kind="bernoulli",
        p=round(1.0 - keep, 12),
        training=True,
        input=out,
        mask_shape=tuple(out.shape),
        apply=apply,
        identity=lambda: (
            torch.full_like(out, keep) if refusal is None else torch.as_tensor(q).expand(out.shape).clone()
        ),
        refusal=refusal,
    )


def _one_number(q: Any) -> tuple[float, str | None]:
    if not isinstance(q, Tensor):
        return float(q), None
    try:
        low, high = float(q.min()), float(q.max())
    except RuntimeError:  # batched by vmap, or without elements: the look at the model has settled it
        return math.nan, None
    if low != high:
        return math.nan, "its units are drawn with different probabilities"
    return low, None


def uniform_call(op: str, out: Tensor, put: Callable[[Tensor], Any]) -> Call:
    """Uniform numbers in `out`'s shape, compared with a threshold t: bit 0 stands for those below it, P(bit 0) = t.

    `put` makes of numbers in [0, 1) what the function returns.
    """

    def apply(kept: Tensor, t: float) -> Any:
        bits = kept.expand(out.shape).to(out.dtype)
        return put(bits * (1.0 + t) / 2 + (1.0 - bits) * t / 2)

    def constant(value: float | Tensor = HIGHEST) -> Any:
        return put(torch.full_like(out, value) if isinstance(value, float) else value.to(out))

    return Call(
        op=op,
        kind="uniform",
        p=math.nan,
        training=True,
        input=out,
        mask_shape=tuple(out.shape),
        apply=apply,
        identity=constant,
        rest=constant,
    )


def _uniform(out: Tensor, *, in_place: bool = False) -> Call | None:
    if not out.is_floating_point():
        return None
    return uniform_call("rand", out, out.copy_ if in_place else lambda values: values)


def _rand(*args: Any, generator: Any = None, **kwargs: Any) -> Call | None:
    kwargs.pop("out", None)
    return _uniform(torch.zeros(*args, **kwargs))


def _rand_like(input: Tensor, *, generator: Any = None, **kwargs: Any) -> Call | None:
    return _uniform(torch.zeros_like(input, **kwargs))


def _uniform_(self: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Call | None:
    return _uniform(self, in_place=True) if (low, high) == (0.0, 1.0) else None


def _bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Any = None) -> Call:
    call = _bernoulli(self, p)
    fill, put = call.identity, call.apply
    # The caller may go on with the tensor it had instead of the result.
    call.identity = lambda: self.copy_(fill())
    call.apply = lambda kept, rate: self.copy_(put(kept, rate))
    return call


def _bernoulli_of(input: Tensor, p: Any = None, *, generator: Any = None, out: Any = None) -> Call:
    return _bernoulli(torch.empty_like(input), input if p is None else p)


DRAWS: dict[Any, Callable[..., Call | None]] = {
    torch.rand: _rand,
    torch.rand_like: _rand_like,
    Tensor.uniform_: _uniform_,
    Tensor.bernoulli_: _bernoulli_,
    torch.bernoulli: _bernoulli_of,
    Tensor.bernoulli: _bernoulli_of,
}


def parse_draw(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The call's meaning, or None if the function draws nothing we know."""
    parser = DRAWS.get(function)
    if parser is None:
        return None
    try:
        return parser(*args, **kwargs)
    except TypeError:
        return None
