"""Random small nets of one to three dropout sites, the same in torch and in NumPy, and every mask of theirs."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attacks import blocks
from attacks.blocks import CARELESS, FLAT, SEQUENCES, Block
from attacks.scores_truth import LONG

MOST_BITS = 10


@dataclass(frozen=True)
class Spec:
    """What decides a net: the shape of an example, the steps (kind, number), outputs, dtype, size of the weights."""

    shape: tuple[int, ...]
    steps: tuple[tuple[str, float], ...]
    outputs: int
    dtype: str
    scale: float
    seed: int
    rows: int
    returns: str
    mode: str


class Net(nn.Module):
    def __init__(self, parts: list[nn.Module], returns: str) -> None:
        super().__init__()
        self.parts, self.returns = nn.ModuleList(parts), returns

    def forward(self, h: Tensor) -> Any:
        for part in self.parts:
            h = part(h)
        return (h, h.detach()) if self.returns == "tuple" else h


@dataclass
class Built:
    """A net in torch and its twin: `outputs` runs the twin under all masks at once."""

    net: nn.Module
    parts: list[Block]
    x: Tensor

    @property
    def sites(self) -> list[blocks.Site]:
        return [site for part in self.parts for site in part.sites]

    def masks(self, mean: bool = False) -> tuple[list[list[Any]], Any]:
        """Every mask of one example, part by part and site by site, and their probabilities in extended precision."""
        bits = sum(site.bits for site in self.sites)
        table = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
        chance, at, masks = np.ones(len(table), LONG), 0, []
        for part in self.parts:
            own = []
            for site in part.sites:
                columns = table[:, at : at + site.bits]
                at += site.bits
                if site.bits:
                    p = LONG(site.p)
                    chance = chance * np.where(columns == 1, 1 - p, p).prod(axis=1)
                    own.append(columns.reshape(len(table), *site.shape))
                else:
                    own.append(np.ones((len(table), *site.shape), int))
            masks.append(own)
        return masks, chance

    def outputs(self, masks: list[list[Any]], dtype: Any) -> Any:
        """(M, n, …) outputs under masks, in the arithmetic of a dtype."""
        size = next((len(m) for own in masks for m in own), 1)
        h = np.broadcast_to(self.x.numpy().astype(dtype), (size, *self.x.shape))
        with np.errstate(all="ignore"):
            for part, own in zip(self.parts, masks, strict=True):
                h = part.reference(h, own)
        return h


def draw(rng: np.random.Generator, *, plain: bool = False) -> Spec:
    """A spec whose masks can be listed."""
    while True:
        spec = _draw(rng, plain)
        if 0 < sum(site.bits for site in build(spec).sites) <= MOST_BITS:
            return spec


def _draw(rng: np.random.Generator, plain: bool) -> Spec:
    sequence = rng.random() < 0.4
    shape = (int(rng.integers(2, 4)), int(rng.choice([2, 3, 4]))) if sequence else (int(rng.integers(1, 5)),)
    steps: list[tuple[str, float]] = []
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.6:
            steps.append((str(rng.choice(["tanh", "relu", "sigmoid", "none"])), float(rng.integers(1, 5))))
        kinds = SEQUENCES if sequence else FLAT
        rate = float(
            rng.choice([0.1, 0.3, 0.5, 0.75] if plain else [0.0, 1e-6, 1e-3, 0.1, 0.3, 0.5, 0.5, 0.9, 0.99, 0.999])
        )
        chance = [0.5 if kind == "element" else 0.5 / (len(kinds) - 1) for kind in kinds]
        steps.append((str(rng.choice(list(kinds), p=chance)), rate))
        if sequence and rng.random() < 0.5:
            steps.append(("flatten", 0.0))
            sequence = False
    if not plain and rng.random() < 0.1:
        steps.insert(int(rng.integers(len(steps))), (str(rng.choice(CARELESS)), 0.0))
    last = float(rng.random() < 0.8)
    if sequence:
        steps.append(("flatten", 0.0))
    steps.append(("head", last))
    dtype = "float64" if plain or rng.random() < 0.75 else "float32"
    if (
        dtype == "float32"
    ):  # there alpha dropout's own constants cancel at high rates: a matter of the model's arithmetic
        steps = [(kind, min(rate, 0.5) if kind == "alpha" else rate) for kind, rate in steps]
    scale = float(rng.choice([1.0, 2.0] if plain else [0.3, 1.0, 1.0, 3.0, 10.0]))
    returns = "tuple" if not plain and rng.random() < 0.1 else "tensor"
    return Spec(
        shape, tuple(steps), int(rng.integers(1, 4)), dtype, scale, int(rng.integers(2**31)), int(rng.integers(1, 4)),
        returns, str(rng.choice(["train", "eval", "mixed"])),
    )  # fmt: skip


def build(spec: Spec) -> Built:
    """The net of a spec, in its mode, not touching torch's generator."""
    shape, parts = spec.shape, []
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        for number, (kind, value) in enumerate(spec.steps):
            rng = np.random.default_rng([spec.seed, number])
            if kind in blocks.ACTIVATIONS:
                part = blocks.dense(rng, shape, int(value), kind)
            elif kind == "head":
                part = blocks.dense(rng, shape, spec.outputs, "none")
            elif kind == "flatten":
                part = blocks.flatten(shape)
            elif kind in CARELESS:
                part = blocks.careless(rng, shape, kind)
            else:
                part = {**FLAT, **SEQUENCES}[kind](rng, shape, value)
            shape = part.out
            parts.append(part)
        net = Net([part.module for part in parts], spec.returns).to(getattr(torch, spec.dtype))
        x = torch.randn(spec.rows, *spec.shape, dtype=getattr(torch, spec.dtype))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(spec.scale)
    net.train(spec.mode == "train")
    if spec.mode == "mixed":
        for number, module in enumerate(net.modules()):
            module.training = number % 2 == 0
    return Built(net, parts, x)


