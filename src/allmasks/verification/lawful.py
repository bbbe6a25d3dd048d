"""What a right step's loss and gradient are over masks: draws of both from the library's own E_m[L], masks by key.

A mask of the core, drawn by itself, gives the loss of a right step: one draw of the very law that the step's passes
must
follow. Blocks of them come with their gradient. Nothing here is computed another way than `expected_loss` computes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from allmasks.expect import Expectation
from allmasks.methods.options import Sites
from allmasks.over_masks.passes import Solution, solve
from allmasks.over_masks.sources import SampledMasks
from allmasks.samplers import Independent
from allmasks.verification.steps import project

__all__ = ["Law", "Lawful", "directions_of"]

Direction = list[Tensor | None]


@dataclass(frozen=True)
class Lawful:
    """Draws of the batch loss under independent masks, (n,), and block means of gradients (blocks, directions)."""

    losses: np.ndarray
    along: np.ndarray
    value: float
    error: float
    spread: float
    """Standard deviation of the batch loss over masks; of independent examples, the root of Σ wᵢ² Var(Lᵢ)."""


class Law:
    """The law of a model's loss on a batch."""

    def __init__(self, problem: Expectation, seed: int, autocast: tuple[str, torch.dtype] | None) -> None:
        self.problem, self.seed, self._autocast = problem, seed, autocast

    def alike(self) -> AbstractContextManager[object]:
        """The autocast that the step computes under."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self._autocast[0], dtype=self._autocast[1])

    def _solved(
        self, n_masks: int, part: str, first: int = 0, *, grad: bool = False, sites: Sites | None = None
    ) -> Solution:
        """Losses under masks number `first` on of this part's seed, every one drawn and none integrated."""
        word = hashlib.blake2b(f"verify {self.seed} {part}".encode(), digest_size=8).digest()
        sites = self.problem.look.random_sites if sites is None else sites
        self.problem.look.refuse_stuck(sites)
        source = SampledMasks(sites, Independent(), n_masks, int.from_bytes(word, "little"), first)
        with self.alike():
            return solve(self.problem.job(source, self.problem.plain(sites, proven=False), grad=grad))

    def _gradient_of(self, solution: Solution, parameters: Sequence[Tensor]) -> Direction | None:
        value = (self.problem.weight * solution.per_example).sum()
        if not value.requires_grad:
            return None
        with self.alike():
            return list(torch.autograd.grad(value, parameters, allow_unused=True))

    def draws(
        self, n: int, blocks: int, each: int, directions: Sequence[Direction], parameters: Sequence[Tensor]
    ) -> Lawful:
        """n draws of the loss at least; the first `blocks` blocks of `each` with their mean gradient."""
        losses: list[float] = []
        along = []
        for block in range(blocks if parameters and directions else 0):
            with torch.enable_grad():
                solution = self._solved(each, "blocks", block * each, grad=True)
                gradient = self._gradient_of(solution, parameters)
            assert solution.totals is not None
            losses += solution.totals.tolist()
            if gradient is None:
                break
            along.append(project(gradient, directions))
        rest = max(n - len(losses), 32)
        with torch.no_grad():
            solution = self._solved(rest, "losses")
        assert solution.totals is not None
        losses += solution.totals.tolist()
        values = np.asarray(losses)
        spread = float(values.std(ddof=1))
        if all(site.batch_dim is not None for site in self.problem.look.random_sites):
            variance = solution.per_example_error.double().nan_to_num() ** 2 * rest
            spread = float((self.problem.weight**2 * variance).sum()) ** 0.5
        error = float(values.std(ddof=1)) / len(values) ** 0.5
        return Lawful(values, np.asarray(along), float(values.mean()), error, spread)

    def gradient(self, n_masks: int, parameters: Sequence[Tensor]) -> Direction | None:
        """∇E_m[L] of a pilot, whose masks no test uses."""
        with torch.enable_grad():
            return self._gradient_of(self._solved(n_masks, "pilot", grad=True), parameters)

    def at_rates(self, rates: dict[str, float], n_masks: int, only: frozenset[str] | None = None) -> np.ndarray:
        """(n_masks,) draws of the loss if some sites had these rates, on masks that are alike where rates are."""
        sites = tuple(
            replace(site, p=rates.get(site.name, site.p))
            for site in self.problem.look.random_sites
            if only is None or site.name in only
        )
        if not sites:
            return np.full(n_masks, float((self.problem.weight * self.problem.weight_scaling).sum()))
        with torch.no_grad():
            solution = self._solved(n_masks, "rates", sites=sites)
        assert solution.totals is not None
        return np.asarray(solution.totals.tolist())


def directions_of(
    law: Law, parameters: Sequence[Tensor], seed: int, at_mean: Direction | None, n_masks: int
) -> list[Direction]:
    """Directions to test gradients along: ∇E_m[L], what masks add to it, that layer by layer, and two random ones."""
    pilot = law.gradient(n_masks, parameters)
    if pilot is None or all(g is None for g in pilot):
        return []
    directions: list[Direction] = [pilot]
    if at_mean is not None:
        added: Direction = [
            None if g is None else g - (0 if m is None else m) for g, m in zip(pilot, at_mean, strict=True)
        ]
        directions.append(added)
        groups = np.array_split(np.arange(len(parameters)), min(8, len(parameters)))
        if len(groups) > 1:
            directions += [
                [added[i] if i in set(group.tolist()) else None for i in range(len(added))] for group in groups
            ]
    generator = torch.Generator().manual_seed(seed % 2**63)
    for _ in range(2):
        directions.append(
            [
                None
                if g is None
                else torch.randn(g.shape, generator=generator).to(g) * g.double().square().mean().sqrt().to(g)
                for g in pilot
            ]
        )
    return [d for d in directions if any(part is not None and bool((part != 0).any()) for part in d)]
