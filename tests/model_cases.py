"""Nets small enough to enumerate, and the truth found without the library: dropout layers replaced by fixed masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from truth import every_mask


class FixedMask(nn.Module):
    """Inverted dropout with a given mask."""

    def __init__(self, p: float, units: int) -> None:
        super().__init__()
        self.p, self.units = p, units
        self.mask: Tensor = torch.ones(units)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask.to(x) / (1 - self.p)


@dataclass(frozen=True)
class ModelCase:
    """A net of `nn.Dropout` layers over flat activations of known width, data, and a loss."""

    name: str
    build: Callable[[], nn.Module]
    widths: tuple[int, ...]
    x: Tensor
    y: Tensor
    loss: str
    reference: Callable[[Tensor, Tensor], Tensor]

    @property
    def bits(self) -> int:
        return sum(self.widths)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(build: Callable[[], nn.Module], seed: int = 0, scale: float = 1.0) -> nn.Module:
    """The module with weights from its own generator, in float64, not touching the global one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build().double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net


def squared(z: Tensor, y: Tensor) -> Tensor:
    return ((z - y) ** 2).sum(dim=1)


def logistic(z: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, y, reduction="none").sum(dim=1)


def poisson(z: Tensor, y: Tensor) -> Tensor:
    return (z.exp() - y * z).sum(dim=1)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def _x(d: int, n: int = 5) -> Tensor:
    return torch.randn(n, d, generator=generator(1), dtype=torch.float64)


_REAL = torch.randn(5, 1, generator=generator(2), dtype=torch.float64)
_REALS = torch.randn(5, 3, generator=generator(3), dtype=torch.float64)
_BINARY = torch.tensor([[0.0], [1.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
_COUNTS = torch.tensor([[0.0], [2.0], [1.0], [5.0], [3.0]], dtype=torch.float64)
_CLASSES = torch.tensor([0, 2, 1, 2, 0])


def _two_sites(outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, outputs)
    )


def _one_site_last(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, outputs))


def _one_site_first() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.25), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _case(name, build, scale, widths, x, y, loss, reference) -> ModelCase:
    return ModelCase(name, lambda: seeded(build, scale=scale), widths, x, y, loss, reference)


_TWO = _CLASSES % 2

CASES = [
    _case("two sites, squared", lambda: _two_sites(1), 1, (5, 4), _x(3), _REAL, "squared_error", squared),
    _case("two sites, three outputs", lambda: _two_sites(3), 1, (5, 4), _x(3), _REALS, "squared_error", squared),
    _case("two sites, logistic", lambda: _two_sites(1), 2, (5, 4), _x(3), _BINARY, "logistic", logistic),
    _case("two sites, classes", lambda: _two_sites(3), 2, (5, 4), _x(3), _CLASSES, "cross_entropy", cross_entropy),
    _case("two sites, poisson", lambda: _two_sites(1), 1, (5, 4), _x(3), _COUNTS, "poisson", poisson),
    _case("last site, squared", lambda: _one_site_last(3), 1, (6,), _x(3), _REALS, "squared_error", squared),
    _case("last site, logistic", lambda: _one_site_last(1), 3, (6,), _x(3), _BINARY, "logistic", logistic),
    _case("last site, two classes", lambda: _one_site_last(2), 3, (6,), _x(3), _TWO, "cross_entropy", cross_entropy),
    _case(
        "last site, three classes", lambda: _one_site_last(3), 1, (6,), _x(3), _CLASSES, "cross_entropy", cross_entropy
    ),
    _case("last site, poisson", lambda: _one_site_last(1), 1, (6,), _x(3), _COUNTS, "poisson", poisson),
    _case("first site, classes", _one_site_first, 1, (4,), _x(4), _CLASSES, "cross_entropy", cross_entropy),
]
"""Every pair of a structure and a loss that some method treats in its own way."""


def every_thinned(net: nn.Sequential, widths: Sequence[int]) -> Iterator[tuple[float, nn.Sequential]]:
    """Each mask's probability and the net under it: dropout layers of these widths replaced, the others shared."""
    sizes = iter(widths)
    layers = [FixedMask(layer.p, next(sizes)) if isinstance(layer, nn.Dropout) else layer for layer in net]
    fixed = [layer for layer in layers if isinstance(layer, FixedMask)]
    rates = [layer.p for layer in fixed for _ in range(layer.units)]
    for bits, probability in zip(*every_mask(rates), strict=True):
        for layer, mask in zip(fixed, torch.from_numpy(bits).split(list(widths)), strict=True):
            layer.mask = mask
        yield float(probability), nn.Sequential(*layers)


def brute_force(case: ModelCase, net: nn.Module) -> Tensor:
    """(n,) mean loss of each example over every mask, differentiable: the truth."""
    thinned = every_thinned(net, case.widths)  # type: ignore[arg-type]
    return sum(probability * case.reference(under(case.x), case.y) for probability, under in thinned)  # type: ignore[return-value]