def smaller(spec: Spec) -> list[Spec]:
    """Specs with one thing less; those that make no net are left to whoever tries them."""
    found = [replace(spec, steps=spec.steps[:i] + spec.steps[i + 1 :]) for i in range(len(spec.steps) - 1)]
    if spec.rows > 1:
        found.append(replace(spec, rows=1))
    if spec.outputs > 1:
        found.append(replace(spec, outputs=spec.outputs - 1))
    for change in ({"scale": 1.0}, {"returns": "tensor"}, {"mode": "eval"}, {"dtype": "float64"}):
        if replace(spec, **change) != spec:
            found.append(replace(spec, **change))
    return found


def state(net: nn.Module) -> dict[str, Any]:
    """All that a call must leave as it was."""
    return {
        "parameters": {name: value.detach().clone() for name, value in net.named_parameters()},
        "buffers": {name: value.clone() for name, value in net.named_buffers()},
        "gradients": {name: None if v.grad is None else v.grad.clone() for name, v in net.named_parameters()},
        "needs grad": {name: value.requires_grad for name, value in net.named_parameters()},
        "flags": {name: module.training for name, module in net.named_modules()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in net.named_modules()},
        "torch's generator": torch.get_rng_state(),
        "NumPy's generator": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }


def put_back(net: nn.Module, before: dict[str, Any]) -> None:
    """Parameters as they were, where they are not: the twin reads them."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not torch.equal(parameter, before["parameters"][name]):
                parameter.copy_(before["parameters"][name])


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two states, by name."""
    return [name for name in before if not _same(before[name], after[name])]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def output(net: nn.Module, x: Tensor) -> Tensor:
    """What a copy of the net answers in eval mode; the net itself is not run."""
    clone = copy.deepcopy(net).eval()
    for module in clone.modules():  # dropout that is always on would answer at random
        if isinstance(module, blocks.Functional):
            module.p = 0.0
    with torch.no_grad():
        result = clone(x.clone())
    return result[0] if isinstance(result, tuple) else result
