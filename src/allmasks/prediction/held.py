"""What is kept of a run for those who look at predictions afterwards: their means in each replicate of the masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from allmasks.prediction.task import Task
from allmasks.replicates import grouped_sizes

if TYPE_CHECKING:
    from allmasks.prediction.outputs import Outputs

__all__ = ["HELD_BYTES", "Digest", "Held", "batch_held", "held_of"]

HELD_BYTES = 2**27
"""What the replicates of a prediction may take by themselves."""

_FEWEST = 8
"""Replicates below which none are kept: an error from fewer says little."""


class Digest(Protocol):
    """What is made of the predictions of a batch, in place of keeping them."""

    @property
    def each_mask(self) -> bool:
        """Whether the predictions under each mask are wanted."""
        ...

    def checked(self, task: Task, y: Any, output: Tensor) -> Tensor:
        """The batch's targets as they are meant, or a ValueError."""
        ...

    def __call__(
        self, y: Tensor | None, center: Tensor, samples: Tensor | None, weight: Tensor, blocks: Any
    ) -> dict[str, Tensor]:
        """Tensors (n, …) of the predictions in eval mode (n, …) and under each mask (n, masks, …).

        Parameters
        ----------
        weight : (masks,) of each mask. blocks : masks in each independent block; None where all were listed.
        """
        ...


@dataclass(frozen=True)
class Held:
    """What a run keeps beside its results.

    Attributes
    ----------
    sizes : (r,) masks in each replicate; empty where nothing was sampled, or where r means would take too much room.
    batch_dim, class_dim : the example axis of the output, and the class axis once the example axis comes first,
        counted from the end.
    shared : whether a mask may serve several examples, whose errors are then not independent.
    tensors : "first" and "entropy": (n, r, …) deviations of a replicate's mean from the mean of all, float32;
        "density" (n, r) likelihood of the "target" in a replicate over that in all, and "log" (n,) its log in all; and
        what a digest made.
    """

    sizes: np.ndarray
    batch_dim: int
    class_dim: int
    shared: bool
    block: int = 1
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def front(self, values: Tensor) -> Tensor:
        """A field of the prediction with its example axis first."""
        return values.movedim(min(self.batch_dim, values.ndim - 1), 0)


def batch_held(
    means: dict[str, Tensor], density: Tensor | None, reference: Tensor, sizes: Any, outputs: Outputs
) -> dict[str, Tensor]:
    """The replicates' means (r, n, …) of one batch as `Held` has them."""
    held: dict[str, Tensor] = {}
    if density is not None:
        whole = density.mean(dim=0) if sizes is None else _weighted(density, sizes)
        at = torch.where(reference.isfinite(), reference, 0.0)
        held["log"] = whole.log() + at
        if sizes is not None and len(sizes) > 1:
            held["density"] = (density / torch.where(whole > 0, whole, 1.0)).movedim(0, 1)
    kept = (
        None if sizes is None else _kept_sizes(sizes, means["first"][0][:1].numel() * outputs.look.n_examples, outputs)
    )
    if kept is None:
        return held | ({"density": torch.empty(len(reference), 0)} if "density" in held else {})
    for name in ("first", "entropy"):
        if name in means:
            held[name] = _deviations(means[name], sizes, len(kept)).movedim(0, 1)
    if "density" in held and len(kept) < len(sizes):
        held["density"] = _deviations(held["density"].movedim(1, 0), sizes, len(kept), double=True).movedim(0, 1) + 1.0
    return held


def held_of(outputs: Outputs, tensors: dict[str, Tensor], sizes: Any, block: int) -> Held | None:
    """All batches' together."""
    dims = [dim for dim in outputs.dims if dim is not None]
    if len(dims) != 1:
        return None
    known = np.zeros(0, np.int64)
    if "first" in tensors:
        known = grouped_sizes(sizes, tensors["first"].shape[1])
    return Held(known, dims[0], outputs.task.class_dim, outputs.shared, block, tensors)


def _kept_sizes(sizes: Any, numbers: int, outputs: Outputs) -> Any:
    at_most = int(outputs.asked.hold // max(4 * numbers, 1))
    if len(sizes) < 2 or at_most < min(_FEWEST, len(sizes)):
        return None
    return grouped_sizes(sizes, min(at_most, len(sizes)))


def _weighted(values: Tensor, sizes: Any) -> Tensor:
    share = torch.as_tensor(sizes / sizes.sum(), dtype=values.dtype, device=values.device)
    return (values * share.reshape(-1, *[1] * (values.ndim - 1))).sum(dim=0)


def _deviations(means: Tensor, sizes: Any, groups: int, *, double: bool = False) -> Tensor:
    apart = means - _weighted(means, sizes)
    if groups < len(sizes):
        per = np.full(groups, len(sizes) // groups)
        per[: len(sizes) % groups] += 1
        ends = np.cumsum(per)
        parts = zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)
        apart = torch.stack([_weighted(apart[a:b], sizes[a:b]) for a, b in parts])
    return apart if double else apart.float()
