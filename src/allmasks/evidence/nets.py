"""Small nets, one a seed, trained side by side: every seed of an arm is one slice of a batched matrix product."""

from __future__ import annotations

import base64
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Arm", "as_module", "descend", "member_masks", "pack", "train", "unpack"]


@dataclass(frozen=True)
class Arm:
    """How nets are regularized: drop rate of both hidden layers, λ of λ‖w‖² and of λ‖w‖₁, masks a step.

    `member` is not −1 for one member of an ensemble of thinned nets: its mask is drawn once, before training.
    """

    name: str
    p: float = 0.0
    l2: float = 0.0
    l1: float = 0.0
    n_masks: int = 1
    member: int = -1

    def untreated(self) -> Arm:
        """The same arm with nothing switched on, but seeds of its own: what a null run trains."""
        return Arm(self.name, member=self.member)


def _seed(*parts: Any) -> int:
    """63 bits from names and numbers; the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def train(
    arm: Arm,
    x: Tensor,
    y: Tensor,
    held_out: Sequence[tuple[Tensor, Tensor]],
    *,
    classes: int,
    width: int,
    epochs: int,
    seeds: Sequence[int],
    own_seed: bool = False,
    learning_rate: float = 2e-3,
    batch: int = 32,
) -> dict[str, Any]:
    """Train one d-width-width-classes ReLU net a seed with Adam on the (dropped-out) cross-entropy.

    Parameters
    ----------
    x, y : (seeds, n, d) and (seeds, n) training rows of each seed. held_out : validation and test rows likewise.
    own_seed : initial weights and batches that no other arm has; otherwise arms share them, which pairs them.

    Returns
    -------
    dict of plain lists: losses and accuracies (seeds, checkpoints) in eval mode, `expected` E_m[L] on the training rows
    (16 masks), step losses, packed weights "early" (a tenth of training) and "final", and seconds a step.
    """
    s, n, d = x.shape
    sizes = [(d, width), (width, width), (width, classes)]
    shared = (arm.name, arm.member) if own_seed or arm.member >= 0 else ()
    parameters = _initial(sizes, seeds, shared)
    order = torch.Generator().manual_seed(_seed("order", tuple(seeds), *shared))
    masks = torch.Generator().manual_seed(_seed("masks", tuple(seeds), arm.name, arm.member))
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    fixed = member_masks(arm, seeds, width)
    steps_an_epoch = max(n // batch, 1)
    tenth = max(epochs // 10, 1)
    checkpoints = sorted({round(e) for e in np.geomspace(1, epochs, 28)} | {tenth})
    curves = _Curves(arm, seeds, width, {"train": (x, y), "validation": held_out[0], "test": held_out[1]}, fixed)
    step_losses: list[Tensor] = []
    early: list[Tensor] = []
    seconds = 0.0
    curves.add(parameters)
    for epoch in range(1, epochs + 1):
        began = time.perf_counter()
        shuffled = torch.rand(s, n, generator=order).argsort(dim=1)
        for step in range(steps_an_epoch):
            rows = shuffled[:, step * batch : (step + 1) * batch]
            xb = x.gather(1, rows[..., None].expand(-1, -1, d)).repeat(1, arm.n_masks, 1)
            yb = y.gather(1, rows).repeat(1, arm.n_masks)
            noise = _masks(arm.p, s, xb.shape[1], width, masks) if arm.p > 0 and fixed is None else fixed
            each = _loss(_forward(parameters, xb, noise), yb)
            descend(optimizer, each, parameters[0::2], arm, learning_rate)
            step_losses.append(each.detach())
        seconds += time.perf_counter() - began
        if epoch == tenth:
            early = [w.detach().clone() for w in parameters]
        if epoch in checkpoints:
            curves.add(parameters)
    steps = torch.stack(step_losses, 1)
    return {
        "epochs": [0, *checkpoints],
        "steps_an_epoch": steps_an_epoch,
        **{name: torch.stack(values, 1).double().tolist() for name, values in curves.seen.items()},
        "steps": steps[:, :: max(len(step_losses) // 200, 1)].double().tolist(),
        "last_steps_std": steps[:, -max(len(step_losses) // 5, 2) :].double().std(1).tolist(),
        "rises": (steps[:, 1:] > steps[:, :-1]).double().mean(1).tolist(),
        "sizes": [d, width, classes],
        "early": pack(early),
        "final": pack([w.detach() for w in parameters]),
        "seconds": seconds / (epochs * steps_an_epoch),
    }


def _initial(sizes: Sequence[tuple[int, int]], seeds: Sequence[int], shared: tuple[Any, ...]) -> list[Tensor]:
    """Weights and biases of each layer: He's for what a ReLU follows."""
    generator = torch.Generator().manual_seed(_seed("init", tuple(seeds), *shared))
    parameters: list[Tensor] = []
    for fan_in, fan_out in sizes:
        bound = math.sqrt((6 if fan_out == sizes[0][1] else 1) / fan_in)
        drawn = torch.rand(len(seeds), fan_in, fan_out, generator=generator)
        parameters.append(((2 * drawn - 1) * bound).requires_grad_())
        parameters.append(torch.zeros(len(seeds), 1, fan_out, requires_grad=True))
    return parameters


