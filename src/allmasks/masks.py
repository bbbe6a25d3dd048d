"""The law of a dropout mask: independent Bernoulli bits, their rates, and how elements share them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ALPHA_DROPPED", "AlphaConstants", "MaskLaw", "Sharing", "alpha_constants", "check_p", "dropout_moments"]

Sharing = Literal["element", "channel", "row"]

MAX_ENUMERATED_UNITS = 62
"""Masks are numbered by 64-bit integers; nobody lists more than this anyway."""


def check_p(p: ArrayLike, *, name: str = "p") -> NDArray[np.float64]:
    """Drop rates as float64, or a ValueError that names them: each must lie in [0, 1).

    >>> check_p(0.5)
    array(0.5)
    >>> check_p(1.0)
    Traceback (most recent call last):
    ...
    ValueError: p is the probability of dropping and must lie in [0, 1), got 1.0
    """
    try:
        # "0.5" would become a number: a word where a rate should be is a mistake elsewhere.
        if np.asarray(p).dtype.kind in "USbO":
            raise TypeError
        rates = np.asarray(p, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers in [0, 1), got {p!r}") from None
    bad = ~((rates >= 0) & (rates < 1))
    if bad.any():
        raise ValueError(f"{name} is the probability of dropping and must lie in [0, 1), got {rates[bad].flat[0]}")
    return rates


def dropout_moments(h: ArrayLike, p: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance over masks of inverted dropout m * h / (1 - p): h and p / (1 - p) * h**2.

    Parameters
    ----------
    h : (d,) activations.
    p : scalar or (d,) drop rates in [0, 1).

    >>> dropout_moments([2, -1, 3], 0.5)
    (array([ 2., -1.,  3.]), array([4., 1., 9.]))
    """
    values = np.asarray(h, np.float64)
    rates = check_p(p)
    return values.copy(), rates / (1.0 - rates) * values**2


@dataclass(frozen=True)
class AlphaConstants:
    """Alpha dropout: a kept h becomes scale * h + shift, a dropped one scale * dropped + shift."""

    scale: float
    shift: float
    dropped: float


ALPHA_DROPPED = -1.7580993408473766
"""Alpha dropout's α': SELU's limit for large negative inputs, which dropped units take."""


def alpha_constants(p: float) -> AlphaConstants:
    """The affine constants of alpha dropout (Klambauer et al. 2017, as torch.nn.AlphaDropout computes them).

    With α' = `ALPHA_DROPPED`: scale = ((1 - p) (1 + p α'²))^(-1/2) and shift = -scale · p · α'.
    """
    rate = float(check_p(p))
    scale = ((1.0 - rate) * (1.0 + rate * ALPHA_DROPPED**2)) ** -0.5
    return AlphaConstants(scale=scale, shift=-scale * rate * ALPHA_DROPPED, dropped=ALPHA_DROPPED)


@dataclass(frozen=True)
class MaskLaw:
    """Independent Bernoulli bits over one example's activation.

    Parameters
    ----------
    p : drop rate, a scalar or an array that broadcasts to the mask's shape (see `mask_shape`).
    shape : the activation's shape, without the example axis.
    sharing : "element" gives each element its own bit; "channel" one bit for each index of the first axis,
        shared by the rest (Dropout2d: whole feature maps); "row" one bit for the whole activation (DropPath).

    >>> law = MaskLaw(p=0.25, shape=(3, 4, 4), sharing="channel")
    >>> law.units, law.mask_shape
    (3, (3, 1, 1))
    >>> masks = law.enumerate()
    >>> masks.shape, float(np.exp(law.log_prob(masks)).sum())
    ((8, 3), 1.0)
    """

    p: float | NDArray[np.float64]
    shape: tuple[int, ...]
    sharing: Sharing = "element"

    def __post_init__(self) -> None:
        rates = check_p(self.p)
        if self.sharing not in ("element", "channel", "row"):
            raise ValueError(f'sharing must be "element", "channel" or "row", got {self.sharing!r}')
        if any(n < 0 for n in self.shape):
            raise ValueError(f"shape must have no negative axis, got {self.shape}")
        try:
            np.broadcast_to(rates, self.mask_shape)
        except ValueError:
            raise ValueError(
                f"p of shape {rates.shape} does not broadcast to the mask's shape {self.mask_shape}: "
                "give one rate, or one for each unit"
            ) from None

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The mask's own shape: axes that share a bit have length 1."""
        if self.sharing == "element":
            return self.shape
        if self.sharing == "channel":
            return self.shape[:1] + (1,) * (len(self.shape) - 1)
        return (1,) * len(self.shape)

    @property
    def units(self) -> int:
        """How many independent bits one example's mask has."""
        return math.prod(self.mask_shape)

    @property
    def rates(self) -> NDArray[np.float64]:
        """The drop rate of each bit, shape (units,)."""
        return np.broadcast_to(np.asarray(self.p, np.float64), self.mask_shape).reshape(-1)

    @property
    def keep_prob(self) -> NDArray[np.float64]:
        """1 - p of each bit, shape (units,)."""
        return 1.0 - self.rates

    @property
    def random_units(self) -> int:
        """Bits that really vary: those with p > 0."""
        return int(np.count_nonzero(self.rates))

    @property
    def n_masks(self) -> int:
        """How many masks have positive probability: 2 ** random_units."""
        return 2**self.random_units

    def enumerate(self, start: int = 0, stop: int | None = None) -> NDArray[np.bool_]:
        """Masks number start … stop - 1 of the n_masks possible ones, shape (stop - start, units), True = kept.

        Bit j of a mask's number says whether the j-th unit with p > 0 is kept; units with p = 0 always are.
        """
        free = np.flatnonzero(self.rates)
        if len(free) > MAX_ENUMERATED_UNITS:
            raise ValueError(f"{len(free)} random units have 2**{len(free)} masks: too many to list; sample instead")
        stop = self.n_masks if stop is None else stop
        if not 0 <= start <= stop <= self.n_masks:
            raise ValueError(f"mask numbers must lie in 0 … {self.n_masks}, got {start} … {stop}")
        return self.numbered(np.arange(start, stop, dtype=np.int64))

    def numbered(self, numbers: ArrayLike) -> NDArray[np.bool_]:
        """The masks with these numbers, shape (len(numbers), units); see `enumerate` for how they are numbered."""
        n = np.asarray(numbers, np.int64)
        masks = np.ones((len(n), self.units), dtype=np.bool_)
        for bit, unit in enumerate(np.flatnonzero(self.rates)):
            masks[:, unit] = (n >> bit) & 1
        return masks

    def log_prob(self, masks: ArrayLike) -> NDArray[np.float64]:
        """log P(mask), shape (n,), for masks of shape (n, units); -inf where a unit with p = 0 is dropped."""
        kept = np.asarray(masks, np.bool_).reshape(-1, self.units)
        with np.errstate(divide="ignore"):
            log_drop = np.log(self.rates)
        return np.where(kept, np.log1p(-self.rates), log_drop).sum(axis=1)

    def noise(self, masks: ArrayLike) -> NDArray[np.float64]:
        """The scaled mask that multiplies the activation: mask / keep_prob, shape (n, units)."""
        kept = np.asarray(masks, np.bool_).reshape(-1, self.units)
        return kept / self.keep_prob

    def noise_variance(self) -> NDArray[np.float64]:
        """Variance of each unit's noise, p / (1 - p), shape (units,). Its mean is 1."""
        return self.rates / self.keep_prob
