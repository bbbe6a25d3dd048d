"""Whether the masks drawn can have shown what matters: the one mechanism behind every `reliable`.

Student's interval for a mean of n independent values is off by about .25 γ²/n in coverage at 95 % (γ their skewness;
Hall 1992, section 2.6). A rare event of probability ε has γ² ≈ kurtosis ≈ 1/ε, so n / γ² and n / kurtosis count the
masks that matter: of n masks in which few decide, those few. `FEWEST` of them are asked for, counted mask by mask and
block by block. What others stand on:

- `Powers`: power sums of a stream of values, in constant memory; `.matter()` counts the masks that matter.
- `matter(n, second, third, fourth)`: that count, for n values with these central moments.
- `varying(keep_prob, block)`, `seldom(...)`, `Unseen`: what units add that are kept or dropped too seldom to be seen.
- `judge(...)` -> `Verdict`: reliable or not, the sentence that says why, and how many masks would help; and
  `judge_each(...)` of every example.

What no mask has shown cannot be read off the masks: a unit that is kept with probability 10⁻³ leaves no trace in 256
masks of four. `Unseen` therefore holds what each such unit would change, found by flipping it alone in some masks, and
the same count is made with the moments that follow. Under stratified masks a unit counts by what varies from block to
block: of eight masks in a block a unit with q = .126 is kept in one, or with probability .008 in two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.replicates import alike, block_means, largest, standard_error
from allmasks.results import Note
from allmasks.sampling import Blocks, about

__all__ = [
    "FEWEST",
    "FEWEST_MASKS",
    "FEWEST_SEEN",
    "Powers",
    "Unseen",
    "Verdict",
    "Verdicts",
    "judge",
    "judge_each",
    "matter",
    "seldom",
    "varying",
]

Array = NDArray[np.float64]

FEWEST = 8.0
"""Masks that matter, by n / γ², below which an error is not trusted: 3 % of coverage are lost there. By n / kurtosis,
which counts rare events of either sign but costs less coverage, a third as many."""

FEWEST_SEEN = 12.0
"""The same where nothing but the masks drawn is known: those that missed what is rare show too little skewness."""

FEWEST_MASKS = 32
"""Masks below which nothing can be said of the tails: that few always look alike."""

_OFTEN = 40.0
"""Blocks in which a unit is expected to vary, from which on the masks themselves show what it does."""


def matter(n: float, second: Any, third: Any, fourth: Any) -> Any:
    """How many of n values matter to their mean: the less of n / γ² and 3 n / kurtosis; 0 or nan where none varies.

    >>> float(matter(256, 0.25, 0.0, 0.0625)), round(float(matter(256, 0.001, 0.001, 0.001)), 2)
    (768.0, 0.26)
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        # Ratios before powers: those of a steep loss's moments are beyond the largest double.
        skewness, kurtosis = third / np.asarray(second) / np.sqrt(second), fourth / np.asarray(second) / second
        return np.minimum(np.where(third == 0, math.inf, n / skewness**2), 3 * n / kurtosis)


class Powers:
    """Sums of the first four powers of values (k, …) that come some at a time."""

    def __init__(self) -> None:
        self._n, self._shift, self._scale, self._sums = 0, 0.0, 1.0, [0.0] * 4

    def add(self, values: Any) -> None:
        """Take the next values, arrays or tensors."""
        if self._n == 0:
            self._shift, scale = values.mean(axis=0), largest(values)
            self._scale = scale + (scale == 0)  # powers of 1e-200 would be 0
        x = (values - self._shift) / self._scale
        square = x * x
        for i, power in enumerate((x, square, square * x, square * square)):
            self._sums[i] = self._sums[i] + power.sum(axis=0)
        self._n += len(values)

    def central(self) -> tuple[float, Any, Any, Any]:
        """How many, and their second, third and fourth central moments in units of their size."""
        m1, m2, m3, m4 = (np.asarray(total) / max(self._n, 1) for total in self._sums)
        second = np.maximum(m2 - m1 * m1, 0.0)
        return self._n, second, m3 - 3 * m1 * m2 + 2 * m1**3, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4

    def matter(self) -> Any:
        """See `matter`."""
        return matter(*self.central())


