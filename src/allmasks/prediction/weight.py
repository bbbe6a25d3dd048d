"""How many masks carry an estimate: the weight of tails, from the influence of single masks.

Whatever is a smooth function of means over masks errs, to first order, by the mean of its influence φ(mask). Student's
interval for that mean is off by about .25 γ²/n in coverage at 95 % (γ the skewness of φ, n masks; Hall 1992, section
2.6), and a rare event of probability ε has γ² ≈ kurtosis ≈ 1/ε. So n / γ² and n / kurtosis count the masks that
matter: of n masks in which few decide, those few. They are far better known than the skewness of 32 replicates.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allmasks.prediction.task import Task

__all__ = ["FEWEST", "Weight", "influences"]

FEWEST = 12.0
"""Masks that matter, by n / γ², below which an error is not trusted: 2 % of coverage are lost there. By
n / kurtosis, which counts rare events of either sign but costs less coverage, a third as many."""

_FIRST = 64
"""Masks about whose mean influences are linearized: a fixed number, so that chunks change nothing."""


def influences(task: Task, reference: dict[str, Tensor], center: Tensor) -> dict[str, Callable[..., Tensor]]:
    """φ of each quantity up to a constant and a factor, as a function of one mask's features.

    Parameters
    ----------
    reference : means of the features (n, …) over the first masks, where φ is linearized.
    """
    first = reference["first"]

    def slope(f: dict[str, Tensor]) -> Tensor:
        # d/dp of −p log p, but for the −1 that a softmax's constant sum takes away.
        p = (first + center).clamp(1e-30, 1.0)
        if task.name == "binary":
            return f["first"] * ((1.0 - p).clamp(min=1e-30).log() - p.log())
        return -(f["first"] * p.log()).sum(dim=task.class_dim)

    found: dict[str, Callable[..., Tensor]] = {
        "mean": lambda f: f["first"],
        "std": lambda f: f["second"] - 2 * first * f["first"],
    }
    if task.classifies:
        found |= {
            "entropy": slope,
            "expected_entropy": lambda f: f["entropy"],
            "mutual_information": lambda f: slope(f) - f["entropy"],
        }
    return found


class Weight:
    """Power sums of the influences of sampled masks, in memory that does not grow with them.

    Parameters
    ----------
    build : means of the features over the first masks -> the influences.
    """

    def __init__(self, build: Callable[[dict[str, Tensor]], dict[str, Callable[..., Tensor]]]) -> None:
        self._build = build
        self._waiting: list[dict[str, Tensor]] = []
        self._functions: dict[str, Callable[..., Tensor]] | None = None
        self._shift: dict[str, Tensor] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._masks = 0

    def add(self, features: dict[str, Tensor]) -> None:
        """Take the features (k, n, …) of the next k masks."""
        if self._functions is not None:
            self._take(features)
            return
        self._waiting.append(features)
        if sum(len(next(iter(f.values()))) for f in self._waiting) >= _FIRST:
            self._start()

    def _start(self) -> None:
        joined = {name: torch.cat([f[name] for f in self._waiting]) for name in self._waiting[0]}
        reference = {name: values[:_FIRST].mean(dim=0) for name, values in joined.items()}
        self._functions, self._waiting = self._build(reference), []
        self._shift = {name: phi(reference) for name, phi in self._functions.items()}
        self._take(joined)

    def _take(self, features: dict[str, Tensor]) -> None:
        assert self._functions is not None
        self._masks += len(next(iter(features.values())))
        for name, phi in self._functions.items():
            value = phi(features) - self._shift[name]
            square = value * value
            powers = [value.sum(dim=0), square.sum(dim=0), (square * value).sum(dim=0), (square * square).sum(dim=0)]
            held = self._sums.get(name)
            self._sums[name] = powers if held is None else [a + b for a, b in zip(held, powers, strict=True)]

    def enough(self, name: str) -> Tensor:
        """Where enough masks matter for a quantity; also where nothing varies at all."""
        if self._functions is None:
            self._start()
        n = float(self._masks)
        m1, m2, m3, m4 = (total / n for total in self._sums[name])
        variance = (m2 - m1**2).clamp(min=0)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        return (n * variance**3 >= FEWEST * third**2) & (n * variance**2 >= FEWEST / 3 * fourth)
