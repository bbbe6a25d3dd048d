"""How many masks a tolerance needs: a pilot of fixed size decides once, the run then uses masks of its own.

Stopping when the error "looks small" biases both the value and the error, so n is fixed before the run begins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allmasks.expect.evaluate import Evaluator
from allmasks.expect.plan import MAX_SAMPLED_MASKS, MIN_REPLICATES
from allmasks.expect.solve import solve
from allmasks.expect.sources import SampledMasks
from allmasks.methods import MonteCarlo
from allmasks.scores.monte_carlo import PILOT_FIRST, blocks_for
from allmasks.sites import DropoutSite

if TYPE_CHECKING:
    from allmasks.expect.problem import Problem, Request

__all__ = ["masks_for_tolerance"]


def masks_for_tolerance(
    problem: Problem, method: MonteCarlo, evaluate: Evaluator, sites: tuple[DropoutSite, ...], request: Request
) -> int:
    """Masks with which the standard error is at most max(atol, rtol · |value|), from a pilot of 32 blocks."""
    block = method.sampler.block
    pilot = SampledMasks(sites, method.sampler, MIN_REPLICATES * block, request.seed, first=PILOT_FIRST)
    solution = solve(problem.job(pilot, evaluate, grad=False))
    assert solution.replicates is not None
    value = float(problem.group.sum((problem.weight * solution.per_example).sum()))
    wanted = max(method.atol or 0.0, (method.rtol or 0.0) * abs(value))
    if wanted == 0:
        raise ValueError(f"rtol={method.rtol} asks for an error of 0 because the value is 0; pass atol as well")
    blocks = blocks_for(solution.replicates.cpu().numpy(), wanted)
    limit = MAX_SAMPLED_MASKS if request.budget is None else max(request.budget // problem.n_examples, 1)
    if blocks * block > max(limit, MIN_REPLICATES * block):
        reachable = wanted * math.sqrt(blocks / max(limit // block, 1))
        raise ValueError(
            f"a standard error of {wanted:.2g} would take about {blocks * block:.2g} masks for each example, over the "
            f"limit of {limit:,}; {reachable:.2g} is within reach, or pass a larger budget="
        )
    return blocks * block
