"""The table of dropout calls: what each function's arguments mean, which bits its mask has, and how they are applied.

A new function is a new row of `PARSERS`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allmasks.masks import alpha_constants

__all__ = ["PARSERS", "Call", "elementwise", "inverted", "parse"]


@dataclass
class Call:
    """One dropout call as it arrives: `input` is what is masked, or what its example axis can be read from.

    Attributes
    ----------
    mask_shape : the mask's shape in the layout of the input, the examples' axis included.
    apply : (kept, p) -> the call's result under this mask, kept broadcasting to `mask_shape`.
    identity : () -> the result with nothing dropped.
    rest : number -> the result where all that is drawn is this number, for uniform draws.
    tail : how many last axes of `mask_shape` the axes of `input` say nothing about (attention's keys).
    refusal : why no mask can be put in, if so.
    dependent : why the units are not independent although the mask's bits are, if so.
    """

    op: str
    kind: str
    p: float
    training: bool
    input: Tensor
    mask_shape: tuple[int, ...]
    apply: Callable[[Tensor, float], Any]
    identity: Callable[[], Any]
    rest: Callable[[float], Any] = lambda number: None
    mean_preserving: bool = True
    in_place: bool = False
    tail: int = 0
    refusal: str | None = None
    dependent: str | None = None
    name: str = ""


def inverted(x: Tensor, kept: Tensor, p: float) -> Tensor:
    """m * x / (1 - p), in x's dtype. The small mask is scaled, not the activation: one pass over memory less."""
    return x * (kept.to(x.dtype) * (1.0 / (1.0 - p)))


def _alpha(x: Tensor, kept: Tensor, p: float) -> Tensor:
    constants = alpha_constants(p)
    bits = kept.to(x.dtype)
    return x * (bits * constants.scale) + ((1.0 - bits) * (constants.scale * constants.dropped) + constants.shift)


def elementwise(op: str, kind: str, mask_shape: tuple[int, ...], x: Tensor, p: float, on: bool, inplace: bool) -> Call:
    rule = _alpha if "alpha" in kind else inverted

    def apply(kept: Tensor, rate: float) -> Tensor:
        # The derivative by the mask is made of the input, which must then outlive being overwritten.
        result = rule(x.clone() if inplace and kept.requires_grad else x, kept, rate)
        return x.copy_(result) if inplace else result

    return Call(
        op=op,
        kind=kind,
        p=float(p),
        training=bool(on),
        input=x,
        mask_shape=mask_shape,
        apply=apply,
        identity=lambda: x,
        mean_preserving="alpha" not in kind,
        in_place=inplace,
    )


def _channels(shape: torch.Size, unbatched_ndim: int | None = None) -> tuple[int, ...]:
    """One bit a feature map: axes (example, channel) where batched, (channel,) where `unbatched_ndim` says so."""
    if len(shape) == unbatched_ndim:
        return (shape[0],) + (1,) * (len(shape) - 1)
    return tuple(shape[:2]) + (1,) * (len(shape) - 2)


def _functional(kind: str, *, channels: bool = False, unbatched_ndim: int | None = None, on: bool = True) -> Any:
    """torch.nn.functional style: (input, p, training, inplace), and a generator where torch will have one."""

    def parse(input: Tensor, p: float = 0.5, training: bool = on, inplace: bool = False, generator: Any = None) -> Call:
        shape = _channels(input.shape, unbatched_ndim) if channels else tuple(input.shape)
        return elementwise(kind, kind, shape, input, p, training, inplace)

    return parse


def _native(kind: str, *, channels: bool = False, inplace: bool = False) -> Any:
    """torch.dropout style: (input, p, train)."""

    def parse(input: Tensor, p: float, train: bool, generator: Any = None) -> Call:
        shape = _channels(input.shape) if channels else tuple(input.shape)
        return elementwise(kind, kind, shape, input, p, train, inplace)

    return parse


def _native_dropout(input: Tensor, p: float, train: bool | None, generator: Any = None) -> Call:
    """torch.native_dropout returns its mask beside the result."""
    call = elementwise("native_dropout", "dropout", tuple(input.shape), input, p, train is not False, False)
    plain = call.apply
    call.apply = lambda kept, rate: (plain(kept, rate), kept.expand(input.shape).clone())
    call.identity = lambda: (input.clone(), torch.ones_like(input, dtype=torch.bool))
    return call


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    generator: Any = None,
) -> Call:
    lead = query.shape[:-2] if enable_gqa else torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])

    def identity() -> Tensor:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def apply(kept: Tensor, p: float) -> Tensor:
        weights = _attention_weights(query, key, attn_mask, is_causal, scale, enable_gqa)
        values = _repeat_heads(value, query) if enable_gqa else value
        return inverted(weights, kept, p) @ values

    return Call(
        op="scaled_dot_product_attention",
        kind="attention",
        p=float(dropout_p),
        training=True,  # the function has no such argument: callers pass p = 0 where nothing is to be dropped
        input=query,
        mask_shape=(*lead, query.shape[-2], key.shape[-2]),
        apply=apply,
        identity=identity,
        tail=1,
    )


