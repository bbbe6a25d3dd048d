"""Sampled masks for scores, keyed by row, with a standard error from independent blocks of masks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from allmasks.errors import MethodNotApplicable
from allmasks.kernels.reference import site_id
from allmasks.losses import CallableScoreLoss, ScoreLoss
from allmasks.methods import MonteCarlo
from allmasks.scores.problem import Gradient, RowResults, ScoreProblem

__all__ = ["DEFAULT_MASKS", "MIN_BLOCKS", "PILOT_FIRST", "blocks_for", "sampled_losses"]

Array = NDArray[np.float64]

DEFAULT_MASKS = 256
MIN_BLOCKS = 32
"""Independent blocks below which a standard error is not to be trusted."""

PILOT_FIRST = 2**40
"""Number of a pilot's first mask: far beyond those of any run, so that the pilot is independent of it."""

_CONFIDENCE = 0.9
_MAX_MASKS = 2**22
_SITE = site_id("score")
_BLOCK_ELEMENTS = 2**22


def sampled_losses(
    problems: list[ScoreProblem], y: Array, loss: ScoreLoss, method: MonteCarlo, seed: int, want_grad: bool
) -> tuple[RowResults, list[Gradient]]:
    """Mean loss, summed over the outputs, over `n_masks` masks an example, and each output's gradient.

    The number of masks is fixed before, by the caller or by a pilot. The problems differ in weights and intercept.
    """
    if method.control is not None:
        raise MethodNotApplicable("MonteCarlo", "control variates are for models", "MonteCarlo(control=None)")
    if want_grad and isinstance(loss, CallableScoreLoss):
        raise MethodNotApplicable(
            "MonteCarlo",
            "return_grad needs the loss's derivative, which a callable does not have",
            "Fourier(), or a named loss",
        )
    block = method.sampler.block
    at_least = MIN_BLOCKS * block
    if method.atol is not None or method.rtol is not None:
        # Masks of its own: looking at the pilot must not bias the answer.
        pilot, _ = _average(problems, y, loss, method, seed, PILOT_FIRST, at_least, False)
        n_masks = _enough(method, pilot)
    else:
        n_masks = DEFAULT_MASKS if method.n_masks is None else int(method.n_masks)
        if n_masks < at_least:
            raise ValueError(
                f"n_masks={n_masks} is too few for an error that can be trusted: at least {at_least}, {MIN_BLOCKS} "
                f"independent blocks of {block}"
            )
        n_masks = -(-n_masks // block) * block
    return _average(problems, y, loss, method, seed, 0, n_masks, want_grad)


def blocks_for(pilot: Array, wanted: float) -> int:
    """Blocks with which the standard error is at most `wanted` with probability 0.9, from a pilot's block means.

    A pilot of 32 blocks knows their variance only to about 25 %: its upper confidence limit keeps the promise.
    """
    degrees = len(pilot) - 1
    variance = float(pilot.var(ddof=1)) * degrees / float(chi2.ppf(1 - _CONFIDENCE, degrees))
    return max(MIN_BLOCKS, math.ceil(variance / wanted**2))


def _enough(method: MonteCarlo, pilot: RowResults) -> int:
    assert pilot.replicates is not None
    value = float(pilot.replicates.mean())
    wanted = max(method.atol or 0.0, (method.rtol or 0.0) * abs(value))
    if wanted == 0:
        raise ValueError(f"rtol={method.rtol} asks for an error of 0 because the value is 0; pass atol as well")
    n_masks = blocks_for(pilot.replicates, wanted) * method.sampler.block
    if n_masks > _MAX_MASKS:
        raise MethodNotApplicable(
            "MonteCarlo",
            f"a standard error of {wanted:.2g} takes about {n_masks:.2g} masks a row, more than {_MAX_MASKS:,}",
            "a larger atol or rtol, or Fourier()",
        )
    return n_masks


def _average(
    problems: list[ScoreProblem],
    y: Array,
    loss: ScoreLoss,
    method: MonteCarlo,
    seed: int,
    first: int,
    n_masks: int,
    want_grad: bool,
) -> tuple[RowResults, list[Gradient]]:
    shared = problems[0]
    n, d, block = shared.n, shared.d, method.sampler.block
    blocks = n_masks // block
    replicates = np.zeros(blocks)
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((len(problems), n, d)) if want_grad else None
    mean_slope = np.zeros((len(problems), n))
    step = max(1, _BLOCK_ELEMENTS // max(d * block, 1))
    for rows in shared.blocks(step):
        contributions = [problem.contributions(rows) for problem in problems]
        examples = np.arange(rows.start, rows.stop)
        means = np.zeros((blocks, len(examples)))
        together = max(1, _BLOCK_ELEMENTS // (d * block * len(examples)))  # blocks drawn at once
        for lo in range(0, blocks, together):
            hi = min(lo + together, blocks)
            numbers = first + np.arange(lo * block, hi * block)
            kept = method.sampler.draw(seed, _SITE, numbers, examples, shared.keep_prob)
            for c, (problem, a) in enumerate(zip(problems, contributions, strict=True)):
                scores = np.einsum("mnd,nd->mn", kept, a) + problem.intercept
                target = np.broadcast_to(y[rows, c], scores.shape)
                with np.errstate(over="ignore", invalid="ignore"):
                    losses = loss.value(scores, target)
                if not np.isfinite(losses).all():
                    mask, row = (int(v) for v in np.argwhere(~np.isfinite(losses))[0])
                    raise ValueError(
                        f"the loss of row {rows.start + row} is not finite at score {scores[mask, row]:.6g}, which "
                        f"mask {numbers[mask]} gives; scale the weights down or use another loss"
                    )
                means[lo:hi] += losses.reshape(hi - lo, block, -1).mean(axis=1)
                if slopes is not None:
                    slope = loss.derivative(scores, target) / n_masks
                    mean_slope[c, rows] += slope.sum(axis=0)
                    slopes[c, rows] += np.einsum("mn,mnd->nd", slope, kept)
        value[rows] = means.mean(axis=0)
        error[rows] = means.std(axis=0, ddof=1) / math.sqrt(blocks)
        replicates += means @ shared.share[rows]
    at_mean = np.sum([loss.value(problem.mean(), y[:, c]) for c, problem in enumerate(problems)], axis=0)
    result = RowResults(
        value,
        error,
        value - at_mean,
        error.copy(),
        "statistical",
        n_masks=n_masks,
        replicates=replicates,
    )
    if slopes is None:
        return result, []
    return result, [
        problem.gradient_of(slopes[c] / problem.keep_prob, mean_slope[c]) for c, problem in enumerate(problems)
    ]
