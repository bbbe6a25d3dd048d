"""How many masks a run draws: as many as asked for, or as a pilot says that a tolerance takes; and whether they do."""

from __future__ import annotations

from collections.abc import Callable

import torch

from allmasks.expect.expectation import Request
from allmasks.methods import MonteCarlo
from allmasks.prediction.foreseen import foreseeable
from allmasks.prediction.run import Route, run
from allmasks.prediction.setup import Setup
from allmasks.ranks.groups import ALONE, Group
from allmasks.sampling import PILOT_FIRST, Cap, blocks_of, masks_drawn, masks_for, pilot_masks
from allmasks.sites import DropoutSite

__all__ = ["drawn", "masks_for_tolerance", "unseen"]

_RARE = 20.0
"""Expected drops of one unit among all masks below which what is seldom seen may be what matters."""


def masks_for_tolerance(
    setup: Setup, route: Route, request: Request, tick: Callable[[int], None], ranks: Group = ALONE
) -> tuple[int, tuple[str, ...]]:
    """Masks with which every standard error of the mean is at most max(atol, rtol · |mean|), and what stopped the run
    where it is capped.

    A pilot decides once. Where its own masks are too few to be trusted, the spread that rare masks show counts.
    """
    method = route.method
    assert isinstance(method, MonteCarlo)
    blocks = blocks_of(method.sampler, pilot_masks(method.sampler))
    cap = Cap.of(method, request.budget, setup.n_examples)
    if cap.masks <= blocks.n_masks:
        return cap.before_pilot(blocks.n_masks)
    pilot = route.source(blocks.n_masks, request.seed, first=PILOT_FIRST)
    rare = ranks.run(lambda: foreseeable(setup, route, blocks.n_masks))

    def worst() -> float:
        found = run(setup, route, pilot, only=("mean",), rare=rare, tick=tick)
        excess = 0.0
        for i, (mean, error) in enumerate(zip(found.value["mean"], found.error["mean"], strict=True)):
            wanted = torch.clamp((method.rtol or 0.0) * mean.abs(), min=method.atol or 0.0)
            if bool((wanted == 0).any()):
                raise ValueError(f"rtol={method.rtol} asks for an error of 0 where a mean is 0; pass atol as well")
            if found.deviation:
                foreseen = found.deviation[i] / blocks.n_masks**0.5
                error = torch.where(found.reliable["mean"][i], error, torch.fmax(error, foreseen))
            excess = max(excess, float((error / wanted).max()))
        return excess

    excess = max(ranks.gather(ranks.run(worst)))
    return cap.stop(method, masks_for(excess, blocks.count, blocks.block, 1.0), blocks.n_masks)


def unseen(route: Route, n_masks: int) -> tuple[str, ...]:
    """Sites of which a single unit is dropped (or kept) so seldom that the masks may have missed what it does."""
    return tuple(
        site.name for site in route.sites if n_masks * route_inner(route, site) * min(site.p, 1.0 - site.p) < _RARE
    )


def route_inner(route: Route, site: DropoutSite) -> int:
    """Masks of a site for each mask of the run."""
    last = getattr(getattr(route.evaluate, "setup", None), "last", None)
    return route.inner if last is not None and last.site == site.name else 1


def drawn(route: Route) -> int:
    """Masks a run draws."""
    assert isinstance(route.method, MonteCarlo)
    return masks_drawn(route.method)
