"""What the masks drawn for scores have not shown: single units flipped in some of them, and the range of the loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from allmasks.losses import CallableScoreLoss, Poisson, ScoreLoss
from allmasks.reliability import FEWEST_MASKS, Unseen, seldom, varying
from allmasks.sampling import Blocks
from allmasks.scores.score import ScoreProblem
from allmasks.scores.tails import tail_moments

__all__ = ["Watch", "fixed_rows"]

Array = NDArray[np.float64]
Bits = NDArray[np.bool_]

_SPREAD, _EXTREME = 12, 4
"""Masks in which units are flipped: evenly spaced ones, and those of the most unusual losses, which count for
themselves alone."""

_HARDLY = 3
"""Masks with a unit in its rarer state up to which they may be far fewer than expected."""

_LARGEST = 1e60
"""Changes of the loss, in units of the largest loss drawn, beyond which nothing more is told apart."""


def fixed_rows(contributions: list[Array], p: Array, blocks: Blocks) -> Bits:
    """Rows whose mean no choice of masks changes: no unit does, or one alone, kept equally often in every block."""
    random = p > 0
    active = np.logical_or.reduce([a[:, random] != 0 for a in contributions])
    even = (varying(1.0 - p[random], blocks.block) == 0) & (blocks.n_masks % blocks.block == 0)
    return (active.sum(axis=1) <= 1) & (active <= even).all(axis=1)


class Watch:
    """Looks at the masks of some rows as they are drawn, for units that are kept or dropped too seldom to be seen.

    Parameters
    ----------
    contributions : of each output, (n, d).
    y : (n, outputs).
    """

    def __init__(
        self, problems: list[ScoreProblem], contributions: list[Array], y: Array, loss: ScoreLoss, blocks: Blocks
    ) -> None:
        self._problems, self._contributions, self._y, self._loss = problems, contributions, y, loss
        self._blocks, self._keep = blocks, problems[0].keep_prob
        matters = np.logical_or.reduce([(a != 0).any(axis=0) for a in contributions])
        few = seldom(self._keep, blocks) & matters
        self._units = np.flatnonzero(few) if blocks.n_masks >= FEWEST_MASKS else np.zeros(0, np.int64)
        self._places = np.unique(np.linspace(0, blocks.n_masks - 1, _SPREAD).astype(int))
        self._spread: list[Bits] = []
        self._extreme: Bits | None = None
        self._deviation: Array = np.zeros((0, len(y)))
        self._center: Array | None = None
        self._size = np.zeros(len(y))
        self._kept = np.zeros((len(y), len(self._units)), np.int64)

    def add(self, part: slice, kept: Bits, losses: Array) -> None:
        """Take masks number `part`: kept (k, n, d) and losses (k, n)."""
        self._size = np.maximum(self._size, np.abs(losses).max(axis=0))
        if not len(self._units):
            return
        self._kept += kept[..., self._units].sum(axis=0)
        here = self._places[(self._places >= part.start) & (self._places < part.stop)] - part.start
        self._spread.append(kept[here])
        if self._center is None:
            self._center = losses.mean(axis=0)
        deviation = np.abs(losses - self._center)
        top = np.argsort(-deviation, axis=0, kind="stable")[:_EXTREME]
        bits, far = np.take_along_axis(kept, top[..., None], axis=0), np.take_along_axis(deviation, top, axis=0)
        if self._extreme is not None:
            bits, far = np.concatenate([self._extreme, bits]), np.concatenate([self._deviation, far])
            top = np.argsort(-far, axis=0, kind="stable")[:_EXTREME]
            bits, far = np.take_along_axis(bits, top[..., None], axis=0), np.take_along_axis(far, top, axis=0)
        self._extreme, self._deviation = bits, far

    def unseen(self) -> Unseen:
        """Moments of what seldom units add to each row's block mean, in units of the row's largest loss."""
        size = np.where(self._size > 0, self._size, 1.0)
        if not len(self._units):
            zero = np.zeros(len(self._y))
            return Unseen(zero, zero, zero, size)
        assert self._extreme is not None
        spread = np.concatenate(self._spread)
        apart = len(self._extreme) / self._blocks.n_masks
        square, cube, fourth = (np.zeros(self._kept.shape) for _ in range(3))
        for masks, weight in ((spread, (1 - apart) / len(spread)), (self._extreme, apart / len(self._extreme))):
            for kept in masks:
                with np.errstate(over="ignore"):  # what is beyond is cut off
                    change = np.clip(self._change(kept) / size[:, None], -_LARGEST, _LARGEST)
                power = change * change
                square += weight * power
                cube += weight * power * change
                fourth += weight * power * power
        more = varying(self._keep[self._units], self._blocks.block)
        return Unseen.of(more, self._blocks.block, square, cube, fourth, size)

    def tails(self) -> Unseen | None:
        """Moments of each row's loss under one mask, where they are known."""
        if self._loss.joint:
            return None
        y, b = self._y[:, 0], self._problems[0].intercept
        return tail_moments(self._loss, self._contributions[0], self._keep, b, y, self._blocks.block)

    def _change(self, kept: Bits) -> Array:
        """(n, units) how much the loss rises when one of the units is kept and not dropped, the others as they are."""
        total = np.zeros(self._kept.shape)
        own = kept[:, self._units]
        if self._loss.joint:
            scores, units = [], []
            for problem, a in zip(self._problems, self._contributions, strict=True):
                scores.append(((kept * a).sum(axis=1) + problem.intercept)[:, None])
                units.append(a[:, self._units])
            score, unit, y = np.stack(scores), np.stack(units), self._y.T[:, :, None]
            return np.asarray(self._loss.value(score + unit * ~own, y) - self._loss.value(score - unit * own, y))
        for c, (problem, a) in enumerate(zip(self._problems, self._contributions, strict=True)):
            score = (kept * a).sum(axis=1) + problem.intercept
            unit, target = a[:, self._units], np.broadcast_to(self._y[:, c, None], own.shape)
            with np.errstate(over="ignore", invalid="ignore"):
                on = self._loss.value(score[:, None] + unit * ~own, target)
                total += on - self._loss.value(score[:, None] - unit * own, target)
        return np.nan_to_num(total, nan=_LARGEST)

    def allowance(self, value: Array) -> Array:
        """(n,) most that masks which were hardly drawn can change a row's mean; inf where that is unknown.

        They are those with a unit in a state that it was in three times at most. One that it was in k > 3 times is in
        the error: √k covers what made it k.
        """
        if not len(self._units):
            return np.zeros(len(value))
        q, k = self._keep[self._units], self._blocks.n_masks
        rarer = np.minimum(q, 1.0 - q)
        if (self._blocks.block * rarer > 0.5).any():
            return np.full(len(value), np.inf)  # a unit seldom kept once more in a block than otherwise
        seen = np.where(q < 0.5, self._kept, k - self._kept)
        unseen = (seen <= _HARDLY) & np.logical_or.reduce([a[:, self._units] != 0 for a in self._contributions])
        chance = -np.expm1((unseen * np.log1p(-rarer)).sum(axis=1))
        lowest, highest = self._range()
        with np.errstate(invalid="ignore"):
            return np.where(chance > 0, chance * np.maximum(highest - value, value - lowest), 0.0)

    def _range(self) -> tuple[Array, Array]:
        """Bounds of each row's loss over all masks: it is convex in the score."""
        lowest, highest = np.zeros(len(self._y)), np.zeros(len(self._y))
        if isinstance(self._loss, CallableScoreLoss):
            return lowest, highest + np.inf
        always = self._keep == 1.0
        if self._loss.joint:
            reach: list[Array] = []
            for problem, a in zip(self._problems, self._contributions, strict=True):
                fixed = a[:, always].sum(axis=1) + problem.intercept
                reach.append(np.stack([fixed + np.clip(a[:, ~always], *side).sum(axis=1) for side in _SIDES]))
            least, most = np.swapaxes(np.stack(reach), 0, 1)
            return lowest, self._y.sum(axis=1) * logsumexp(most, axis=0) - (self._y * least.T).sum(axis=1)
        for c, (problem, a) in enumerate(zip(self._problems, self._contributions, strict=True)):
            fixed = a[:, always].sum(axis=1) + problem.intercept
            random = a[:, ~always]
            y = self._y[:, c]
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                ends = [self._loss.value(fixed + np.clip(random, *side).sum(axis=1), y) for side in _SIDES]
                highest += np.maximum(*ends)
                if isinstance(self._loss, Poisson):
                    lowest += np.where(y > 0, y - y * np.log(np.where(y > 0, y, 1.0)), 0.0)
        return lowest, np.nan_to_num(highest, nan=np.inf)


_SIDES = ((None, 0.0), (0.0, None))