def _repeat_heads(x: Tensor, query: Tensor) -> Tensor:
    """Grouped-query attention: each key head serves a group of consecutive query heads."""
    return x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3)


def _attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float | None, gqa: bool
) -> Tensor:
    """softmax(q kᵀ · scale + mask), as torch documents scaled_dot_product_attention; a row with no key is 0."""
    keys = _repeat_heads(key, query) if gqa else key
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    # Half types accumulate in float32, as the fused kernels do.
    wide = torch.float32 if query.dtype in (torch.float16, torch.bfloat16) else query.dtype
    scores = (query.to(wide) @ keys.to(wide).transpose(-2, -1)) * factor
    if is_causal:
        causal = torch.ones(query.shape[-2], keys.shape[-2], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~causal, -torch.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        else:
            scores = scores + attn_mask.to(wide)
    weights = torch.softmax(scores, dim=-1)
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    return weights.masked_fill(empty, 0.0).to(query.dtype)


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_RECURRENT_FORWARDS = {module.forward.__code__ for module in (nn.LSTM, nn.GRU, nn.RNN)}


def _recurrent(op: str, function: Callable[..., Any]) -> Any:
    """Recurrent layers drop between their own layers, inside one fused call: (…, num_layers, dropout, train, …).

    The mask's last axis holds the units of one layer after the other. Packed sequences pass (data, batch_sizes,
    state, weights, …), padded ones (input, state, weights, …).
    """

    def parse(*args: Any) -> Call | None:
        packed = not isinstance(args[3], bool)
        at = 5 if packed else 4
        layers, p, train, two_ways = int(args[at]), float(args[at + 1]), bool(args[at + 2]), bool(args[at + 3])
        if layers < 2:
            return None
        weights, biases = list(args[at - 2]), bool(args[at - 1])
        width = _layer_width(weights, layers, two_ways, biases, op)
        state = args[at - 3]
        if packed:
            lengths, order = args[1], _sorted_indices()
            input = _padded(args[0], lengths, order)
        else:
            lengths, order, input = None, None, args[0]

        def identity() -> Any:
            return function(*args[: at + 1], 0.0, False, *args[at + 3 :])

        def apply(kept: Tensor, rate: float) -> Any:
            bits = kept.expand(*input.shape[:-1], (layers - 1) * width)
            x, finals = args[0], []
            directions = 2 if two_ways else 1
            per_layer = len(weights) // layers
            for layer in range(layers):
                own = slice(layer * directions, (layer + 1) * directions)
                part = tuple(s[own] for s in state) if isinstance(state, list | tuple) else state[own]
                own_weights = weights[layer * per_layer : (layer + 1) * per_layer]
                before = (x, lengths) if packed else (x,)
                x, *last = function(*before, part, own_weights, biases, 1, 0.0, False, *args[at + 3 :])
                finals.append(last)
                if layer < layers - 1:
                    here = bits[..., layer * width : (layer + 1) * width]
                    x = inverted(x, _packed(here, lengths, order) if packed else here, rate)
            return (x, *(torch.cat(parts) for parts in zip(*finals, strict=True)))

        return Call(
            op=op,
            kind=op,
            p=p,
            training=train,
            input=input,
            mask_shape=(*input.shape[:-1], (layers - 1) * width),
            apply=apply,
            identity=identity,
            tail=1,
        )

    return parse


def _layer_width(weights: list[Tensor], layers: int, two_ways: bool, biases: bool, op: str) -> int:
    """Features that a layer hands to the next: hidden size (or projection), for both directions."""
    each = len(weights) // (layers * (2 if two_ways else 1))
    projected = op == "lstm" and each == (5 if biases else 3)
    size = weights[each - 1].shape[0] if projected else weights[1].shape[1]
    return int(size) * (2 if two_ways else 1)


def _sorted_indices() -> Tensor | None:
    """How the examples of a packed sequence were sorted, which only the module that packs them knows."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code in _RECURRENT_FORWARDS:
            return frame.f_locals.get("sorted_indices")
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _slots(lengths: Tensor, order: Tensor | None) -> tuple[Tensor, Tensor]:
    """(time, example) of each entry of packed data."""
    time = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    place = torch.cat([torch.arange(int(n)) for n in lengths])
    return time, place if order is None else order.cpu()[place]


def _padded(data: Tensor, lengths: Tensor, order: Tensor | None) -> Tensor:
    """Packed data as (time, example, features), zeros where there is none."""
    time, example = _slots(lengths, order)
    padded = data.new_zeros(len(lengths), int(lengths[0]), data.shape[-1])
    padded[time.to(data.device), example.to(data.device)] = data
    return padded


def _packed(bits: Tensor, lengths: Tensor, order: Tensor | None) -> Tensor:
    """Bits (time, example, units) as packed data has them."""
    time, example = _slots(lengths, order)
    return bits[time.to(bits.device), example.to(bits.device)]


def _overloads(packet: Any) -> list[Any]:
    return [packet, *(getattr(packet, name) for name in packet.overloads())]


PARSERS: dict[Any, Callable[..., Call | None]] = {
    F.dropout: _functional("dropout"),
    F.dropout1d: _functional("dropout1d", channels=True, unbatched_ndim=2),
    F.dropout2d: _functional("dropout2d", channels=True),
    F.dropout3d: _functional("dropout3d", channels=True, unbatched_ndim=4),
    F.alpha_dropout: _functional("alpha_dropout", on=False),
    F.feature_alpha_dropout: _functional("feature_alpha_dropout", channels=True, on=False),
    F.scaled_dot_product_attention: _attention,
    torch.native_dropout: _native_dropout,
    **{
        getattr(torch, prefix + suffix): _native(kind, channels=channels, inplace=suffix == "_")
        for prefix, kind, channels in (
            ("dropout", "dropout", False),
            ("alpha_dropout", "alpha_dropout", False),
            ("feature_dropout", "feature_dropout", True),
            ("feature_alpha_dropout", "feature_alpha_dropout", True),
        )
        for suffix in ("", "_")
    },
    **{getattr(torch, op): _recurrent(op, getattr(torch, op)) for op in _RECURRENT},
    **{op: _native("dropout") for op in _overloads(torch.ops.aten.dropout)},
    **dict.fromkeys(_overloads(torch.ops.aten.native_dropout), _native_dropout),
    **dict.fromkeys(_overloads(torch.ops.aten.scaled_dot_product_attention), _attention),
}
"""Every function that drops, and how its arguments are read."""


def parse(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The call's meaning, or None if the function does not drop (or its arguments are wrong: torch says how)."""
    parser = PARSERS.get(function)
    if parser is None:
        return None
    try:
        return parser(*args, **kwargs)
    except TypeError:
        return None
