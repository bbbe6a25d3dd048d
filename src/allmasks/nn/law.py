"""What a layer really draws: the drop rate to as many bits as it needs, and the scale that keeps the mean exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.masks import alpha_constants

__all__ = ["DrawnLaw", "UnitLaw", "alpha_law", "drawn_law", "unit_law"]


@dataclass(frozen=True)
class DrawnLaw:
    """An element is kept where its word of `bits` bits is below `threshold`, and is then multiplied by `scale`.

    Attributes
    ----------
    p : the effective drop rate, 1 - threshold / 2**bits.
    scale : 1 / (1 - p) of the *effective* rate, so that the mean over masks is the input exactly.
    """

    bits: int
    threshold: int

    @property
    def p(self) -> float:
        return 1.0 - self.threshold / 2**self.bits

    @property
    def scale(self) -> float:
        return 2**self.bits / self.threshold


@lru_cache(maxsize=1024)
def drawn_law(p: float) -> DrawnLaw:
    """The law drawn for a rate strictly between 0 and 1.

    1, 2, 4 or 8 bits decide where p is a multiple of 1/2, 1/4, 1/16 or 1/256, which is drawn as it is: to draw 16
    bits or more is most of a kernel's work. Otherwise 16 do where both p and 1 - p are at least 2**-8: the effective
    rate is then within 2**-17 of p. Rates nearer to 0 or 1 take 32 bits (within 2**-33), so that rare events keep
    their probability.

    >>> drawn_law(0.5), drawn_law(0.25)
    (DrawnLaw(bits=1, threshold=1), DrawnLaw(bits=2, threshold=3))
    >>> drawn_law(0.1).bits, abs(drawn_law(0.1).p - 0.1) <= 2**-17
    (16, True)
    >>> drawn_law(1e-4).bits, abs(drawn_law(1e-4).p - 1e-4) <= 2**-33
    (32, True)
    """
    exact = (bits for bits in (1, 2, 4, 8) if (p * 2**bits).is_integer())
    bits = next(exact, 16 if min(p, 1.0 - p) >= 2.0**-8 else 32)
    threshold = round((1.0 - p) * 2**bits)
    # A rate of less than half a unit still drops, and one as near to 1 still keeps: never 0 or 2**bits.
    return DrawnLaw(bits, min(max(threshold, 1), 2**bits - 1))


@lru_cache(maxsize=1024)
def alpha_law(p: float) -> tuple[float, float, float]:
    """(a, a / s, floor) of alpha dropout with the rate that is drawn.

    With the factor n = 0 or s = 1 / (1 - drawn p) that the kernels draw, alpha dropout is n (x - α') (a / s) + floor:
    a x + b where the unit is kept and floor = a α' + b where it is dropped.
    """
    drawn = drawn_law(p)
    constants = alpha_constants(drawn.p)
    floor = constants.scale * constants.dropped + constants.shift
    return constants.scale, constants.scale / drawn.scale, floor


@dataclass(frozen=True)
class UnitLaw:
    """A rate for each unit, on 32 bits: kept where word <= last, then multiplied by scale (0 where p = 1)."""

    last: NDArray[np.uint32]
    scale: NDArray[np.float64]

    @property
    def p(self) -> NDArray[np.float64]:
        kept = np.where(self.scale > 0, self.last.astype(np.float64) + 1.0, 0.0)
        return 1.0 - kept / 2.0**32

    def scale_as(self, dtype: Any) -> NDArray[Any]:
        """The scale in another dtype, contiguous."""
        return np.ascontiguousarray(self.scale, dtype)


def unit_law(p: ArrayLike) -> UnitLaw:
    """The law drawn for rates from 0 to 1 (both allowed), one a unit; ValueError for any other.

    >>> unit_law([0.0, 0.5, 1.0]).scale
    array([1., 2., 0.])
    """
    rates = np.asarray(p, np.float64).reshape(-1)
    outside = ~((rates >= 0.0) & (rates <= 1.0))
    if outside.any():
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {rates[outside][0]}")
    threshold = np.rint((1.0 - rates) * 2.0**32)
    scale = np.divide(2.0**32, threshold, out=np.zeros_like(threshold), where=threshold > 0)
    return UnitLaw(np.maximum(threshold - 1.0, 0.0).astype(np.uint32), scale)
