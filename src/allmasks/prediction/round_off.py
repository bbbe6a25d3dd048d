"""What the model's own arithmetic may be off by, carried from its outputs to predictions, entropies and likelihoods.

Each output may be off by 16 units in the last place, of its dtype, of what it is and of what it is in eval mode (of
what the last Linear adds up there, where that is known): under a mask in which large terms cancel, an output's own last
place says little. `expected_loss` has the same allowance (docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allmasks.prediction.task import Task

__all__ = ["ULPS", "Fit", "at_center", "carried", "fit", "of_quantity"]

ULPS = 16.0
_OWN = 2.0**-52
_LARGEST = 700.0
_LEAST = 2.0**-1000
"""Below it a square, or a product of a few factors, may have become 0."""


def allowance(task: Task, output: Tensor, size: Tensor) -> Tensor:
    """How far each output (…, n, *rest) may be off, float64; `size` (n, *rest) is its magnitude in eval mode."""
    total = output.double().abs() + size
    if task.name == "multiclass" and not task.already:
        # A softmax compares: what moves one class matters to all.
        total = total.amax(dim=task.class_dim, keepdim=True).expand_as(total)
    return ULPS * torch.finfo(output.dtype).eps * total


def _grown(exponent: Tensor) -> Tensor:
    return exponent.clamp(max=_LARGEST).exp()


def _moved(task: Task, value: Tensor, off: Tensor) -> Tensor:
    """How far a prediction moves where its outputs are off by `off`."""
    if not task.classifies or task.already:
        return off + 4 * _OWN * value.abs()
    # |d log σ(z)/dz| = 1 − σ; of a softmax, with all outputs off, twice that; and 1 − σ itself may grow e^off-fold.
    reach = (1.0 if task.name == "binary" else 2.0) * off
    away = (1.0 - value).clamp(min=0.0) * reach * _grown(reach)
    return (value * torch.expm1(torch.minimum(away, reach).clamp(max=_LARGEST))).clamp(max=1.0) + 8 * _OWN * value


def moved_entropy(task: Task, value: Tensor, off: Tensor) -> Tensor:
    """How far −p log p of probabilities that are off by `off` moves, summed over classes (binary: both sides)."""
    slope = 1.0 + torch.maximum(value, off).clamp(1e-320, 1.0).log().abs()
    if task.name == "binary":
        other = 1.0 + torch.maximum(1.0 - value, off).clamp(1e-320, 1.0).log().abs()
        return 2 * off * (slope + other)
    return (2 * off * slope).sum(dim=task.class_dim)


def carried(
    task: Task, output: Tensor, value: Tensor, entropy: Tensor | None, center: Tensor, size: Tensor
) -> dict[str, Tensor]:
    """Bounds of what each feature of `features` may be off by, under each mask."""
    off = allowance(task, output, size)
    moved = _moved(task, value, off) + 2 * _OWN * center.abs()
    deviation = (value - center).abs()
    found = {"first": moved, "second": 2 * deviation * moved + moved**2}
    if entropy is not None:
        if task.already:
            found["entropy"] = moved_entropy(task, value, moved)
        else:
            # |dH/dt| ≤ H · reach along any such change of the outputs.
            reach = off if task.name == "binary" else 2.0 * off.select(task.class_dim, 0)
            found["entropy"] = entropy * torch.expm1(reach.clamp(max=_LARGEST)) + 16 * _OWN * entropy
    return found


@dataclass(frozen=True)
class Fit:
    """(…, n) log-likelihoods, and the least and largest they may be."""

    log: Tensor
    low: Tensor
    high: Tensor

    def flattened(self) -> Fit:
        """(k, j, n) as (k j, n)."""
        return Fit(*(logs.flatten(end_dim=1) for logs in (self.log, self.low, self.high)))


def fit(task: Task, output: Tensor, target: Tensor, precision: float | None, size: Tensor) -> Fit:
    """log p(y | output) for outputs (…, n, *rest), summed over the rest, and its bounds."""
    off, z = allowance(task, output, size), output.double()
    log = task.log_likelihoods(output, target, precision)
    if task.name == "regression":
        assert precision is not None
        moved = precision * off * ((z - target.double()).abs() + off / 2)
        low, high = log - moved, log + moved
    elif task.already:
        chance = log.exp()
        mine = off if task.name == "binary" else task.of_target(off, target)
        low, high = (chance - mine).clamp(min=0.0).log(), (chance + mine).log()
    else:
        reach = off if task.name == "binary" else 2.0 * off.select(task.class_dim, 0)
        moved = torch.minimum(reach, -torch.expm1(log) * reach * _grown(reach))
        low, high = log - moved, log + moved
    own = 8 * _OWN * torch.where(log.isfinite(), log.abs(), 0.0)
    lead = z.ndim - size.ndim
    return Fit(*(_summed(logs, lead) for logs in (log, low - own, high + own)))


def _summed(terms: Tensor, lead: int) -> Tensor:
    return terms.flatten(start_dim=lead + 1).sum(dim=-1) if terms.ndim > lead + 1 else terms


def of_quantity(
    name: str,
    task: Task,
    means: dict[str, Tensor],
    center: Tensor,
    errors: dict[str, Tensor],
    value: Tensor,
    sums: float,
) -> Tensor:
    """What a quantity is off by where features' means are off by `errors`, and our sums by `sums` of their terms."""
    spread = means["second"].clamp(min=0.0).sqrt()
    first = errors["first"] + sums * spread + 2 * _OWN * (center.abs() + spread) + _LEAST
    if name == "mean":
        return first
    if name == "std":
        off = errors["second"] + 2 * means["first"].abs() * first + 2 * sums * means["second"] + _LEAST
        # s² is off by that much: s by that over s, and by no more than its root.
        return torch.minimum(off.sqrt(), off / value.clamp(min=1e-300))
    of_mean = moved_entropy(task, (means["first"] + center).clamp(0.0, 1.0), first)
    if name == "entropy":
        return of_mean
    of_each = errors["entropy"] + sums * means["entropy"].abs() + _LEAST
    return of_each if name == "expected_entropy" else of_mean + of_each


def at_center(
    task: Task, dtype: torch.dtype, means: dict[str, Tensor], center: Tensor, size: Tensor
) -> dict[str, Tensor]:
    """`carried` in the mean over sampled masks, from the outputs' size in eval mode and the predictions' spread.

    Beside a standard error a first-order allowance is enough.
    """
    off = 2 * ULPS * torch.finfo(dtype).eps * size
    if task.name == "multiclass" and not task.already:
        off = off.amax(dim=task.class_dim, keepdim=True).expand_as(off)
    spread = means["second"].clamp(min=0.0).sqrt()
    moved = off + 2 * ULPS * torch.finfo(dtype).eps * spread
    if task.classifies and not task.already:
        moved = 2 * off * (center * (1 - center) + spread)
    moved = moved + 8 * _OWN * center.abs()
    found = {"first": moved, "second": 2 * spread * moved + moved**2}
    if "entropy" in means:
        reach = off.amax(dim=task.class_dim) if task.name == "multiclass" else off
        found["entropy"] = (2 * reach + 16 * _OWN) * means["entropy"].abs()
    return found
