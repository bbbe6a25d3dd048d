"""The masks of a run: as many as asked for, or as a pilot says that a tolerance takes; and whether they are enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from allmasks.methods import MonteCarlo
from allmasks.over_masks.request import Request
from allmasks.over_masks.sources import source_of
from allmasks.prediction.averages import Averages, Route, average
from allmasks.prediction.foreseen import RareMasks, foreseeable
from allmasks.prediction.outputs import Outputs
from allmasks.reliability import FEWEST_MASKS
from allmasks.sampling import PILOT_FIRST, Blocks, Cap, Pilot, masks_for_tolerance
from allmasks.sites import DropoutSite

__all__ = ["doubts", "enough", "unseen"]

_RARE = 20.0
"""Expected drops of one unit among all masks below which what is seldom seen may be what matters."""


def enough(
    outputs: Outputs, route: Route, request: Request, tick: Callable[[int], None]
) -> tuple[int, tuple[str, ...]]:
    """Masks with which every standard error of the mean is at most max(atol, rtol · |mean|), and what stopped the run
    where it is capped.

    Where the pilot's own masks are too few to be trusted, the spread that rare masks show counts.
    """
    method, ranks = route.option.method, outputs.look.group
    assert isinstance(method, MonteCarlo)
    means = replace(outputs, asked=replace(outputs.asked, likelihood=False, samples=False, precision=None))

    def pilot(blocks: Blocks) -> Pilot:
        rare = ranks.run(lambda: foreseeable(outputs, route, blocks.n_masks))
        return Pilot(max(ranks.gather(ranks.run(lambda: worst(blocks, rare)))))

    def worst(blocks: Blocks, rare: RareMasks | None) -> float:
        source = source_of(route.option, blocks.n_masks, request.seed, PILOT_FIRST)
        found = average(means, route, source, only=("mean",), rare=rare, tick=tick)
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

    return masks_for_tolerance(method, Cap.of(method, request.budget, outputs.look.n_examples), pilot)


def unseen(outputs: Outputs, route: Route, n_masks: int) -> tuple[str, ...]:
    """Sites of which a single unit is dropped (or kept) so seldom that the masks may have missed what it does."""

    def drawn(site: DropoutSite) -> int:
        return n_masks * (route.option.inner if outputs.last is not None and outputs.last.site == site.name else 1)

    return tuple(site.name for site in route.option.sites if drawn(site) * min(site.p, 1.0 - site.p) < _RARE)


def doubts(results: Averages, masks: int, seldom: tuple[str, ...]) -> list[str]:
    """What a reader should know of errors that cannot be trusted."""
    if masks < FEWEST_MASKS:
        return [f"{masks} masks cannot show what is rare, so no error here can be trusted; {FEWEST_MASKS} can."]
    if seldom:
        return [
            f"A unit of {', '.join(seldom)} is dropped in fewer than 20 of the {masks} masks: no error here can be "
            "trusted. More masks can."
        ]
    doubted = [
        name.replace("_", " ") for name, flags in results.reliable.items() if any(bool((~f).any()) for f in flags)
    ]
    if not doubted:
        return []
    return [
        f"For some outputs the error of {', '.join(doubted)} cannot be trusted (`reliable`): of {masks} masks too few "
        "decide, or would, were they drawn. More masks help."
    ]
