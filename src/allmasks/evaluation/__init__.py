"""Is the uncertainty any good? Metrics of predictions over masks, each with its error over masks and over data.

`scored` turns a prediction and its targets into scored entries, `classes` and `regressions` say which metrics there
are, `resampling` gives each its errors. Of the masks only means by replicate are needed (`prediction.held`), and of a
regression what `digest` makes of each batch: nothing of masks × examples × classes is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.evaluation.assessment import assess_classes, assess_regression, evaluate_prediction, noise_of
from allmasks.evaluation.classes import Options
from allmasks.evaluation.digest import LabelDigest, SampleDigest
from allmasks.evaluation.metric import AtMasks, Evaluation, Metric
from allmasks.evaluation.scored import held_by
from allmasks.evaluation.settle import IGNORED, checked_targets
from allmasks.methods import Enumeration, Method, MonteCarlo
from allmasks.over_masks.request import Request
from allmasks.prediction import Prediction, predicted
from allmasks.prediction.outputs import Asked
from allmasks.ranks.agreement import agree_on_call
from allmasks.ranks.groups import Group, join
from allmasks.replicates import check_level
from allmasks.sites import BatchDim, leaves_no_trace

__all__ = ["AtMasks", "Evaluation", "Metric", "evaluate", "evaluate_prediction"]

PILOT_MASKS = 32
_LISTED = 1024
"""Most masks that are listed for a regression, whose pairs are gone through."""
_HELD = 2**29
_OTHER_MASKS = 0x9E3779B97F4A7C15


@leaves_no_trace
def evaluate(
    model: nn.Module,
    x: Any,
    y: Any = None,
    *,
    task: str | None = None,
    ood: Any = None,
    noise_precision: float | None = None,
    groups: Any = None,
    n_masks: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    level: float = 0.9,
    n_bins: int = 15,
    coverage: float = 0.8,
    risk: float = 0.05,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    method: Method | None = None,
    budget: int | None = None,
    class_dim: int | None = None,
    consistent: bool = False,
    leave_off: str | Sequence[str] = (),
    progress: bool = False,
    group: Any = None,
) -> Evaluation:
    """Every metric of a model's predictions on a test set: over all masks, in eval mode, and their paired difference.

    Each comes with its error over masks (this test set given), over data (other test sets of this size), and of both.

    Parameters
    ----------
    model, x, task, n_masks, atol, rtol, seed, batch_dim, batch_size, method, budget, class_dim, consistent, leave_off,
        group : as in `predict`.
    y : targets; None takes those of a data loader. Labels of -100 are left out.
    ood : inputs from outside the distribution, as `x`: how well each score tells them apart.
    noise_precision : τ of a regression, whose y has variance 1/τ about the prediction. Where None it is fitted to these
        targets, each reading its own, and the CRPS is that of the ensemble (fair) instead of the mixture's.
    groups : (n,) the patient, user or document of each example: what errors over data resample. Without it examples
        that belong together make those errors too small.
    level : of intervals in reports.
    n_bins, coverage, risk : bins of calibration errors; share answered; risk allowed.

    Returns
    -------
    Evaluation : `evaluation["log_loss"]` is a `Metric`.

    Raises
    ------
    ValueError, TypeError : as `predict`; targets of another length, out of range, not finite; no data outside.

    References
    ----------
    Kumar, Liang & Ma 2019 (calibration); Geifman, Uziel & El-Yaniv 2019 (risk and coverage); Gneiting & Raftery 2007
    (CRPS); DeLong et al. 1988 (AUROC); Shao & Wu 1989 (delete-half jackknife).

    Examples
    --------
    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(6, 2)).double()
    >>> x, y = torch.randn(50, 6).double(), torch.randint(0, 2, (50,))
    >>> found = evaluate(net, x, y)
    >>> found["log_loss"].difference.value < 0, found["accuracy"].n, found.guarantee
    (True, 50, 'exact')
    """
    check_level(level)
    ranks = join(group)
    how: dict[str, Any] = {
        "method": method,
        "n_masks": n_masks,
        "atol": atol,
        "rtol": rtol,
        "budget": budget,
        "seed": seed,
    }
    rows: dict[str, Any] = {"batch_dim": batch_dim, "batch_size": batch_size, "leave_off": leave_off}
    told = {"task": task, "class_dim": class_dim, "noise_precision": noise_precision, "batch_dim": batch_dim}
    agree_on_call(ranks, "evaluate", model, None, **how, **told, y=y is not None, consistent=consistent)
    request = Request(**how)
    options = Options(n_bins, coverage, risk)
    asked = Asked(task, class_dim, consistent=consistent, digest=LabelDigest(IGNORED), hold=_HELD)
    run = _Run(model, ranks, request, asked, rows, progress)
    if y is not None:
        y = _as_tensor(y)
        _same_length(x, y)
    pilot = run(x, y, replace(asked, samples=True), method=MonteCarlo(n_masks=PILOT_MASKS), seed=seed ^ _OTHER_MASKS)
    held = held_by(pilot)
    if "y" not in held.tensors:
        raise ValueError("y is needed: pass the targets, or a DataLoader that yields them beside its inputs")
    target = checked_targets(pilot, held.tensors["y"])
    names = None if groups is None else _gathered(groups, ranks)
    if pilot.task == "regression":
        if ood is not None:
            raise ValueError("ood= is for classifications, whose scores say how sure they are; leave it out here")
        return _evaluate_regression(run, x, y, pilot, target, names, (noise_precision, level, seed))
    likelihood = bool(target.ndim == 1 or target.numel() == len(target)) and bool((target != IGNORED).all())
    main = run(x, y, replace(asked, likelihood=likelihood))
    outside = None if ood is None else run(_some(ood), None, asked, seed=(seed ^ _OTHER_MASKS) + 1)
    return assess_classes(main, outside, target, names, options, (level, seed), pilot)


class _Run:
    """Predictions of one model, with what is the same for all of them."""

    def __init__(
        self, model: Any, ranks: Group, request: Request, asked: Asked, rows: dict[str, Any], progress: bool
    ) -> None:
        self.model, self.ranks, self.request, self.asked = model, ranks, request, asked
        self._rows, self._progress = rows, progress

    def __call__(
        self, x: Any, y: Any, asked: Asked, *, method: Method | None = None, seed: int | None = None, budget: Any = None
    ) -> Prediction:
        request = self.request
        if method is not None:
            request = Request(method, None, None, None, None, request.seed)
        if seed is not None:
            request = replace(request, seed=seed % 2**64)
        if budget is not None:
            request = replace(request, budget=budget)
        rows = {"example_index": None, **self._rows}
        return predicted(self.model, x, y, asked, request, self.ranks, progress=self._progress, **rows)


def _evaluate_regression(
    run: _Run, x: Any, y: Any, pilot: Prediction, target: Tensor, groups: Any, how: tuple[Any, float, int]
) -> Evaluation:
    stated, level, seed = how
    noise = noise_of(stated, pilot, target)
    assert noise.masks is not None
    digest = SampleDigest(noise.masks, noise.mixture)
    budget, method = run.request.budget, run.request.method
    if budget is None and not isinstance(method, Enumeration):
        budget = _LISTED * len(target)
    main = run(x, y, replace(run.asked, digest=digest), budget=budget)
    digested = {name: v for name, v in held_by(main).tensors.items() if name not in ("first", "entropy")}
    return assess_regression(main, target, digested, noise, groups, (level, seed), pilot)


def _as_tensor(y: Any) -> Any:
    if isinstance(y, Tensor) or y is True:
        return y
    try:
        return torch.as_tensor(np.asarray(y))
    except (TypeError, ValueError):
        raise TypeError(f"y must be a tensor or an array of numbers, got {type(y).__name__}") from None


def _same_length(x: Any, y: Any) -> None:
    if isinstance(y, Tensor) and y.is_floating_point() and not bool(torch.isfinite(y).all()):
        rows = ~torch.isfinite(y).reshape(len(y), -1).all(dim=1)
        raise ValueError(f"y is not finite for example {int(rows.nonzero()[0])}; leave out examples without a target")


def _some(ood: Any) -> Any:
    if isinstance(ood, Tensor) and not len(ood):
        raise ValueError("ood= holds no example; leave it out, or give data from outside the distribution")
    return ood


def _gathered(groups: Any, ranks: Group) -> Any:
    own = groups.detach().cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)
    return np.concatenate(ranks.gather(own))
