"""Sampled masks for scores, keyed by row, with a standard error from independent blocks of masks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.kernels.reference import site_id
from allmasks.losses import CallableScoreLoss, ScoreLoss
from allmasks.methods import MonteCarlo
from allmasks.scores.problem import RowResults, ScoreProblem

__all__ = ["DEFAULT_MASKS", "MIN_BLOCKS", "sampled_loss"]

Array = NDArray[np.float64]

DEFAULT_MASKS = 256
MIN_BLOCKS = 32
"""Independent blocks below which a standard error is not to be trusted."""

_MAX_MASKS = 2**22
_SITE = site_id("score")
_BLOCK_ELEMENTS = 2**22


def sampled_loss(
    problem: ScoreProblem, y: Array, loss: ScoreLoss, method: MonteCarlo, seed: int, want_grad: bool
) -> RowResults:
    """Mean loss over `n_masks` masks an example; the number is fixed before, by the caller or by a pilot."""
    if method.control is not None:
        raise MethodNotApplicable("MonteCarlo", "control variates are for models", "MonteCarlo(control=None)")
    if want_grad and isinstance(loss, CallableScoreLoss):
        raise MethodNotApplicable(
            "MonteCarlo", "return_grad needs the loss's derivative, which a callable does not have", "a named loss"
        )
    block = method.sampler.block
    at_least = MIN_BLOCKS * block
    first = 0
    if method.atol is not None or method.rtol is not None:
        pilot = _average(problem, y, loss, method, seed, 0, at_least, False)
        # Fresh masks for the answer: looking at the pilot must not bias it.
        first = at_least
        n_masks = _enough(method, pilot, at_least)
    else:
        n_masks = DEFAULT_MASKS if method.n_masks is None else int(method.n_masks)
        if n_masks < at_least:
            raise ValueError(
                f"n_masks={n_masks} is too few for an error that can be trusted: at least {at_least}, {MIN_BLOCKS} "
                f"independent blocks of {block}"
            )
        n_masks = -(-n_masks // block) * block
    return _average(problem, y, loss, method, seed, first, n_masks, want_grad)


def _enough(method: MonteCarlo, pilot: RowResults, at_least: int) -> int:
    assert pilot.replicates is not None
    spread = float(pilot.replicates.std(ddof=1))
    wanted = math.inf
    if method.atol is not None:
        wanted = min(wanted, method.atol)
    if method.rtol is not None:
        wanted = min(wanted, method.rtol * abs(float(pilot.replicates.mean())))
    block = method.sampler.block
    # A fifth more, since the pilot's own spread is uncertain.
    blocks = math.ceil(1.2 * (spread / wanted) ** 2) if wanted > 0 else math.inf
    n_masks = max(at_least, blocks * block)
    if n_masks > _MAX_MASKS:
        raise MethodNotApplicable(
            "MonteCarlo",
            f"that tolerance needs about {n_masks:.2g} masks an example",
            "a larger atol or rtol, or Fourier()",
        )
    return int(n_masks)


def _average(
    problem: ScoreProblem,
    y: Array,
    loss: ScoreLoss,
    method: MonteCarlo,
    seed: int,
    first: int,
    n_masks: int,
    want_grad: bool,
) -> RowResults:
    n, d, block = problem.n, problem.d, method.sampler.block
    blocks = n_masks // block
    replicates = np.zeros(blocks)
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((n, d)) if want_grad else None
    mean_slope = np.zeros(n)
    step = max(1, _BLOCK_ELEMENTS // max(d * block, 1))
    for rows in problem.blocks(step):
        a = problem.contributions(rows)
        examples = np.arange(rows.start, rows.stop)
        means = np.empty((blocks, len(examples)))
        for i in range(blocks):
            numbers = first + np.arange(i * block, (i + 1) * block)
            kept = method.sampler.draw(seed, _SITE, numbers, examples, problem.keep_prob)
            scores = np.einsum("mnd,nd->mn", kept, a) + problem.intercept
            means[i] = loss.value(scores, np.broadcast_to(y[rows], scores.shape)).mean(axis=0)
            if slopes is not None:
                slope = loss.derivative(scores, y[rows]) / n_masks
                mean_slope[rows] += slope.sum(axis=0)
                slopes[rows] += np.einsum("mn,mnd->nd", slope, kept)
        value[rows] = means.mean(axis=0)
        error[rows] = means.std(axis=0, ddof=1) / math.sqrt(blocks)
        replicates += means @ problem.share[rows]
    at_mean = loss.value(problem.mean(), y)
    gradient = None
    if slopes is not None:
        full = slopes / problem.keep_prob

        def slope_of(rows: slice) -> Array:
            if problem.is_sparse:
                x = problem.X[rows].tocsr()
                return full[rows][np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), x.indices]
            return full[rows]

        gradient = problem.gradient(np.zeros(n), slope_of, intercept=mean_slope)
    return RowResults(
        value,
        error,
        value - at_mean,
        error.copy(),
        "statistical",
        n_masks=n_masks,
        replicates=replicates,
        gradient=gradient,
    )
