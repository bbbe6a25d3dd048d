"""One place in a model where dropout acts: what it is called, which bits it needs, and how they lie in its input."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from torch import Tensor

from allmasks.kernels.reference import site_id
from allmasks.masks import MaskLaw

__all__ = ["DropoutSite"]


@dataclass(frozen=True, repr=False)
class DropoutSite:
    """A call in the model's forward pass that drops units, as `am.find_dropout` lists it.

    Attributes
    ----------
    name : path of the module; ":op" follows where the module calls a function of that name in its own forward,
        "#2", "#3" … the second, third call in one forward pass. Masks are keyed by it.
    kind : "dropout", "dropout1d" … "alpha_dropout", "feature_alpha_dropout", "attention", "lstm", ….
    p : probability that a unit is dropped; nan where the site does not tell it.
    shape : shape of one example's mask; axes that share a bit have length 1.
    units : independent bits of one example's mask, the product of `shape`.
    mean_preserving : whether the mean over masks of the site's output is its input (alpha dropout: no).
    controllable, reason : whether masks can be put in, and if not, why.
    batch_dim : the example's axis in the site's input; None if the input depends on no example, so that all
        examples share one mask.
    outer, inner : that axis may be a merged one: its index i belongs to example (i // inner) % n, and its
        length is outer * n * inner. Such an axis stays in `shape` with length outer * inner.
    dependent : why the site's units are not independent, where they are not (DropBlock): exact methods refuse it.
    in_place : whether the site overwrites its input.
    always_on : whether it drops units in eval mode too (it is held at its mean mask there).
    wakes : path of the module whose own training flag is set while masks are put in, because its dropout is not
        even called in eval mode; None for all others.
    after : class of the module that precedes it in its Sequential; "" where it is the model's first; None where that
        cannot be told.
    joint : whether one mask covers the whole input (batch_dim="whole"); `shape` is then that of the whole mask.
    low_keeps : for uniform numbers compared with a threshold, whether those below it keep the unit.
    """

    name: str
    kind: str
    p: float
    shape: tuple[int, ...]
    units: int
    mean_preserving: bool = True
    controllable: bool = True
    reason: str | None = None
    batch_dim: int | None = 0
    outer: int = 1
    inner: int = 1
    dependent: str | None = None
    in_place: bool = False
    always_on: bool = False
    wakes: str | None = None
    low_keeps: bool = False
    after: str | None = field(default=None, compare=False)
    joint: bool = False

    def __repr__(self) -> str:
        # What is as usual is left out: a list of forty sites should fit a screen.
        told = [f for f in fields(self) if f.compare and getattr(self, f.name) != f.default]
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in told]
        return f"DropoutSite({', '.join(shown)})"

    @property
    def id(self) -> int:
        """The 64-bit number under which the site's masks are drawn."""
        return site_id(self.name)

    @property
    def law(self) -> MaskLaw:
        """The law of one example's mask."""
        return MaskLaw(self.p, self.shape)

    @property
    def call_rate(self) -> float:
        """What the call is given as p beside its placed bits: the probability of a placed 0."""
        return 1.0 - self.p if self.low_keeps else self.p

    @property
    def merged(self) -> bool:
        """Whether the example axis also counts something else, such as tokens or heads."""
        return self.outer * self.inner > 1

    def by_row(self, kept: Tensor) -> Tensor:
        """Bits (…, n or 1, units) as (…, rows or 1, units of a row), for a site that masks each row of a matrix."""
        if not self.joint:
            return kept
        return kept.reshape(*kept.shape[:-2], *self.shape)

    def place(self, kept: Tensor, n: int) -> Tensor:
        """Bits (…, n or 1, units) in the layout of the site's input, (…, *mask shape), for n examples.

        Axes along which the mask is constant have length 1, so that it broadcasts.
        """
        if self.low_keeps:
            kept = ~kept
        lead = kept.shape[:-2]
        if self.batch_dim is None:
            return kept.reshape(*lead, *self.shape)
        axis = len(lead) + self.batch_dim
        if not self.merged:
            return kept.reshape(*lead, kept.shape[-2], *self.shape).movedim(len(lead), axis)
        before, after = self.shape[: self.batch_dim], self.shape[self.batch_dim + 1 :]
        split = kept.expand(*lead, n, self.units).reshape(*lead, n, *before, self.outer, self.inner, *after)
        split = split.movedim(len(lead), axis + 1)
        return split.reshape(*lead, *before, self.outer * n * self.inner, *after)


def mask_shape_of_example(
    mask_shape: tuple[int, ...], batch_dim: int | None, outer: int, inner: int
) -> tuple[int, ...]:
    """Shape of one example's mask, given the shape of the mask of a whole batch."""
    if batch_dim is None:
        return mask_shape
    rest = (outer * inner,) if outer * inner > 1 else ()
    return mask_shape[:batch_dim] + rest + mask_shape[batch_dim + 1 :]


def units_of(shape: tuple[int, ...]) -> int:
    """Bits of a mask of this shape."""
    return math.prod(shape)
