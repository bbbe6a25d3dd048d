"""Parts of small nets, each written twice: for torch, and in NumPy of any precision with the masks given.

A block's `reference(h, masks)` gets inputs (M, n, …) and, of each site, M masks that all examples share: it must be
what the torch module computes where its dropout draws them. `sites` has the masks' shapes and rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import allmasks as am

ALPHA = -1.7580993408473766  # −λα of SELU: where alpha dropout puts what it drops


@dataclass(frozen=True)
class Site:
    """A mask of one example: its shape, and the rate of its bits."""

    shape: tuple[int, ...]
    p: float

    @property
    def bits(self) -> int:
        return int(np.prod(self.shape)) if self.p else 0


@dataclass
class Block:
    """A module, the masks that one example draws in it, and what it computes under given ones."""

    module: nn.Module
    sites: list[Site]
    reference: Callable[[Any, list[Any]], Any]
    out: tuple[int, ...]
    """Shape of one example's output."""


def array(tensor: Tensor, like: Any) -> Any:
    return tensor.detach().numpy().astype(like.dtype)


def sigmoid(v: Any) -> Any:
    e = np.exp(-np.abs(v))
    return np.where(v >= 0, 1 / (1 + e), e / (1 + e))


def linear(layer: nn.Linear) -> Callable[[Any], Any]:
    def apply(h: Any) -> Any:
        out = h @ array(layer.weight, h).T
        return out if layer.bias is None else out + array(layer.bias, h)

    return apply


def inverted(p: float) -> Callable[[Any, list[Any]], Any]:
    return lambda h, masks: h * masks[0] / h.dtype.type(1 - h.dtype.type(p)) if p else h


def shaped(h: Any, mask: Any) -> Any:
    """A mask (M, …) beside inputs (M, n, …)."""
    return mask[:, None].astype(h.dtype)


ACTIVATIONS = {
    "tanh": (torch.tanh, np.tanh),
    "relu": (torch.relu, lambda v: np.maximum(v, 0)),
    "sigmoid": (torch.sigmoid, sigmoid),
    "none": (lambda v: v, lambda v: v),
}


class Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, h: Tensor) -> Tensor:
        return ACTIVATIONS[self.name][0](h)


def dense(rng: Any, shape: tuple[int, ...], width: int, activation: str) -> Block:
    """Linear on the last axis, then an activation; no dropout."""
    layer = nn.Linear(shape[-1], width, bias=bool(rng.random() < 0.7))
    act = ACTIVATIONS[activation][1]
    module = nn.Sequential(layer, Activation(activation))
    return Block(module, [], lambda h, masks: act(linear(layer)(h)), (*shape[:-1], width))


def flatten(shape: tuple[int, ...]) -> Block:
    size = int(np.prod(shape))
    return Block(nn.Flatten(), [], lambda h, masks: h.reshape(*h.shape[:2], size), (size,))


class Functional(nn.Module):
    def __init__(self, p: float, how: str) -> None:
        super().__init__()
        self.p, self.how = p, how

    def forward(self, h: Tensor) -> Tensor:
        if self.how == "keyword":
            return F.dropout(h, p=self.p, training=self.training)
        if self.how == "position":
            return F.dropout(h, self.p, self.training)
        if self.how == "always":  # as Monte Carlo dropout is often written
            return F.dropout(h, self.p, True)
        if self.how == "if":
            return F.dropout(h, self.p) if self.training else h
        return torch.dropout(h, self.p, self.training)