class _Curves:
    """Losses and accuracies (seeds,) of each part of the data at each look, and E_m[L] of the training rows."""

    def __init__(
        self,
        arm: Arm,
        seeds: Sequence[int],
        width: int,
        parts: Mapping[str, tuple[Tensor, Tensor]],
        fixed: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.parts, self.fixed = parts, fixed
        names = ("train", "train_accuracy", "expected", "validation", "validation_accuracy", "test", "test_accuracy")
        self.seen: dict[str, list[Tensor]] = {name: [] for name in names}
        s, n = parts["train"][1].shape
        reference = torch.Generator().manual_seed(_seed("expected", tuple(seeds)))
        sampled = arm.p > 0 and fixed is None
        self.expectation = [_masks(arm.p, s, n, width, reference) for _ in range(16)] if sampled else []

    @torch.no_grad()
    def add(self, parameters: Sequence[Tensor]) -> None:
        """Look at the nets as they are."""
        for part, (rows, labels) in self.parts.items():
            logits = _forward(parameters, rows, self.fixed)
            self.seen[part].append(_loss(logits, labels))
            self.seen[f"{part}_accuracy"].append((logits.argmax(-1) == labels).double().mean(1))
        x, y = self.parts["train"]
        expected = [_loss(_forward(parameters, x, m), y) for m in self.expectation] or [self.seen["train"][-1]]
        self.seen["expected"].append(torch.stack(expected).mean(0))


def descend(
    optimizer: torch.optim.Optimizer, each: Tensor, weights: Sequence[Tensor], arm: Arm, learning_rate: float
) -> None:
    """One step of Adam on (seeds,) losses with λ‖w‖², and of the proximal map of λ‖w‖₁."""
    loss = each.sum()
    if arm.l2 > 0:
        loss = loss + arm.l2 * sum((w**2).sum() for w in weights)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if arm.l1 > 0:
        with torch.no_grad():
            for w in weights:
                # The proximal step of λ‖w‖₁ makes weights exactly zero; a subgradient never would.
                w.copy_(torch.sign(w) * (w.abs() - learning_rate * arm.l1).clamp(min=0))


def member_masks(arm: Arm, seeds: Sequence[int], width: int) -> tuple[Tensor, Tensor] | None:
    """A member's masks for the whole of training, unscaled: each a net of its own, with fewer units; else None."""
    if arm.member < 0:
        return None
    generator = torch.Generator().manual_seed(_seed("masks", tuple(seeds), arm.name, arm.member))
    first, second = ((torch.rand(len(seeds), 1, width, generator=generator) >= arm.p).float() for _ in range(2))
    return first, second


def _masks(p: float, s: int, n: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    q = 1 - p
    first, second = ((torch.rand(s, n, width, generator=generator) < q).float().div_(q) for _ in range(2))
    return first, second


def _forward(parameters: Sequence[Tensor], x: Tensor, noise: tuple[Tensor, Tensor] | None) -> Tensor:
    h = x
    for layer in range(3):
        h = torch.baddbmm(parameters[2 * layer + 1], h, parameters[2 * layer])
        if layer < 2:
            h = h.relu()
            if noise is not None:
                h = h * noise[layer]
    return h


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """(seeds,) mean cross-entropy."""
    s, n, classes = logits.shape
    return F.cross_entropy(logits.reshape(s * n, classes), labels.reshape(-1), reduction="none").reshape(s, n).mean(1)


def pack(parameters: Sequence[Tensor]) -> str:
    """Weights as text, bit for bit."""
    flat = torch.cat([p.reshape(p.shape[0], -1) for p in parameters], dim=1)
    return base64.b64encode(flat.numpy().astype("<f4").tobytes()).decode()


def unpack(text: str, sizes: Sequence[int], n_seeds: int, i: int) -> list[Tensor]:
    """The i-th net's weights and biases, (in, out) and (out,)."""
    d, width, classes = sizes
    flat = np.frombuffer(base64.b64decode(text), "<f4").reshape(n_seeds, -1)[i]
    found, at = [], 0
    for rows, columns in ((d, width), (1, width), (width, width), (1, width), (width, classes), (1, classes)):
        found.append(torch.from_numpy(flat[at : at + rows * columns].reshape(rows, columns).copy()))
        at += rows * columns
    return found


def as_module(parameters: Sequence[Tensor], p: float) -> nn.Sequential:
    """The net as the torch module that anyone would write, in float64; its dropout sites are "2" and "5"."""
    w1, b1, w2, b2, w3, b3 = parameters
    layers = [nn.Linear(*w.shape) for w in (w1, w2, w3)]
    net = nn.Sequential(layers[0], nn.ReLU(), nn.Dropout(p), layers[1], nn.ReLU(), nn.Dropout(p), layers[2]).double()
    with torch.no_grad():
        for layer, weight, bias in zip(layers, (w1, w2, w3), (b1, b2, b3), strict=True):
            layer.weight.copy_(weight.T)
            layer.bias.copy_(bias[0])
    return net.eval()
