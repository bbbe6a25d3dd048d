"""Sites of which one mask covers the whole input: examples that depend on one another have their masks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from torch import Tensor, nn

from allmasks.sites.left_off import LeftOff
from allmasks.sites.probe import Axis, Inputs
from allmasks.sites.site import DropoutSite, units_of
from allmasks.sites.trace import Trace, output_tensors, trace

__all__ = ["WHOLE", "BatchDim", "joint_axes", "narrowed", "sites_again", "the_rows"]

WHOLE: Final = "whole"
"""The value of `batch_dim` that says so."""

BatchDim = int | Literal["whole"] | None


def joint_axes(seen: Trace, extract: Callable[[Any], Any]) -> tuple[dict[str, Axis | str], tuple[int | None, ...]]:
    """As `find_axes`: no site has an example axis, and the rows of the output lie along its first."""
    axes: dict[str, Axis | str] = dict.fromkeys(seen.seen, Axis(None))
    tensors = output_tensors(extract(seen.output))
    rows = the_rows(tensors)
    return axes, tuple(0 if leaf.ndim and len(leaf) == rows else None for leaf in tensors)


def the_rows(tensors: list[Tensor]) -> int:
    """How many rows an output has: along the first axis of its first tensor that has one."""
    return next((len(leaf) for leaf in tensors if leaf.ndim), 1)


def sites_again(
    model: nn.Module,
    call: tuple[tuple[Any, ...], dict[str, Any]],
    known: tuple[DropoutSite, ...],
    rest: Mapping[str, float | None],
    leave_off: tuple[str, ...] = (),
) -> tuple[DropoutSite, ...]:
    """The sites of a model that has been looked at, as they lie in another input; call it inside `borrowed`.

    Parameters
    ----------
    call : what the model is called with.
    rest, leave_off : as `Inspection.rest` of that look, and as it was given.

    Raises
    ------
    ValueError : if the model does not reach each of them here, and no other.
    """
    wake = frozenset(site.wakes for site in known if site.wakes is not None)
    seen = trace(model, Inputs(*call, 0, 0), train=False, wake=wake, constants=rest).seen
    left, names = LeftOff(leave_off), {site.name for site in known}
    missing = [site.name for site in known if site.p > 0 and site.name not in seen]
    beside = [n for n, found in seen.items() if n not in names and found.call.p > 0 and not left.takes(n)]
    if missing or beside:
        raise ValueError(
            f"the model has other dropout sites in this batch than in the first: it lacks {missing or 'none'} and adds "
            f"{beside or 'none'}; its masks would not be those of one model"
        )
    shapes = {name: tuple(found.call.mask_shape) for name, found in seen.items()}
    return tuple(
        replace(site, shape=shapes[site.name], units=units_of(shapes[site.name])) if site.name in shapes else site
        for site in known
    )


def narrowed(site: str, kept: Tensor, needed: tuple[int, ...]) -> Tensor:
    """The first of the bits, where masks of other sites have left the call fewer than it has with nothing dropped.

    Which are left over hangs on those other masks alone, so the bits that are used are as independent as before.

    Raises
    ------
    ValueError : if there are too few.
    """
    shape = tuple(kept.shape)
    if shape == needed:
        return kept
    if len(shape) != len(needed) or any(have != 1 and have < want for have, want in zip(shape, needed, strict=True)):
        raise ValueError(
            f"{site} needs a mask of shape {needed} under this mask of the other sites, and one of {shape} with "
            "nothing dropped; a site may lose units where others drop what they belong to, not gain any"
        )
    for axis, (have, want) in enumerate(zip(shape, needed, strict=True)):
        if have > want:
            kept = kept.narrow(axis, 0, want)
    return kept
