"""Train and inference, inverted against classic scaling: which means agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.explain.moments import law_and_values, mask_probabilities
from allmasks.explain.page import Page, Picture, Series, Topic, numbers, rate
from allmasks.language import N_, Translate

__all__ = ["Scaling", "Scheme", "scaling"]


@dataclass(frozen=True)
class Scheme:
    """One way to scale: (d,) factors, the mean over all masks in training, and what inference computes."""

    name: str
    train_scale: NDArray[np.float64]
    inference_scale: NDArray[np.float64]
    train_mean: NDArray[np.float64]
    inference: NDArray[np.float64]
    difference: float


@dataclass(frozen=True, repr=False)
class Scaling(Topic):
    """The schemes compared on the same activations; `n_masks` were enumerated for each mean."""

    h: NDArray[np.float64]
    p: NDArray[np.float64]
    n_masks: int
    schemes: tuple[Scheme, ...]

    def _page(self, _: Translate) -> Page:
        page = Page(_("Where the scale goes: training or inference")).say(
            f"h = {numbers(self.h)}   p = {rate(self.p)}   " + _("means over all {n} masks").format(n=self.n_masks),
        )
        units = [_("unit {j}").format(j=j + 1) for j in range(len(self.h))]
        page.draw(
            Picture(
                _("Mean over all masks in training, and what inference computes"),
                "",
                _("activation"),
                [
                    series
                    for s in self.schemes
                    for series in (
                        Series(f"{_(s.name)}: {_('training')}", "bars", units, s.train_mean.tolist()),
                        Series(f"{_(s.name)}: {_('inference')}", "points", units, s.inference.tolist()),
                    )
                ],
            )
        )
        page.table(
            [
                _("scheme"),
                _("train: mask ×"),
                _("mean over masks"),
                _("inference: no mask ×"),
                _("output"),
                _("difference"),
            ],
            [
                [
                    _(s.name),
                    rate(s.train_scale),
                    numbers(s.train_mean),
                    rate(s.inference_scale),
                    numbers(s.inference),
                    f"{s.difference:.2g}",
                ]
                for s in self.schemes
            ],
        )
        return page.say(
            _(
                "Inverted dropout scales by 1 / (1 - p) while training, so inference is the plain network: no mask, no "
                "scale. Classic dropout scales at inference instead. Both keep the mean; with neither, the next layer "
                "sees activations that are on average 1 / (1 - p) times larger at inference than in training."
            )
        )


def scaling(h: ArrayLike = (2.0, -1.0, 3.0), p: ArrayLike = 0.5) -> Scaling:
    """Inverted, classic and no scaling: the mean over all masks in training against the output at inference.

    Parameters
    ----------
    h : (d,) activations, finite, at most 16 that can be dropped.
    p : scalar or (d,) drop rates in [0, 1).

    Raises
    ------
    ValueError : p outside [0, 1), h not finite, shapes that do not match, too many units to list.

    >>> inverted, classic, neither = scaling([2, -1, 3], p=0.5).schemes
    >>> inverted.train_mean.tolist(), inverted.inference.tolist()
    ([2.0, -1.0, 3.0], [2.0, -1.0, 3.0])
    >>> classic.train_mean.tolist(), classic.inference.tolist()
    ([1.0, -0.5, 1.5], [1.0, -0.5, 1.5])
    >>> neither.difference
    1.5
    """
    values, law = law_and_values(h, p)
    masks = law.enumerate()
    mean_mask = mask_probabilities(law, masks) @ masks
    one = np.ones_like(values)
    schemes = []
    for name, train, inference in (
        (N_("inverted"), 1 / law.keep_prob, one),
        (N_("classic"), one, law.keep_prob),
        (N_("none"), one, one),
    ):
        train_mean, output = mean_mask * train * values, inference * values
        schemes.append(Scheme(name, train, inference, train_mean, output, float(abs(train_mean - output).max())))
    return Scaling(values, law.rates, law.n_masks, tuple(schemes))
