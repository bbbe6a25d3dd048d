"""Mean, spread and E_m[L] of a row against passes in training mode, and with one site left off, which must be seen."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import allmasks as am
from rows.judge import tensors

PASSES, MASKS, LIMIT = 2000, 2048, 4.5


class Scores(NamedTuple):
    """The largest |z| of means, of spreads, and of the mean loss."""

    mean: float
    spread: float
    loss: float

    @property
    def worst(self) -> float:
        return max(self)


class Main(nn.Module):
    """The first tensor of floats that a model returns, its axes after the example's made one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        found = next(t for t in tensors(self.model(*args, **kwargs)) if t.is_floating_point() and t.ndim)
        return found.flatten(1)


def passes(model: nn.Module, args: Any, kwargs: Any, seed: int, n: int = PASSES) -> Tensor:
    """(n, examples, outputs) in training mode; statistics of batches are not dropout and stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    with torch.random.fork_rng(), torch.no_grad():
        for seeds in (torch.manual_seed, random.seed, np.random.seed):
            seeds(seed)
        found = torch.stack([model(*args, **kwargs) for _ in range(n)]).double()
    model.eval()
    return found


def scores(model: nn.Module, args: Any, kwargs: Any, runs: Tensor, left: Any = (), masks: int = MASKS) -> Scores:
    """z of ours against theirs: of every output's mean and spread, and of every example's mean loss."""
    given = kwargs or args
    how: dict[str, Any] = {"n_masks": masks, "leave_off": left}
    ours = am.predict(model, given, task="regression", **how)
    n, scale = len(runs), 1e-6 * runs.abs().max()
    center, spread = runs.mean(dim=0), runs.std(dim=0)
    mean_z = ((ours.mean - center).abs() / ((spread**2 / n + ours.mean_error**2).sqrt() + scale)).max()
    fourth = ((runs - center) ** 4).mean(dim=0) / spread.clamp_min(1e-30) ** 4
    relative = ((fourth - 1).clamp_min(0) / 4).sqrt() * (1 / n + 1 / masks) ** 0.5
    spread_z = ((ours.std - spread).abs() / (spread * relative + scale)).max()
    loss = am.expected_loss(model, given, None, lambda output, _: (output.double() ** 2).mean(dim=1), **how)
    theirs = (runs**2).mean(dim=2)
    error = (theirs.var(dim=0) / n + loss.per_example_error.detach() ** 2).sqrt() + 1e-6 * theirs.abs().max()
    loss_z = ((loss.per_example.detach() - theirs.mean(dim=0)).abs() / error).max()
    return Scores(float(mean_z), float(spread_z), float(loss_z))


def main(rows: Iterable[Any], count: int, seed: int) -> None:
    """Hold `count` rows, spread over the table, and the planted error of each."""
    from importlib.util import find_spec

    rows = [case for case in rows if case.batch_dim is None and (not case.needs or find_spec(case.needs) is not None)]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    good = seen = 0
    for case in chosen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                inner, args, kwargs = case()
                model = Main(inner)
                sites = [s for s in am.find_dropout(model, *args, **kwargs) if s.p > 0]
                left = [s.name for s in sites if not s.controllable]
                if left:
                    print(f"{case.name}: refused, so it has no moments")
                    continue
                runs = passes(model, args, kwargs, seed)
                found = scores(model, args, kwargs, runs)
                planted = [
                    scores(model, args, kwargs, runs, s.name).worst
                    for s in random.Random(seed).sample(sites, min(2, len(sites)))
                ]
            except Exception as error:
                print(f"{case.name}: {type(error).__name__}: {error}", flush=True)
                continue
        good, seen = good + (found.worst < LIMIT), seen + (max(planted) > LIMIT)
        print(f"{case.name}: |z| mean {found.mean:.1f}, spread {found.spread:.1f}, loss {found.loss:.1f}; "
              f"one site left off: {max(planted):.1f}", flush=True)  # fmt: skip
    print(f"{len(chosen)} rows: {good} within {LIMIT}, the planted error seen in {seen}")
