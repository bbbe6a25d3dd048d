"""What needs no look inside: losses and gradients of passes against draws of the law that they must follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from allmasks.results import Note
from allmasks.verification.lawful import Lawful
from allmasks.verification.odds import larger_spread, repeats, serial, two_means
from allmasks.verification.steps import Passes
from allmasks.verification.trial import Trial

__all__ = ["LawTrials", "eval_trials", "law_trials"]


@dataclass(frozen=True)
class LawTrials:
    """The tests, and the numbers that a diagnosis reads.

    ratio : standard deviation of the passes' losses by the law's.
    """

    trials: list[Trial]
    mean: float
    expected: float
    error: float
    ratio: float


def law_trials(passes: Passes, lawful: Lawful | None, resolution: float, each: int) -> LawTrials:
    """Mean, spread, freshness and gradient.

    Parameters
    ----------
    lawful : None where E_m[L] cannot be had; freshness is then tested alone.
    resolution : a difference of losses that round-off explains.
    each : passes in a block of gradients.
    """
    losses = np.asarray(passes.losses)
    related, p_serial = serial(losses)
    trials = [
        Trial(
            "", "serial correlation", "0", f"{related:.3f}", p_serial, "same_each_step", "step",
            Note(
                "losses of neighboring steps are related (rank correlation {seen:.2f}): masks are not drawn anew at "
                "each step.",
                seen=related,
            ),
        )
    ]  # fmt: skip
    if lawful is None:
        return LawTrials(trials, float(losses.mean()), math.nan, math.nan, math.nan)
    expected, mean = lawful.value, float(losses.mean())
    spread = float(losses.std(ddof=1)) if len(losses) > 1 else 0.0
    ratio = spread / lawful.spread if lawful.spread > 0 else (1.0 if spread <= resolution else math.inf)
    error = math.hypot(spread / math.sqrt(len(losses)), lawful.error)
    trials.append(
        Trial(
            "", "mean loss", f"{expected:.6g}", f"{mean:.6g}", two_means(losses, lawful.losses, resolution), "law",
            "step",
            Note(
                "the step's mean loss is {seen:.6g} where E_m[L] = {expected:.6g} (standard error {error:.2g}): its "
                "masks are "
                "not those of the model, or it is not this loss of this batch.",
                seen=mean,
                expected=expected,
                error=error,
            ),
        )
    )  # fmt: skip
    if max(spread, lawful.spread) > 4 * resolution:
        trials.append(
            Trial(
                "", "spread of the loss", f"{lawful.spread:.3g}", f"{spread:.3g}", larger_spread(losses, lawful.losses),
                "law", "step",
                Note(
                    "the batch loss varies by {seen:.3g} from pass to pass where independent masks give "
                    "{expected:.3g}.",
                    seen=spread,
                    expected=lawful.spread,
                ),
            )
        )  # fmt: skip
    again, p_repeats = repeats(losses, lawful.losses)
    trials.append(
        Trial(
            "", "losses that come again", "none", f"{again} of {len(losses)}", p_repeats, "same_each_step", "step",
            Note(
                "{again} of {passes} losses are equal to another to the last digit: the same masks come again, as "
                "where a "
                "generator is reseeded or a captured graph replays one seed.",
                again=again,
                passes=len(losses),
            ),
        )
    )  # fmt: skip
    trials += _gradient_trials(passes, lawful, each)
    return LawTrials(trials, mean, expected, error, ratio)


_ALONG = ("along ∇E_m[L]", "along what masks add to it")


def _gradient_trials(passes: Passes, lawful: Lawful, each: int) -> list[Trial]:
    along = np.asarray(passes.along)
    if along.ndim != 2 or lawful.along.ndim != 2 or not len(lawful.along) or along.shape[1] != lawful.along.shape[1]:
        return []
    blocks = len(along) // each
    if blocks < 8:
        return []
    seen = along[: blocks * each].reshape(blocks, each, -1).mean(axis=1)
    trials = []
    for d in range(seen.shape[1]):
        one, other = seen[:, d], lawful.along[:, d]
        told = _ALONG[d] if d < len(_ALONG) else f"along direction {d + 1}"
        size = 1e-4 * abs(float(other.mean()))
        sentence = Note(
            "the mean gradient {along} is {seen:.4g} where ∇E_m[L] has {expected:.4g}: backward goes through other "
            "masks than "
            "forward, as where a checkpointed part is computed again without the generator's state.",
            along=told,
            seen=float(one.mean()),
            expected=float(other.mean()),
        )
        trials.append(
            Trial(
                "", f"gradient {told}", f"{other.mean():.4g}", f"{one.mean():.4g}", two_means(one, other, size),
                "backward_mask", "step", sentence,
            )
        )  # fmt: skip
    return trials


def eval_trials(losses: list[float], at_mean: float | None, tolerance: float, where: str) -> list[Trial]:
    """Eval mode: the same at each pass, and the weight-scaling loss."""
    low, high = min(losses), max(losses)
    varies = high - low > tolerance
    trials = [
        Trial(
            "", "eval mode", "one loss", f"{low:.6g} … {high:.6g}" if varies else f"{low:.6g}", 0.0 if varies else 1.0,
            "on_in_eval", where,
            Note(
                "in eval mode the loss varies from pass to pass ({low:.6g} … {high:.6g}): units are dropped there "
                "too, as where "
                "a rate is passed without asking for the training flag.",
                low=low,
                high=high,
            ),
        )
    ]  # fmt: skip
    if at_mean is not None and not varies:
        off = abs(high - at_mean) > tolerance
        trials.append(
            Trial(
                "", "eval mode loss", f"{at_mean:.6g}", f"{high:.6g}", 0.0 if off else 1.0, "law", "step",
                Note(
                    "in eval mode the step's loss is {seen:.6g} where this model, batch and loss give "
                    "{expected:.6g}: it is "
                    "another loss, another batch, or eval mode is not weight scaling.",
                    seen=high,
                    expected=at_mean,
                ),
            )
        )  # fmt: skip
    return trials
