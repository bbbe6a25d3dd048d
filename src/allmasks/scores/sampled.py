"""Sampled masks for scores, keyed by row, with a standard error from independent blocks of masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from allmasks.errors import MethodNotApplicable
from allmasks.kernels.reference import site_id
from allmasks.losses import ScoreLoss
from allmasks.reliability import Powers, Unseen, Verdict, judge, judge_each
from allmasks.replicates import block_means, mean_and_error
from allmasks.sampling import (
    PILOT_FIRST,
    Blocks,
    Cap,
    Pilot,
    Sampling,
    blocks_of,
    masks_drawn,
    masks_for_tolerance,
    wanted_error,
)
from allmasks.scores.score import Gradient, RowResults, ScoreProblem
from allmasks.scores.watch import Watch, fixed_rows

__all__ = ["sampled_losses"]

Array = NDArray[np.float64]

_SITE = site_id("score")
_BLOCK_ELEMENTS = 2**22


def sampled_losses(
    problems: list[ScoreProblem],
    y: Array,
    loss: ScoreLoss,
    method: Sampling,
    seed: int,
    want_grad: bool,
    numbers: NDArray[np.int64] | None = None,
) -> RowResults:
    """Mean loss, summed over the outputs, over `n_masks` masks an example, and each output's gradient.

    The number of masks is fixed before, by the caller or by a pilot. The problems differ in weights and intercept: all
    are under the same masks, since the error of their sum is not the sum of their errors. `numbers` (n,) are the rows'
    own, by which their masks are keyed.
    """
    rows = np.arange(problems[0].n) if numbers is None else numbers
    if method.atol is None and method.rtol is None:
        return _average(problems, y, loss, blocks_of(method.sampler, masks_drawn(method)), seed, 0, want_grad, rows)
    n_masks, remarks = _enough(problems, y, loss, method, seed, rows)
    result = _average(problems, y, loss, blocks_of(method.sampler, n_masks), seed, 0, want_grad, rows)
    return replace(result, notes=(*remarks, *result.notes))


def _enough(
    problems: list[ScoreProblem],
    y: Array,
    loss: ScoreLoss,
    method: Sampling,
    seed: int,
    numbers: NDArray[np.int64],
) -> tuple[int, tuple[str, ...]]:
    """Masks a row for the tolerance, and the note where a cap stands beside it."""

    def pilot(blocks: Blocks) -> Pilot:
        # Masks of its own: looking at the pilot must not bias the answer.
        found = _average(problems, y, loss, blocks, seed, PILOT_FIRST, False, numbers)
        wanted = wanted_error(method, float(mean_and_error(found.replicates, blocks.sizes)[0]))
        return Pilot(found.value_error, wanted, found.verdict)

    def refused(why: str) -> MethodNotApplicable:
        needs = why.replace(", or pass a larger budget=", "")
        return MethodNotApplicable("MonteCarlo", needs, "a larger atol or rtol, or Fourier()")

    return masks_for_tolerance(method, replace(Cap.of(method), refuse=refused), pilot)


def _average(
    problems: list[ScoreProblem],
    y: Array,
    loss: ScoreLoss,
    blocks: Blocks,
    seed: int,
    first: int,
    want_grad: bool,
    own_numbers: NDArray[np.int64],
) -> RowResults:
    shared = problems[0]
    n, d, n_masks = shared.n, shared.d, blocks.n_masks
    totals = np.zeros(n_masks)
    trusted, fixed, allowance = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    unseen, all_tails = Unseen(0.0, 0.0, 0.0, 1.0), None
    value, error = np.empty(n), np.empty(n)
    slopes = np.zeros((len(problems), n, d)) if want_grad else None
    mean_slope = np.zeros((len(problems), n))
    held = max(blocks.block, len(problems) if loss.joint else 1)
    step = max(1, _BLOCK_ELEMENTS // max(d * held, 1))
    for rows in shared.blocks(step):
        contributions = [problem.contributions(rows) for problem in problems]
        examples = own_numbers[rows]
        means, by_mask = np.zeros((blocks.count, len(examples))), Powers()
        watch = Watch(problems, contributions, y[rows], loss, blocks)
        for part in blocks.parts(_BLOCK_ELEMENTS // (d * len(examples))):
            numbers = first + np.arange(part.start, part.stop)
            kept = blocks.sampler.draw(seed, _SITE, numbers, examples, shared.keep_prob)
            together = np.zeros((len(numbers), len(examples)))
            for outputs, scores, target in _scores(problems, contributions, kept, y[rows], loss.joint):
                together += _finite_losses(loss, scores, target, rows.start, int(numbers[0]))
                if slopes is not None:
                    slope = loss.derivative(scores, target).reshape(-1, *together.shape) / n_masks
                    mean_slope[outputs, rows] += slope.sum(axis=1)
                    for c, own in zip(outputs, slope, strict=True):
                        slopes[c, rows] += np.einsum("mn,mnd->nd", own, kept)
            means[part.start // blocks.block : -(-part.stop // blocks.block)] = block_means(together, blocks.block)
            totals[part] += together @ shared.share[rows]
            by_mask.add(together)
            watch.add(part, kept, together)
        value[rows], error[rows] = mean_and_error(means, blocks.sizes)
        added, tails = watch.unseen(), watch.tails()
        unseen = unseen.plus(added.weighted(shared.share[rows]))
        if tails is not None:
            own_tails = tails.weighted(shared.share[rows])
            all_tails = own_tails if all_tails is None else all_tails.plus(own_tails)
        fixed[rows] = fixed_rows(contributions, shared.p, blocks)
        each = judge_each(means, by_mask, blocks, added, tails)
        # What unseen masks can be worth makes an error right that lacks nothing else.
        worth = watch.allowance(value[rows])
        covered = each.unseen & np.isfinite(worth) & ((worth > 0) | ~each.alike)
        allowance[rows] = np.where(each.unseen, worth, 0.0)
        trusted[rows] = each.reliable | fixed[rows] | covered
        error[rows] = np.where(each.alike & ~covered & ~fixed[rows], np.nan, error[rows])
        error[rows] = np.where(fixed[rows], 0.0, error[rows] + np.where(covered, worth, 0.0))
    at_mean = _at_mean(problems, y, loss)
    replicates = block_means(totals, blocks.block)
    verdict = Verdict(True) if fixed.all() else judge(totals, blocks, unseen, all_tails)
    value_error = 0.0 if fixed.all() else float(mean_and_error(replicates, blocks.sizes)[1])
    with np.errstate(invalid="ignore"):
        hardly = float(np.where(shared.share > 0, shared.share * allowance, 0.0).sum())
    value_error, notes, held = _with_allowance(value_error, verdict, hardly)
    gradients = () if slopes is None else tuple(map(_gradient, problems, slopes, mean_slope))
    return RowResults(
        value,
        error,
        value - at_mean,
        error.copy(),
        "statistical",
        n_masks=n_masks,
        replicates=replicates,
        replicate_masks=blocks.sizes,
        value_error=value_error,
        verdict=verdict,
        covered=held,
        trusted=trusted,
        gradients=gradients,
        notes=notes,
    )


def _gradient(problem: ScoreProblem, slopes: Array, mean_slope: Array) -> Gradient:
    return problem.gradient_of(slopes / problem.keep_prob, mean_slope)


def _at_mean(problems: list[ScoreProblem], y: Array, loss: ScoreLoss) -> Array:
    """(n,) the loss at the mean mask."""
    if loss.joint:
        return loss.value(np.stack([problem.mean() for problem in problems]), y.T)
    return np.asarray(np.sum([loss.value(problem.mean(), y[:, c]) for c, problem in enumerate(problems)], axis=0))


def _scores(
    problems: list[ScoreProblem], contributions: list[Array], kept: NDArray[np.bool_], y: Array, joint: bool
) -> Iterator[tuple[list[int], Array, Array]]:
    """Outputs, their scores (masks, rows) and targets: one after the other, or all at once for a joint loss."""
    shape = kept.shape[:2]

    def score(c: int) -> Array:
        return np.asarray(np.einsum("mnd,nd->mn", kept, contributions[c]) + problems[c].intercept)

    everything = range(len(problems))
    if joint:
        target = np.stack([np.broadcast_to(y[:, c], shape) for c in everything])
        yield list(everything), np.stack([score(c) for c in everything]), target
        return
    for c in everything:
        yield [c], score(c), np.broadcast_to(y[:, c], shape)


def _finite_losses(loss: ScoreLoss, scores: Array, target: Array, first_row: int, first_mask: int) -> Array:
    """Losses (masks, rows), or a ValueError that names the score of the first that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        losses = loss.value(scores, target)
    if not np.isfinite(losses).all():
        mask, row = (int(v) for v in np.argwhere(~np.isfinite(losses))[0])
        scores = scores.max(axis=0) if loss.joint else scores
        raise ValueError(
            f"the loss of row {first_row + row} is not finite at score {scores[mask, row]:.6g}, which mask "
            f"{first_mask + mask} gives; scale the weights down or use another loss"
        )
    return losses


def _with_allowance(error: float, verdict: Verdict, worth: float) -> tuple[float, tuple[str, ...], bool]:
    """The error, notes, and whether it is right by what masks that were hardly drawn can be worth."""
    if verdict.unseen and np.isfinite(worth) and (worth > 0 or not verdict.alike):
        added = f"The error includes {worth:.2g}, the most that masks hardly drawn can be worth by the loss's range."
        return error + worth, (verdict.note, added), True
    notes = (verdict.note,) if verdict.note else ()
    return (float("nan") if verdict.alike else error), notes, False
