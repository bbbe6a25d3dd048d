"""All thinned networks of a small net, their average, and the weight-scaling answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.explain.moments import check_size, mask_probabilities
from allmasks.explain.page import Page, Picture, Series, Topic, number, numbers
from allmasks.language import N_, Translate
from allmasks.masks import MaskLaw

__all__ = ["Ensemble", "NetOverMasks", "ensemble"]

# Integers and halves, so that with p = 0.5 every product and sum below is exact in binary arithmetic and
# a gap of zero is zero, not round-off.
_HIDDEN = np.array([[1.0, 1, 1], [0, 1, -1], [2, 0, 1], [1, 1, -1]])
_SECOND = np.array([[1.0, -1, 0.5, 1], [-0.5, 1, 1, -1]])
_OUTPUT = np.array([1.0, -1])
_DIRECT = np.array([1.0, -2, 0.5, 1])


@dataclass(frozen=True)
class NetOverMasks:
    """One net under all masks of its hidden layer: (n,) outputs, their mean, and the net without masks."""

    name: str
    outputs: NDArray[np.float64]
    average: float
    std: float
    weight_scaling: float
    gap: float


@dataclass(frozen=True, repr=False)
class Ensemble(Topic):
    """Every thinned network of a small net.

    `readings`: the ReLU net whose mask is followed by another ReLU layer; the ReLU net whose mask is followed by
    the linear output only; the same net as the first without its ReLUs. `expected_loss` (squared, of the first)
    = `average_loss` (of the averaged prediction) + variance of the prediction over masks.
    """

    x: NDArray[np.float64]
    y: float
    p: float
    n_masks: int
    masks: NDArray[np.bool_]
    probabilities: NDArray[np.float64]
    readings: tuple[NetOverMasks, ...]
    expected_loss: float
    average_loss: float
    weight_scaling_loss: float

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers, ready for json.dump."""
        return super().to_dict() | {"masks": self.masks.astype(int).tolist()}

    def _page(self, _: Translate) -> Page:
        deep, _direct, linear = self.readings
        page = Page(_("One network with dropout is an ensemble of thinned networks")).say(
            _("3 inputs – 4 hidden units (ReLU, dropout p = {p}) – 2 units (ReLU) – 1 output;   x = {x}").format(
                p=number(self.p), x=numbers(self.x)
            ),
            _(
                "The 4 hidden units can be kept or dropped in {n} ways: {n} thinned networks that share their weights."
            ).format(n=self.n_masks),
        )
        kept = ["".join("1" if bit else "0" for bit in mask) for mask in self.masks]
        page.draw(self._picture(kept, _))
        page.table(
            [_("hidden units kept"), _("probability"), _("output, ReLU net"), _("output, linear net")],
            [
                [mask, number(prob), number(a), number(b)]
                for mask, prob, a, b in zip(kept, self.probabilities, deep.outputs, linear.outputs, strict=True)
            ],
        )
        page.table(
            [
                _("net"),
                _("average of all {n}").format(n=self.n_masks),
                _("weight scaling"),
                _("gap"),
                _("sd over masks"),
            ],
            [
                [_(r.name), number(r.average), number(r.weight_scaling), f"{r.gap:.4g}", number(r.std)]
                for r in self.readings
            ],
        )
        return page.say(
            _(
                "Weight scaling runs the net once without masks. It equals the ensemble's average where the output is "
                "linear in the mask: in a linear net, and where only a linear layer follows the dropout. With a ReLU "
                "after the mask it is an approximation, and the gap is how far off it is."
            )
        ).say(*self._losses(deep.std, _))

    def _picture(self, kept: list[str], _: Translate) -> Picture:
        deep = self.readings[0]
        level = [kept[0], kept[-1]]
        return Picture(
            _("Output of every thinned network, ReLU net"),
            _("hidden units kept"),
            _("output"),
            [
                Series(_("thinned network"), "bars", kept, deep.outputs.tolist()),
                Series(_("average of all {n}").format(n=self.n_masks), "line", level, [deep.average] * 2),
                Series(_("weight scaling"), "line", level, [deep.weight_scaling] * 2),
            ],
        )

    def _losses(self, sd: float, _: Translate) -> list[str]:
        rows = (
            (_("mean loss of the thinned networks, what training minimizes"), self.expected_loss),
            (_("loss of their averaged output"), self.average_loss),
            (_("loss of the weight-scaled net, what inference computes"), self.weight_scaling_loss),
        )
        told = _(
            "The first two differ by the variance over masks, {variance}: that is the penalty for outputs that depend "
            "on which units are kept."
        )
        return [
            _("Squared loss at y = {y} (ReLU net):").format(y=number(self.y)),
            *(f"    {name}: {number(loss)}" for name, loss in rows),
            told.format(variance=number(sd**2)),
        ]


def _read(
    name: str, outputs: NDArray[np.float64], probabilities: NDArray[np.float64], weight_scaling: float
) -> NetOverMasks:
    average = float(probabilities @ outputs)
    std = float(np.sqrt(probabilities @ (outputs - average) ** 2))
    return NetOverMasks(name, outputs, average, std, weight_scaling, average - weight_scaling)


def ensemble(x: ArrayLike = (1.0, 2.0, -1.0), y: float = 1.0, p: float = 0.5) -> Ensemble:
    """All 16 thinned networks of a 3-4-2-1 net: outputs, probabilities, average, weight scaling and their gap.

    Parameters
    ----------
    x : (3,) input, finite.
    y : target of the squared loss.
    p : drop rate of the hidden units, in [0, 1).

    Raises
    ------
    ValueError : p outside [0, 1), x not three finite numbers.

    >>> found = ensemble()
    >>> found.n_masks, [reading.gap == 0 for reading in found.readings]
    (16, [False, True, True])
    """
    inputs, target = np.asarray(x, np.float64), float(y)
    if inputs.shape != (3,):
        raise ValueError(f"x must be 3 numbers, the inputs of the example net, got {inputs.size}")
    check_size("x", inputs)
    check_size("y", target)
    law = MaskLaw(float(p), (4,))
    masks = law.enumerate()
    probabilities = mask_probabilities(law, masks)
    # The last row is the mean mask: all ones, no scale, which is weight scaling under inverted dropout.
    noise = np.vstack([law.noise(masks), np.ones(4)])
    before = _HIDDEN @ inputs
    hidden = np.maximum(before, 0)
    deep = np.maximum(noise * hidden @ _SECOND.T, 0) @ _OUTPUT
    direct = noise * hidden @ _DIRECT
    linear = noise * before @ _SECOND.T @ _OUTPUT
    readings = tuple(
        _read(name, out[:-1], probabilities, float(out[-1]))
        for name, out in (
            (N_("ReLU after the mask"), deep),
            (N_("only a linear layer after the mask"), direct),
            (N_("linear net, no ReLU"), linear),
        )
    )
    return Ensemble(
        x=inputs,
        y=target,
        p=float(p),
        n_masks=law.n_masks,
        masks=masks,
        probabilities=probabilities,
        readings=readings,
        expected_loss=float(probabilities @ (deep[:-1] - target) ** 2),
        average_loss=(readings[0].average - target) ** 2,
        weight_scaling_loss=float((deep[-1] - target) ** 2),
    )
