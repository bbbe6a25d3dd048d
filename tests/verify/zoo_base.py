"""What the zoo is made of: entries, small nets, and copies of them that share parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

N, D, H = 16, 6, 24
Act = Callable[[Tensor, float, Any], Tensor]


@dataclass(frozen=True)
class Entry:
    """`fault` as `Finding.fault` has it, `says` what the sentence must hold, `site` where."""

    name: str
    fault: str
    make: Callable[[bool], dict[str, Any]]
    says: str = ""
    site: str | None = None
    slow: bool = False

    def __str__(self) -> str:
        return self.name


ZOO: list[Entry] = []


def entry(fault: str, says: str = "", site: str | None = None, slow: bool = False) -> Any:
    def add(make: Callable[[bool], dict[str, Any]]) -> Any:
        ZOO.append(Entry(make.__name__, fault, make, says, site, slow))
        return make

    return add


def data(*shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, *shape, generator=generator), torch.randint(0, classes, (N,), generator=generator)


def mlp(first: float = 0.3, second: float = 0.5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(D, H), nn.Tanh(), nn.Dropout(first), nn.Linear(H, H), nn.Tanh(), nn.Dropout(second), nn.Linear(H, 3)
    )


class Hand(nn.Module):
    """Dropout by hand: `act` makes of (x, p, module) what comes out in training."""

    def __init__(self, p: float, act: Callable[[Tensor, float, Any], Tensor]) -> None:
        super().__init__()
        self.p, self.act = p, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x, self.p, self) if self.training else x


def right(x: Tensor, p: float, module: Any) -> Tensor:
    return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)


def twin(model: nn.Module, **parts: nn.Module) -> nn.Module:
    """A copy that shares the parameters, with other modules in some places (`_2` is place 2)."""
    own = {id(t): t for t in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, own)
    for name, module in parts.items():
        made.set_submodule(name.lstrip("_"), module)
    return made.train()


def stepped(model: nn.Module, other: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """The right model, with a step by another one."""
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "step": lambda: F.cross_entropy(other(x), y)}


def by_hand(
    wrong: bool, act: Callable[[Tensor, float, Any], Tensor], place: str = "_5", p: float = 0.5
) -> dict[str, Any]:
    """The MLP, whose step has a hand-written dropout in one place."""
    model = mlp() if place == "_5" else mlp(first=p)
    return stepped(model, twin(model, **{place: Hand(p, act if wrong else right)}), *data(D))
