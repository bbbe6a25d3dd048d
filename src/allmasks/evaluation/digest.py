"""What the predictions of a batch under each mask come to, so that they need not be kept: a regression's scores.

Of an entry with prediction f under a mask, target y and noise σ² = 1/τ, by replicates of the masks: E f and E f²,
log E N(y; f, σ²), E Φ((y − f)/σ), E|Y − y|; and for the CRPS the mean |Y − Y'| over pairs of independent masks, in all
and with each replicate left out. Y is the prediction itself ("ensemble") or N(f, σ²) ("mixture").

Cost, an entry and K masks: K log K for the ensemble's pairs, by sorting; 16 K evaluations of the normal distribution
for the mixture's, each mask paired with those of 16 other blocks (all of them where that is no more); 7 K a quantile,
of at most 256 masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri
from torch import Tensor

from allmasks.prediction.task import Task
from allmasks.replicates import grouped_sizes

__all__ = ["LEVELS", "LabelDigest", "SampleDigest", "normal_distance"]

Floats = NDArray[np.float64]

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Central intervals whose coverage and width are reported."""

_SHIFTS = 16
_CHUNK = 2**21
_QUANTILE_MASKS = 256


def normal_distance(d: Any, s: float) -> Any:
    """E|d + s Z| of a standard normal Z; |d| for s = 0.

    >>> round(float(normal_distance(0.0, 1.0)), 6), float(normal_distance(-2.0, 0.0))
    (0.797885, 2.0)
    """
    if s == 0:
        return np.abs(d)
    z = np.asarray(d) / s
    return s * (z * (2 * ndtr(z) - 1) + math.sqrt(2 / math.pi) * np.exp(-z * z / 2))


@dataclass(frozen=True)
class LabelDigest:
    """Keeps the targets that came with the data."""

    ignore_index: int
    each_mask: bool = False

    def checked(self, task: Task, y: Any, output: Tensor) -> Tensor:
        target = torch.as_tensor(y, device=output.device)
        skipped = target == self.ignore_index
        if task.name == "multiclass" and not target.is_floating_point() and bool(skipped.any()):
            task.check_target(torch.where(skipped, 0, target), output)
            return target
        return task.check_target(target, output)

    def __call__(
        self, y: Tensor | None, center: Tensor, samples: Tensor | None, weight: Tensor, blocks: Any
    ) -> dict[str, Tensor]:
        return {} if y is None else {"y": y}


