"""How many masks a tolerance needs: a pilot of fixed size decides once, the run then uses masks of its own.

Stopping when the error "looks small" biases both the value and the error, so n is fixed before the run begins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allmasks.expect.evaluate import Evaluator
from allmasks.expect.solve import solve
from allmasks.expect.sources import SampledMasks
from allmasks.methods import MonteCarlo
from allmasks.replicates import mean_and_error
from allmasks.sampling import MAX_MASKS, PILOT_FIRST, blocks_of, masks_for, pilot_masks, wanted_error
from allmasks.sites import DropoutSite

if TYPE_CHECKING:
    from allmasks.expect.problem import Problem, Request

__all__ = ["masks_for_tolerance"]


def masks_for_tolerance(
    problem: Problem, method: MonteCarlo, evaluate: Evaluator, sites: tuple[DropoutSite, ...], request: Request
) -> int:
    """Masks with which the standard error is at most max(atol, rtol · |value|), from a pilot of 32 blocks."""
    blocks = blocks_of(method.sampler, pilot_masks(method.sampler))
    pilot = SampledMasks(sites, method.sampler, blocks.n_masks, request.seed, first=PILOT_FIRST)
    solution = solve(problem.job(pilot, evaluate, grad=False))
    assert solution.replicates is not None
    mean, error = mean_and_error(solution.replicates, blocks.sizes)
    wanted = wanted_error(method, float(mean))
    needed = masks_for(float(error), blocks.count, blocks.block, wanted)
    limit = MAX_MASKS if request.budget is None else max(request.budget // problem.n_examples, 1)
    if needed > max(limit, blocks.n_masks):
        reachable = wanted * math.sqrt(needed / max(limit, 1))
        raise ValueError(
            f"a standard error of {wanted:.2g} would take about {needed:.2g} masks for each example, over the "
            f"limit of {limit:,}; {reachable:.2g} is within reach, or pass a larger budget="
        )
    return needed
