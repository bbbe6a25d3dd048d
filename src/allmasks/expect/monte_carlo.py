"""How many masks a tolerance needs: a pilot of fixed size decides once, the run then uses masks of its own.

Stopping when the error "looks small" biases both the value and the error, so n is fixed before the run begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allmasks.methods import MonteCarlo
from allmasks.over_masks.passes import Evaluator, solve
from allmasks.over_masks.seldom import seldom_changes
from allmasks.over_masks.sources import SampledMasks
from allmasks.reliability import judge
from allmasks.replicates import block_means, mean_and_error
from allmasks.sampling import PILOT_FIRST, Cap, larger_pilot, masks_for, pilot_masks, wanted_error
from allmasks.sites import DropoutSite

if TYPE_CHECKING:
    from allmasks.expect.expectation import Expectation, Request

__all__ = ["masks_for_tolerance"]


def masks_for_tolerance(
    problem: Expectation, method: MonteCarlo, evaluate: Evaluator, sites: tuple[DropoutSite, ...], request: Request
) -> tuple[int, tuple[str, ...]]:
    """Masks with which the standard error is at most max(atol, rtol · |value|), and what stopped the run if capped.

    A pilot of 32 blocks says how many; where it cannot have shown what matters, a larger one does.
    """
    cap = Cap.of(method, request.budget, problem.n_examples)
    first = pilot_masks(method.sampler)
    if cap.masks <= first:
        return cap.before_pilot(first)
    n_pilot = first
    while True:
        pilot = SampledMasks(sites, method.sampler, n_pilot, request.seed, first=PILOT_FIRST)
        job = problem.job(pilot, evaluate, grad=False)
        solution = solve(job)
        assert solution.totals is not None
        mean, error = mean_and_error(block_means(solution.totals, pilot.block), pilot.blocks.sizes)
        wanted = wanted_error(method, float(mean))
        verdict = judge(solution.totals.cpu().numpy(), pilot.blocks, seldom_changes(job))
        larger = larger_pilot(n_pilot, verdict.masks, first)
        if verdict.reliable:
            return cap.stop(method, masks_for(float(error), pilot.blocks.count, pilot.block, wanted), n_pilot, wanted)
        if larger is None or larger >= cap.masks:
            return cap.undecided(method, n_pilot, verdict.note)
        n_pilot = larger