def varying(keep_prob: ArrayLike, block: int) -> Array:
    """Probability with which a unit is kept once more than the least number of times in a block of masks.

    >>> varying([0.5, 0.25, 0.001], 1).tolist(), varying([0.5, 0.001], 8).tolist()
    ([0.5, 0.25, 0.001], [0.0, 0.008])
    """
    more = np.mod(block * np.asarray(keep_prob, np.float64), 1.0)
    # The samplers' thresholds are whole 32-bit numbers.
    return np.where(np.minimum(more, 1.0 - more) < 1e-8, 0.0, more)


def seldom(keep_prob: ArrayLike, blocks: Blocks, examples: float = 1.0) -> NDArray[np.bool_]:
    """Units that vary, but in so few blocks of so many independent examples that the masks may not show it."""
    more = varying(keep_prob, blocks.block)
    return (more > 0) & (blocks.count * examples * np.minimum(more, 1.0 - more) < _OFTEN)


@dataclass(frozen=True)
class Unseen:
    """Moments of what seldom units add to a block's mean, from the changes that each alone makes.

    Parameters
    ----------
    second, third : central moments. excess : fourth cumulant.
    size : the unit that they are in: powers of 1e-200 or 1e200 have no float.
    """

    second: Any
    third: Any
    excess: Any
    size: Any

    @classmethod
    def of(cls, more: Array, block: int, square: Any, cube: Any, fourth: Any, size: Any) -> Unseen:
        """Summed over the last axis, the units.

        Parameters
        ----------
        more : (u,) `varying` of each.
        square, cube, fourth : (…, u) mean powers of the change when the unit is kept and not dropped.
        """
        spread = more * (1.0 - more)
        second = spread / block**2 * square
        third = spread * (1.0 - 2.0 * more) / block**3 * cube
        excess = spread * (1.0 - 3.0 * spread) / block**4 * fourth - 3.0 * second**2
        return cls(second.sum(axis=-1), third.sum(axis=-1), excess.sum(axis=-1), size)

    def weighted(self, share: Array) -> Unseen:
        """Of the weighted sum of independent examples."""
        size = float((share * self.size).max(initial=0.0)) or 1.0
        part = share * self.size / size
        return Unseen(part**2 @ self.second, part**3 @ self.third, part**4 @ self.excess, size)

    def plus(self, other: Unseen) -> Unseen:
        """Of the sum of two independent such parts."""
        if self.second == 0 or other.second == 0:
            return other if self.second == 0 else self
        size = max(self.size, other.size)
        a, b = self.size / size, other.size / size
        return Unseen(
            a**2 * self.second + b**2 * other.second,
            a**3 * self.third + b**3 * other.third,
            a**4 * self.excess + b**4 * other.excess,
            size,
        )

    def matter(self, blocks: float, spread: Any) -> Any:
        """Blocks that matter where the replicates seen have this standard deviation; inf where no unit is seldom."""
        # What was seen of it is in `spread` too: their sum would count it twice.
        # In units of the larger of the two, so that no power of their ratio overflows.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
            apart = np.asarray(spread, np.float64) / self.size
            unit = np.maximum(apart, 1.0)
            second = np.maximum((apart / unit) ** 2, self.second / unit / unit)
            third, excess = self.third / unit / unit / unit, self.excess / unit / unit / unit / unit
            counted = matter(blocks, second, third, 3.0 * second**2 + excess)
        return np.where(np.asarray(self.second) == 0, math.inf, counted)


@dataclass(frozen=True)
class Verdict:
    """Whether an error can be trusted.

    Attributes
    ----------
    note : the sentence that says why not and what would help; empty if it can.
    masks : how many masks would help, about.
    alike : the replicates are all alike, so that there is no error.
    unseen : what is missing is what units do that are kept or dropped too seldom to be seen.
    """

    reliable: bool
    note: str = ""
    masks: int = 0
    alike: bool = False
    unseen: bool = False


