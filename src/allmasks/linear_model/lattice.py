"""A grid of two parameters searched from coarse to fine, and past its ends where the choice lies there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "Point", "best_of", "climb", "distance", "neighbors"]

Array = NDArray[np.float64]

Point = tuple[int, int]
"""Where a candidate lies: its places on the axes of p and alpha."""

_FEWEST = 3
"""Values of an axis in the coarse pass; of a long one every third."""

_LARGEST_RATE = 0.999


@dataclass(frozen=True)
class Axis:
    """The values of one parameter in increasing order, those beyond the ends of the grid included.

    name : of the parameter. values : all. first, last : places of the grid's own ends.
    """

    name: str
    values: Array
    first: int
    last: int

    @classmethod
    def of(cls, name: str, grid: Array, beyond: int, *, rate: bool) -> Axis:
        """grid : increasing. beyond : values past each end, in the ratio of the last two; of one value alone, none.

        rate : whether it is a drop rate; past the upper end it is then 1 − p that shrinks in a ratio.

        >>> Axis.of("alphas", np.array([0.0, 0.1, 1.0]), 2, rate=False).values
        array([  0. ,   0.1,   1. ,  10. , 100. ])
        >>> Axis.of("ps", np.array([0.1, 0.3, 0.9]), 1, rate=True).values.round(4)
        array([0.0333, 0.1   , 0.3   , 0.9   , 0.9857])
        """
        if len(grid) == 1:
            return cls(name, grid, 0, 0)
        below, above = [], []
        for k in range(1, beyond + 1):
            with np.errstate(all="ignore"):
                low = grid[0] * (grid[0] / grid[1]) ** k
                if rate:
                    high = 1.0 - (1.0 - grid[-1]) * ((1.0 - grid[-1]) / (1.0 - grid[-2])) ** k
                else:
                    high = grid[-1] * (grid[-1] / grid[-2] if grid[-2] > 0 else 10.0) ** k
            if low > np.finfo(np.float64).tiny:
                below.append(low)
            if high <= _LARGEST_RATE if rate else math.isfinite(high):
                above.append(high)
        return cls(name, np.r_[below[::-1], grid, above], len(below), len(below) + len(grid) - 1)

    @property
    def coarse(self) -> list[int]:
        """The grid's ends and places evenly between them."""
        n = self.last - self.first + 1
        few = min(n, max(_FEWEST, math.ceil(n / 3)))
        return sorted({round(float(k)) for k in np.linspace(self.first, self.last, few)})

    @property
    def own(self) -> range:
        """All places of the grid itself."""
        return range(self.first, self.last + 1)

    def past(self, place: int) -> str | None:
        """Which end of the grid a place lies past, if any."""
        return "smallest" if place < self.first else "largest" if place > self.last else None

    def end(self, place: int) -> str | None:
        """Which end of all values a place is, if any; 0 is none, for there is nothing beyond it."""
        if len(self.values) == 1 or self.values[place] == 0.0:
            return None
        return "smallest" if place == 0 else "largest" if place == len(self.values) - 1 else None


def climb(
    p_axis: Axis, alpha_axis: Axis, evaluate: Callable[[list[Point], Point | None], dict[Point, float]], *, full: bool
) -> dict[Point, float]:
    """Mean scores of the points looked at; `best_of` them has no unseen neighbor.

    evaluate : scores of new points; it is told the best so far. full : whether to begin with every point of the grid
    in place of a cross.

    A point is left only for a better one, so equal scores lead nowhere; NaN counts as the worst score there is.
    """
    if full:
        seen = evaluate([(i, j) for i in p_axis.own for j in reversed(alpha_axis.own)], None)
    else:
        # A cross: alphas at the middle rate, then rates at the best of them.
        ps, alphas = p_axis.coarse, alpha_axis.coarse
        seen = evaluate([(ps[len(ps) // 2], j) for j in reversed(alphas)], None)
        i, j = best_of(seen, p_axis, alpha_axis)
        seen |= evaluate([(k, j) for k in sorted(ps, key=lambda k: abs(k - i)) if k != i], (i, j))
    while True:
        best = best_of(seen, p_axis, alpha_axis)
        around = [
            (i, j)
            for i, j in neighbors(best)
            if 0 <= i < len(p_axis.values) and 0 <= j < len(alpha_axis.values) and (i, j) not in seen
        ]
        # Straight ahead first: aslant only where that leads nowhere.
        straight = [point for point in around if distance(point, best) == 1]
        if not around:
            return seen
        seen |= evaluate(straight or around, best)


def best_of(seen: dict[Point, float], p_axis: Axis, alpha_axis: Axis) -> Point:
    """The point of best score: of equals one within the grid, then the smaller rate, then the larger alpha."""

    def rank(point: Point) -> tuple[float, bool, int, int]:
        i, j = point
        score = -math.inf if math.isnan(seen[point]) else seen[point]
        return score, p_axis.past(i) is None and alpha_axis.past(j) is None, -i, j

    return max(seen, key=rank)


def neighbors(point: Point) -> Iterator[Point]:
    """The eight around a point."""
    i, j = point
    yield from ((i + di, j + dj) for di in (-1, 0, 1) for dj in (1, 0, -1) if (di, dj) != (0, 0))


def distance(a: Point, b: Point) -> int:
    """Steps from one to the other along the axes."""
    return abs(a[0] - b[0]) + abs(a[1] - b[1])