@dataclass(frozen=True)
class SampleDigest:
    """A regression's scores.

    Parameters
    ----------
    precision : τ. mixture : whether the CRPS is that of N(f, 1/τ), or of the predictions alone.
    """

    precision: float
    mixture: bool
    each_mask: bool = True

    def checked(self, task: Task, y: Any, output: Tensor) -> Tensor:
        return task.check_target(y, output)

    def __call__(
        self, y: Tensor | None, center: Tensor, samples: Tensor | None, weight: Tensor, blocks: Any
    ) -> dict[str, Tensor]:
        assert y is not None
        if samples is None:
            # No mask varies.
            samples, weight = center[:, None], torch.ones(1, dtype=torch.float64)
        n, k = samples.shape[:2]
        f = samples.movedim(1, -1).reshape(-1, k).double().cpu().numpy()
        target = y.reshape(-1).double().cpu().numpy()
        share = weight.double().cpu().numpy()
        step = max(1, _CHUNK // k)
        parts = [
            self._scores(f[lo : lo + step], target[lo : lo + step], share, blocks) for lo in range(0, len(f), step)
        ]
        found = {"y": y}
        for name in parts[0]:
            values = torch.from_numpy(np.concatenate([part[name] for part in parts]))
            found[name] = values.reshape(n, -1, *values.shape[1:])
        return found

    def _scores(self, f: Floats, y: Floats, weight: Floats, blocks: Any) -> dict[str, Floats]:
        sigma = self.precision**-0.5
        own = sigma if self.mixture else 0.0
        sizes = np.array([len(weight)]) if blocks is None else grouped_sizes(blocks)
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def means(values: Floats) -> Floats:
            if blocks is None:
                return (values @ weight)[:, None]
            return np.add.reduceat(values, starts, axis=1) / sizes

        z = (y[:, None] - f) / sigma
        found = {
            "mean": means(f),
            "square": means(f**2),
            "pit": means(ndtr(z)),
            "distance": means(normal_distance(f - y[:, None], own)),
            "density": _log_means(-z * z / 2, starts, sizes, weight if blocks is None else None)
            - math.log(sigma)
            - 0.5 * math.log(2 * math.pi),
        }
        spread, without = (
            (_every_pair(f, weight, own), None) if blocks is None else _pairs(f, np.asarray(blocks), sizes, own)
        )
        found["spread"] = spread
        found["own_spread"] = np.full(len(f), normal_distance(0.0, own * math.sqrt(2)))
        if without is not None:
            found["spread_without"] = without
        return found | self._widths(f, weight, starts if blocks is not None else None, sizes, sigma)

    def _widths(self, f: Floats, weight: Floats, starts: Any, sizes: Any, sigma: float) -> dict[str, Floats]:
        """Widths (N, levels) of central intervals of the mixture, and (N, levels, r) what each replicate does to them.

        With other shares w of the replicates a quantile q moves by −Σ wᵣ (Fᵣ(q) − F(q)) / f(q), to first order.
        """
        stride = max(1, len(weight) // _QUANTILE_MASKS)
        if starts is None or len(sizes) < 2 or (stride > 1 and (sizes < stride).any()):
            stride = 1 if starts is None else stride
        some, share = f[:, ::stride], weight[::stride] / weight[::stride].sum()
        owner = np.repeat(np.arange(len(sizes)), sizes)[::stride]
        center = some @ share
        scale = np.sqrt((some - center[:, None]) ** 2 @ share + sigma**2)
        widths, moves = [], []
        for level in LEVELS:
            ends, shifts = [], []
            for tail in ((1 - level) / 2, (1 + level) / 2):
                q = _quantile(some, share, sigma, tail, center + scale * ndtri(tail))
                ends.append(q)
                if starts is not None and len(sizes) > 1:
                    z = (q[:, None] - some) / sigma
                    slope = np.exp(-z * z / 2) @ share / (sigma * math.sqrt(2 * math.pi))
                    below = ndtr(z)
                    counts = np.bincount(owner, minlength=len(sizes))
                    by = np.stack([below[:, owner == r].sum(axis=1) for r in range(len(sizes))], axis=1)
                    by = by / np.maximum(counts, 1) - tail
                    shifts.append(np.where(counts > 0, by, 0.0) / slope[:, None])
            widths.append(ends[1] - ends[0])
            if shifts:
                moves.append(shifts[1] - shifts[0])
        found = {"width": np.stack(widths, axis=1)}
        if moves:
            found["width_shift"] = np.stack(moves, axis=1).astype(np.float32)
        return found


def _quantile(f: Floats, share: Floats, sigma: float, tail: float, q: Floats) -> Floats:
    """Quantile of the mixture of N(f, σ²): Newton's steps in a bracket that halves where they leave it."""
    reach = sigma * abs(float(ndtri(tail)))
    low, high = f.min(axis=1) - reach, f.max(axis=1) + reach
    for _ in range(60):
        z = (q[:, None] - f) / sigma
        excess = ndtr(z) @ share - tail
        slope = np.exp(-z * z / 2) @ share / (sigma * math.sqrt(2 * math.pi))
        low, high = np.where(excess < 0, q, low), np.where(excess > 0, q, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = q - excess / slope
        step = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        done = np.abs(step - q).max() <= 1e-12 * (np.abs(q).max() + sigma)
        q = step
        if done:
            break
    return q


def _log_means(logs: Floats, starts: Any, sizes: Any, weight: Floats | None) -> Floats:
    if weight is not None:
        return np.asarray(logsumexp(logs, axis=1, b=weight))[:, None]
    top = np.maximum.reduceat(logs, starts, axis=1)
    raised = np.exp(logs - np.repeat(top, sizes, axis=1))
    return top + np.log(np.add.reduceat(raised, starts, axis=1) / sizes)


def _every_pair(f: Floats, weight: Floats, own: float) -> Floats:
    """E|Y − Y'| over all pairs of the masks, each with its weight."""
    if own == 0:
        order = np.argsort(f, axis=1)
        x, w = np.take_along_axis(f, order, axis=1), weight[order]
        below = np.cumsum(w, axis=1)
        # ∫ 2 F (1 − F) over the steps of the distribution function.
        return 2 * (np.diff(x, axis=1) * below[:, :-1] * (1 - below[:, :-1])).sum(axis=1)
    total = np.zeros(len(f))
    for k in range(len(weight)):
        total += weight[k] * (normal_distance(f - f[:, k : k + 1], own * math.sqrt(2)) @ weight)
    return total


def _row_sums(f: Floats) -> Floats:
    """(…, K) Σ |f_k − f_j| over j."""
    k = f.shape[-1]
    order = np.argsort(f, axis=-1)
    x = np.take_along_axis(f, order, axis=-1)
    before = np.cumsum(x, axis=-1) - x
    ranks = np.arange(k)
    rows = x * ranks - before + (x.sum(axis=-1, keepdims=True) - before - x) - x * (k - 1 - ranks)
    out = np.empty_like(f)
    np.put_along_axis(out, order, rows, axis=-1)
    return out


def _pairs(f: Floats, blocks: Any, sizes: Any, own: float) -> tuple[Floats, Floats | None]:
    """Mean |Y − Y'| over pairs of masks of different blocks, and (N, r) with each replicate left out."""
    n = len(f)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    if len(blocks) < 2:
        return np.full(n, math.nan), None
    if own == 0:
        total, rows, inside, counts, count_rows, count_inside = _sorted_pairs(f, blocks, sizes, starts)
    else:
        total, rows, inside, counts, count_rows, count_inside = _shifted_pairs(f, blocks, sizes, starts, own)
    whole = total / counts
    if len(sizes) < 3:
        return whole, np.full((n, len(sizes)), math.nan) if len(sizes) > 1 else None
    left = counts - 2 * count_rows + count_inside
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (total[:, None] - 2 * rows + inside) / left
    return whole, np.maximum(without, 0.0)


def _sorted_pairs(f: Floats, blocks: Any, sizes: Any, starts: Any) -> tuple[Any, ...]:
    """Ordered pairs: in all, with one end in each replicate, with both; and their numbers. Pairs of a block are out."""
    n, block = len(f), int(blocks[0])
    rows = np.add.reduceat(_row_sums(f), starts, axis=1)
    inside = np.stack([_row_sums(f[:, a : a + s]).sum(axis=1) for a, s in zip(starts, sizes, strict=True)], axis=1)
    same = np.zeros_like(f)
    if block > 1:
        whole = len(blocks) * block if blocks[-1] == block else (len(blocks) - 1) * block
        same[:, :whole] = _row_sums(f[:, :whole].reshape(n, -1, block)).reshape(n, whole)
        if whole < f.shape[1]:
            same[:, whole:] = _row_sums(f[:, whole:])
    of_blocks = np.add.reduceat(same, starts, axis=1)
    squares = np.array([float(b.astype(float) @ b) for b in np.split(blocks, _block_cuts(blocks, sizes))])
    total = rows.sum(axis=1) - of_blocks.sum(axis=1)
    k = f.shape[1]
    # One end in r and the other in no block of its own.
    return total, rows - of_blocks, inside - of_blocks, k * k - squares.sum(), sizes * k - squares, sizes**2 - squares


def _block_cuts(blocks: Any, sizes: Any) -> Any:
    return np.searchsorted(np.cumsum(blocks), np.cumsum(sizes)[:-1]) + 1


def _shifted_pairs(f: Floats, blocks: Any, sizes: Any, starts: Any, own: float) -> tuple[Any, ...]:
    n, k = f.shape
    block = int(blocks[0])
    most = (len(blocks) - 1) // 2 if len(blocks) > 2 else 1
    shifts = range(1, min(most, _SHIFTS) + 1) if k > 64 or block > 1 else range(1, k // 2 + 1)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    total, rows, inside = np.zeros(n), np.zeros((n, len(sizes))), np.zeros((n, len(sizes)))
    counts, count_rows, count_inside = 0.0, np.zeros(len(sizes)), np.zeros(len(sizes))
    for shift in shifts:
        ahead = shift * block
        # At half the way round each pair would be met twice.
        weight = 0.5 if 2 * ahead == k else 1.0
        pair = weight * normal_distance(f - np.roll(f, -ahead, axis=1), own * math.sqrt(2))
        other = np.roll(owner, -ahead)
        both = (owner == other).astype(float)
        total += 2 * pair.sum(axis=1)
        rows += np.add.reduceat(pair + np.roll(pair, ahead, axis=1), starts, axis=1)
        inside += 2 * np.add.reduceat(pair * both, starts, axis=1)
        counts += 2 * weight * k
        count_rows += 2 * weight * sizes
        count_inside += 2 * weight * np.add.reduceat(both, starts)
    return total, rows, inside, counts, count_rows, count_inside