def judge(totals: Array, blocks: Blocks, unseen: Unseen | None = None, tails: Unseen | None = None) -> Verdict:
    """Whether the standard error of a mean over masks can be trusted.

    Parameters
    ----------
    totals : (K,) the value under each mask.
    unseen : what its seldom units add to a block's mean, where that is known.
    tails : moments of the value under one mask, where those are known.
    """
    k = blocks.n_masks
    if blocks.count < 2:
        return Verdict(False, blocks.notes[0], FEWEST_MASKS)
    means = block_means(totals, blocks.block)
    whole = means[: k // blocks.block]
    same = bool(alike(means))
    spread = 0.0 if same else float(standard_error(whole)) * math.sqrt(len(whole))
    steady = tails is None or float(tails_matter(tails, blocks, spread)) >= FEWEST
    if unseen is not None:
        missing = float(unseen.matter(blocks.count, spread))
        if not missing >= FEWEST and steady:
            needed = _needed(k, missing)
            return Verdict(
                False,
                Note(
                    "Units that are kept or dropped too seldom for {k} masks to show it would change the loss, so the "
                    "error is not to be trusted; about {more} masks can, or an exact method.",
                    k=k,
                    more=about(needed),
                ),
                needed,
                same,
                True,
            )
    if same:
        note = Note(
            "All {k} masks gave the same loss, which proves nothing, so the error is nan; an exact method can tell.",
            k=k,
        )
        return Verdict(False, note, 4 * k, same)
    if k < FEWEST_MASKS:
        note = Note(
            "{k} masks cannot show the loss's tails, so the error is not to be trusted; {more} can.",
            k=k,
            more=FEWEST_MASKS,
        )
        return Verdict(False, note, FEWEST_MASKS)
    by_mask, by_block = Powers(), Powers()
    by_mask.add(totals)
    by_block.add(whole)
    counted = min(float(by_mask.matter()), float(by_block.matter()))
    fewest = FEWEST_SEEN if unseen is None else FEWEST / 2
    if tails is not None:
        counted = min(counted * FEWEST / fewest, float(tails_matter(tails, blocks, spread)))
        fewest = FEWEST
    if not counted >= fewest:
        needed = _needed(k, counted * FEWEST / fewest)
        return Verdict(
            False,
            Note(
                "A few of the {k} masks carry the loss, so the error is not to be trusted; about {more} masks can, or "
                "an exact method.",
                k=k,
                more=about(needed),
            ),
            needed,
            unseen=unseen is not None and bool(unseen.second > 0) and steady,
        )
    return Verdict(True)


@dataclass(frozen=True)
class Verdicts:
    """The same of every example, (n,): see `Verdict`."""

    reliable: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    unseen: NDArray[np.bool_]


def judge_each(means: Array, by_mask: Powers, blocks: Blocks, unseen: Unseen, tails: Unseen | None = None) -> Verdicts:
    """As `judge`, of the replicates (blocks, n) of each example."""
    whole = means[: blocks.n_masks // blocks.block]
    same = np.asarray(alike(means))
    if blocks.n_masks < FEWEST_MASKS:
        none = np.zeros(means.shape[1:], bool)
        return Verdicts(none, same, none)
    by_block = Powers()
    by_block.add(whole)
    spread = standard_error(whole) * math.sqrt(len(whole))
    trusted = (np.minimum(by_mask.matter(), by_block.matter()) >= FEWEST / 2) & ~same
    missing = ~(unseen.matter(blocks.count, spread) >= FEWEST)
    if tails is not None:
        steady = tails_matter(tails, blocks, spread) >= FEWEST
        trusted, missing = trusted & steady, missing | ~steady
    else:
        steady = np.ones(trusted.shape, bool)
    trusted = trusted & ~missing
    return Verdicts(trusted, same, ~trusted & steady & (unseen.second > 0))


def tails_matter(tails: Unseen, blocks: Blocks, spread: Any) -> Any:
    """Masks that matter by the moments of the value under one mask, where block means have this standard deviation.

    Two masks of a stratified block agree in products of two units by 1 / (b − 1)², which makes them b / (b − 1) times
    fewer.
    """
    b = blocks.block
    masks = blocks.n_masks * (b - 1) / b if b > 1 else blocks.n_masks
    return tails.matter(masks, spread * math.sqrt(masks / blocks.count))


def _needed(masks: int, counted: float) -> int:
    """Masks of which enough matter, where of these so many do."""
    if not counted > 0:
        return 4 * masks
    return math.ceil(min(masks * FEWEST / counted, 2.0**62))