def element(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    """Elementwise dropout, in the ways that people write it."""
    ways: list[Callable[[], nn.Module]] = [
        lambda: nn.Dropout(p),
        lambda: nn.Dropout(p, inplace=True),
        lambda: am.nn.Dropout(p),
        *(lambda how=how: Functional(p, how) for how in ("keyword", "position", "always", "aten")),
    ]
    module = ways[int(rng.integers(len(ways)))]()
    rule = inverted(p)
    return Block(module, [Site(shape, p)], lambda h, masks: rule(h, [shaped(h, m) for m in masks]), shape)


class Twice(nn.Module):
    """One dropout module, used before and after a layer."""

    def __init__(self, p: float, width: int) -> None:
        super().__init__()
        self.drop, self.layer = nn.Dropout(p), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.drop(torch.tanh(self.layer(self.drop(h))))


def twice(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    module, rule = Twice(p, shape[-1]), inverted(p)

    def reference(h: Any, masks: list[Any]) -> Any:
        inner = rule(h, [shaped(h, masks[0])])
        return rule(np.tanh(linear(module.layer)(inner)), [shaped(h, masks[1])])

    return Block(module, [Site(shape, p), Site(shape, p)], reference, shape)


def alpha(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    """Alpha dropout: what is dropped becomes −λα, and all is shifted and scaled so that mean and variance stay."""

    def reference(h: Any, masks: list[Any]) -> Any:
        if not p:
            return h
        one = h.dtype.type
        kept, q = shaped(h, masks[0]), one(1) - one(p)
        a = (q + one(ALPHA) ** 2 * q * one(p)) ** one(-0.5)
        return a * np.where(kept > 0, h, one(ALPHA)) - a * one(p) * one(ALPHA)

    return Block(nn.AlphaDropout(p), [Site(shape, p)], reference, shape)


def channel(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    """One bit a channel of (channels, length)."""
    rule = inverted(p)
    module = nn.Dropout1d(p) if rng.random() < 0.5 else am.nn.Dropout1d(p)
    return Block(
        module, [Site((shape[0],), p)], lambda h, masks: rule(h, [shaped(h, m)[..., None] for m in masks]), shape
    )


class DropPath(nn.Module):
    """Stochastic depth as timm writes it; registered as a site."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, h: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return h
        keep = 1 - self.drop_prob
        return h.div(keep) * torch.floor(torch.rand((h.shape[0],) + (1,) * (h.ndim - 1), dtype=h.dtype) + keep)


class Branch(nn.Module):
    def __init__(self, p: float, width: int) -> None:
        super().__init__()
        self.drop, self.layer = DropPath(p), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.drop(torch.tanh(self.layer(h)))


def path(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    am.register_dropout(DropPath, p="drop_prob", sharing="row")
    module, rule = Branch(p, shape[-1]), inverted(p)

    def reference(h: Any, masks: list[Any]) -> Any:
        bit = shaped(h, masks[0]).reshape(len(masks[0]), 1, *(1,) * len(shape))
        return h + rule(np.tanh(linear(module.layer)(h)), [bit])

    return Block(module, [Site((1,), p)], reference, shape)


class Recurrent(nn.Module):
    def __init__(self, kind: str, width: int, hidden: int, p: float) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(width, hidden, num_layers=2, dropout=p, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        return self.rnn(h)[0]


def recurrent(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    """Two layers with dropout between them, on (steps, width)."""
    kind, hidden = str(rng.choice(["LSTM", "GRU", "RNN"])), 2
    module, rule = Recurrent(kind, shape[-1], hidden, p), inverted(p)

    def layer(h: Any, number: int) -> Any:
        w, r, b, c = (
            array(getattr(module.rnn, f"{name}_l{number}"), h)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = np.zeros((*h.shape[:2], hidden), h.dtype)
        cell, outputs = state, []
        for step in range(h.shape[2]):
            x, s = h[:, :, step] @ w.T + b, state @ r.T + c
            if kind == "RNN":
                state = np.tanh(x + s)
            elif kind == "LSTM":
                i, f, g, o = np.split(x + s, 4, axis=-1)
                cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
                state = sigmoid(o) * np.tanh(cell)
            else:
                (a, z, n), (sa, sz, sn) = np.split(x, 3, axis=-1), np.split(s, 3, axis=-1)
                z = sigmoid(z + sz)
                state = (1 - z) * np.tanh(n + sigmoid(a + sa) * sn) + z * state
            outputs.append(state)
        return np.stack(outputs, axis=2)

    def reference(h: Any, masks: list[Any]) -> Any:
        return layer(rule(layer(h, 0), [shaped(h, m) for m in masks]), 1)

    return Block(module, [Site((shape[0], hidden), p)], reference, (shape[0], hidden))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, p: float, how: str) -> None:
        super().__init__()
        self.how, self.heads, self.p = how, heads, p
        self.mha = nn.MultiheadAttention(width, heads, dropout=p, batch_first=True)

    def forward(self, h: Tensor) -> Tensor:
        if self.how != "sdpa":
            return self.mha(h, h, h, need_weights=self.how == "weights")[0]
        n, t, d = h.shape
        q, k, v = F.linear(h, self.mha.in_proj_weight, self.mha.in_proj_bias).chunk(3, dim=-1)
        q, k, v = (part.reshape(n, t, self.heads, d // self.heads).transpose(1, 2) for part in (q, k, v))
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        return self.mha.out_proj(a.transpose(1, 2).reshape(n, t, d))


def attention(rng: Any, shape: tuple[int, ...], p: float) -> Block:
    """Dropout on attention weights, on (steps, width)."""
    steps, width = shape
    heads = 2 if width % 2 == 0 and steps < 3 and rng.random() < 0.5 else 1
    module, rule = Attention(width, heads, p, str(rng.choice(["weights", "fast", "sdpa"]))), inverted(p)

    def reference(h: Any, masks: list[Any]) -> Any:
        w, b = array(module.mha.in_proj_weight, h), array(module.mha.in_proj_bias, h)
        parts = np.split(h @ w.T + b, 3, axis=-1)
        q, k, v = (
            part.reshape(*h.shape[:3], heads, -1).swapaxes(2, 3) for part in parts
        )  # (M, n, heads, steps, width)
        logits = q @ k.swapaxes(-1, -2) / np.sqrt(h.dtype.type(width // heads))
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights = rule(e / e.sum(axis=-1, keepdims=True), [shaped(h, m) for m in masks])
        joined = (weights @ v).swapaxes(2, 3).reshape(*h.shape[:2], steps, width)
        return linear(module.mha.out_proj)(joined)

    return Block(module, [Site((heads, steps, steps), p)], reference, shape)


class Careless(nn.Module):
    """Writes in forward, in the ways that real models do; every one must be as it was after a call."""

    def __init__(self, how: str, width: int) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Linear(width, width)
        self.register_buffer("calls", torch.zeros(()))
        self.started = False
        self.kept: Any = None

    def forward(self, h: Tensor) -> Tensor:
        if self.how == "renorm":
            with torch.no_grad():
                self.layer.weight.copy_(torch.renorm(self.layer.weight, 2, 0, 0.5))
        elif self.how == "data":
            self.layer.weight.data = torch.renorm(self.layer.weight.data, 2, 0, 0.5)
        elif self.how == "counter":
            self.calls.add_(1)
        elif self.how == "first call" and not self.started:
            with torch.no_grad():
                self.layer.bias.fill_(0.25)
            self.started = True
        elif self.how == "keeps":
            self.kept = h
        elif self.how == "late buffer" and "late" not in self._buffers:
            self.register_buffer("late", torch.ones(h.shape[-1], dtype=h.dtype))
        return torch.tanh(self.layer(h))


def careless(rng: Any, shape: tuple[int, ...], how: str) -> Block:
    module = Careless(how, shape[-1])

    def reference(h: Any, masks: list[Any]) -> Any:
        w, b = array(module.layer.weight, h), array(module.layer.bias, h)
        if how in ("renorm", "data"):
            norm = np.sqrt((w**2).sum(axis=1, keepdims=True))
            w = np.where(norm > 0.5, w * (h.dtype.type(0.5) / (norm + h.dtype.type(1e-7))), w)
        elif how == "first call":
            b = np.full_like(b, 0.25)
        return np.tanh(h @ w.T + b)

    return Block(module, [], reference, shape)


CARELESS = ("renorm", "data", "counter", "first call", "keeps", "late buffer")
FLAT = {"element": element, "twice": twice, "alpha": alpha, "path": path}
SEQUENCES = {"element": element, "channel": channel, "recurrent": recurrent, "attention": attention, "path": path}
