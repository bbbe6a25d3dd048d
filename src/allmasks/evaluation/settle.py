"""What was meant by the targets and the groups, or one clear line about what was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allmasks.evaluation.resampling import Units
from allmasks.evaluation.scored import held_by
from allmasks.prediction import Prediction
from allmasks.prediction.task import Task

__all__ = ["IGNORED", "checked_targets", "kept", "units_of"]

IGNORED = -100
"""Labels that are left out, as torch's losses have it."""


def checked_targets(prediction: Prediction, y: Any) -> Tensor:
    """Targets in the output's layout with the examples first.

    Raises
    ------
    ValueError : of another length or shape, classes out of range, NaN.
    """
    held = held_by(prediction)
    mean = held.front(prediction.mean).cpu()
    try:
        target = y.detach().cpu() if isinstance(y, Tensor) else torch.as_tensor(np.asarray(y))
    except (TypeError, ValueError) as problem:
        raise TypeError(f"y must be a tensor or an array of numbers, got {type(y).__name__}: {problem}") from None
    target = torch.as_tensor(target)
    if not target.ndim or len(target) != len(mean):
        given = len(target) if target.ndim else "a single number"
        raise ValueError(f"y must have one entry for each of the {len(mean)} examples, got {given}")
    if target.is_floating_point() and not bool(torch.isfinite(target).all()):
        rows = ~torch.isfinite(target).reshape(len(target), -1).all(dim=1)
        raise ValueError(f"y is not finite for example {int(rows.nonzero()[0])}; leave out examples without a target")
    task = Task(prediction.task, held.class_dim)
    if prediction.task == "multiclass":
        if target.dtype == torch.bool or (target.is_floating_point() and bool((target == target.round()).all())):
            target = target.long()
        if held.batch_dim and target.ndim == mean.ndim - 1 and target.ndim > 1 and target.shape[0] != len(mean):
            target = target.movedim(held.batch_dim, 0)
        if target.ndim == mean.ndim and target.shape[-1] == 1 and mean.ndim == 2:
            target = target[:, 0]
        skipped = target == IGNORED
        task.check_target(torch.where(skipped, 0, target), mean)
        return target
    return task.check_target(target, mean)


def kept(prediction: Prediction, y: Tensor) -> NDArray[np.bool_]:
    """(N,) which entries have a label."""
    if prediction.task != "multiclass":
        return np.ones(y.numel(), bool)
    found: NDArray[np.bool_] = (y != IGNORED).reshape(-1).cpu().numpy()
    if not found.any():
        raise ValueError(f"every label is {IGNORED}, which means that there is none; metrics need labels")
    return found


def units_of(n_examples: int, keep: NDArray[np.bool_], groups: Any, stratum: int = 0) -> Units:
    """Units of entries, a whole number of which is each example's.

    Raises
    ------
    ValueError : groups of another length, or fewer than two.
    """
    if groups is None:
        own = np.arange(n_examples)
    else:
        names = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
        if names.ndim != 1 or len(names) != n_examples:
            raise ValueError(
                f"groups must name the group of each of the {n_examples} examples, got shape {tuple(names.shape)}"
            )
        known, own = np.unique(names, return_inverse=True)
        if len(known) < 2:
            raise ValueError("groups names one group only, which says nothing of others; errors over data need two")
    entries = np.repeat(own, len(keep) // n_examples)[keep]
    used, of = np.unique(entries, return_inverse=True)
    return Units(of.reshape(-1), np.full(len(used), stratum))
