"""Removing units without the library: the net cut open at its dropout layers, and multiplied by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from truth import every_mask


class Multiply(nn.Module):
    """Stands where a dropout layer stood."""

    def __init__(self) -> None:
        super().__init__()
        self.by: Tensor = torch.ones(())
        self.seen: Tensor = torch.ones(())

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach()
        return x * self.by


def opened(net: nn.Sequential, index: int) -> Callable[..., Tensor]:
    """loss(reference, x, y, multipliers (units,)) of the net with its index-th module multiplied; others off."""
    clone = copy.deepcopy(net).eval()
    layer = Multiply()
    clone[index] = layer

    def loss(reference: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, by: Tensor) -> Tensor:
        layer.by = by
        return reference(clone(x), y).mean()

    loss.layer = layer  # type: ignore[attr-defined]
    return loss


def shapley(value: Callable[[Tensor], float], units: int) -> list[float]:
    """From the definition: every coalition of the others, with its weight."""
    masks, _ = every_mask([0.5] * units)
    table = {tuple(bits): value(torch.from_numpy(bits)) for bits in masks}
    found = []
    for j in range(units):
        total = 0.0
        for bits, loss in table.items():
            if bits[j] == 0.0:
                size = int(sum(bits))
                weight = math.factorial(size) * math.factorial(units - size - 1) / math.factorial(units)
                total += weight * (loss - table[(*bits[:j], 1.0, *bits[j + 1 :])])
        found.append(total)
    return found
