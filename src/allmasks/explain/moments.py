"""Mean and variance of inverted dropout: the formula beside every mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.explain.page import Page, Picture, Series, Topic, number, numbers, rate
from allmasks.language import Translate
from allmasks.masks import MaskLaw, check_p, dropout_moments

__all__ = ["LARGEST", "MAX_UNITS", "Moments", "check_size", "law_and_values", "mask_probabilities", "moments"]

LARGEST = 1e60
"""Largest size of a number in the worked examples: products of two of them over 1 − p, squared, stay finite."""

MAX_UNITS = 16
"""Topics that list every mask take at most this many units: 65 536 masks."""


def law_and_values(h: ArrayLike, p: ArrayLike, *, name: str = "h") -> tuple[NDArray[np.float64], MaskLaw]:
    """The activations as a finite vector and the law of their masks, or a ValueError that says what is wrong."""
    values = np.asarray(h, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a list of one or more numbers, got shape {values.shape}")
    check_size(name, values)
    rates = check_p(p)
    if rates.ndim and rates.size not in (1, values.size):
        raise ValueError(
            f"p must be one rate or one for each of the {values.size} numbers of {name}, got {rates.size} rates"
        )
    law = MaskLaw(np.broadcast_to(rates.ravel(), values.shape), values.shape)
    if law.random_units > MAX_UNITS:
        raise ValueError(
            f"{law.random_units} units have 2**{law.random_units} masks and this topic lists them all: "
            f"give at most {MAX_UNITS} numbers"
        )
    return values, law


def check_size(name: str, values: ArrayLike) -> None:
    """ValueError for numbers that are not finite, or so large that a worked example would overflow."""
    found = np.atleast_1d(np.asarray(values, np.float64))
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got {numbers(found)}")
    if (np.abs(found) > LARGEST).any():
        raise ValueError(
            f"{name} must be at most {LARGEST:g} in size, so that squares stay finite, got {numbers(found)}"
        )


def mask_probabilities(law: MaskLaw, masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """P(mask) of few units as a product, (n,): without logarithms, so that p = 0.5 gives exact powers of two."""
    return np.where(masks, law.keep_prob, law.rates).prod(axis=1)


@dataclass(frozen=True, repr=False)
class Moments(Topic):
    """Mean, variance and standard deviation of m * h / (1 - p), each (d,), by formula and over all masks.

    `masks` (n, d), `outputs` (n, d) and `probabilities` (n,) list every mask.
    """

    h: NDArray[np.float64]
    p: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    std: NDArray[np.float64]
    enumerated_mean: NDArray[np.float64]
    enumerated_variance: NDArray[np.float64]
    enumerated_std: NDArray[np.float64]
    n_masks: int
    max_difference: float
    masks: NDArray[np.bool_]
    outputs: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers, ready for json.dump."""
        return super().to_dict() | {"masks": self.masks.astype(int).tolist()}

    def _page(self, _: Translate) -> Page:
        page = Page(_("Inverted dropout keeps the mean and adds variance")).say(
            f"h = {numbers(self.h)}   p = {rate(self.p)}",
            _("Each unit is 0 with probability p, and otherwise h / (1 - p):"),
            f"    {_('mean')} = h        {_('variance')} = p / (1 - p) · h²",
        )
        units = [_("unit {j}").format(j=j + 1) for j in range(len(self.h))]
        over = _("{name} over {n} masks")
        rows = [
            ("h", self.h),
            (_("h / (1 - p), when kept"), self.h / (1 - self.p)),
            (_("mean, formula"), self.mean),
            (over.format(name=_("mean"), n=self.n_masks), self.enumerated_mean),
            (_("variance, formula"), self.variance),
            (over.format(name=_("variance"), n=self.n_masks), self.enumerated_variance),
            (_("standard deviation, formula"), self.std),
            (over.format(name=_("standard deviation"), n=self.n_masks), self.enumerated_std),
        ]
        page.draw(
            Picture(
                _("Mean over all masks, and one standard deviation either way"),
                "",
                "m * h / (1 - p)",
                [
                    Series(_("without dropout"), "points", units, self.h.tolist()),
                    Series(_("mean over all masks"), "bars", units, self.enumerated_mean.tolist(), self.std.tolist()),
                ],
            )
        )
        page.table(["", *units], [[label, *(number(v) for v in row)] for label, row in rows])
        if self.n_masks <= 32:
            page.table(
                [_("mask (1 = kept)"), _("probability"), "m * h / (1 - p)"],
                [
                    ["".join("1" if kept else "0" for kept in mask), number(prob), numbers(out)]
                    for mask, prob, out in zip(self.masks, self.probabilities, self.outputs, strict=True)
                ],
                title=_("All {n} masks").format(n=self.n_masks),
            )
        told = _("Largest difference between formula and enumeration: {difference}")
        return page.say(told.format(difference=f"{self.max_difference:.2g}"))


def moments(h: ArrayLike = (2.0, -1.0, 3.0), p: ArrayLike = 0.5) -> Moments:
    """Mean h and variance p / (1 - p) · h² of inverted dropout, beside full enumeration.

    Parameters
    ----------
    h : (d,) activations, finite, at most 16 that can be dropped.
    p : scalar or (d,) drop rates in [0, 1).

    Raises
    ------
    ValueError : p outside [0, 1), h not finite, shapes that do not match, too many units to list.

    >>> found = moments([2, -1, 3], p=0.5)
    >>> found.mean.tolist(), found.variance.tolist(), found.std.tolist(), found.n_masks
    ([2.0, -1.0, 3.0], [4.0, 1.0, 9.0], [2.0, 1.0, 3.0], 8)
    """
    values, law = law_and_values(h, p)
    mean, variance = dropout_moments(values, law.rates)
    masks = law.enumerate()
    probabilities = mask_probabilities(law, masks)
    outputs = law.noise(masks) * values
    enumerated_mean = probabilities @ outputs
    enumerated_variance = probabilities @ (outputs - enumerated_mean) ** 2
    return Moments(
        h=values,
        p=law.rates,
        mean=mean,
        variance=variance,
        std=np.sqrt(variance),
        enumerated_mean=enumerated_mean,
        enumerated_variance=enumerated_variance,
        enumerated_std=np.sqrt(enumerated_variance),
        n_masks=law.n_masks,
        max_difference=float(max(abs(enumerated_mean - mean).max(), abs(enumerated_variance - variance).max())),
        masks=masks,
        outputs=outputs,
        probabilities=probabilities,
    )
