"""From predictions and targets to an `Evaluation`: which metrics, with which errors, and what is drawn of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.evaluation.classes import Classes, Options, class_measures, detection_measures
from allmasks.evaluation.curves import class_curves, ood_curves, regression_curves
from allmasks.evaluation.measures import Measure
from allmasks.evaluation.metric import AtMasks, Evaluation, Metric
from allmasks.evaluation.regressions import at_point, regression_measures
from allmasks.evaluation.resampling import Masked, Units, by_masks, measured
from allmasks.evaluation.scored import (
    classes_of,
    fitted_precision,
    held_by,
    mixed,
    probabilities,
    regressions_of,
    samples_digested,
)
from allmasks.evaluation.settle import checked_targets, kept, units_of
from allmasks.language import N_
from allmasks.prediction import Prediction
from allmasks.replicates import check_level
from allmasks.results import Note

__all__ = ["Noise", "assess_classes", "assess_regression", "evaluate_prediction", "noise_of"]

_FITTED = 4096
_NEEDS_SAMPLES = N_(
    "Likelihood, CRPS and coverage need the prediction under each mask: predict(..., keep_samples=True)."
)


@dataclass(frozen=True)
class Noise:
    """A regression's noise: the τ stated or None, and the τ used over masks and in eval mode."""

    stated: float | None
    masks: float | None
    eval_mode: float | None
    notes: tuple[str, ...] = ()

    @property
    def mixture(self) -> bool:
        """Whether the CRPS is that of the mixture of normals, and not of the ensemble."""
        return self.stated is not None


def noise_of(stated: float | None, pilot: Prediction, target: Tensor) -> Noise:
    """The noise that was stated, or that which fits these targets best over masks, and in eval mode."""
    if stated is not None:
        if not stated > 0:
            raise ValueError(f"noise_precision must be positive, got {stated}")
        return Noise(stated, stated, stated)
    if pilot.samples is None:
        return Noise(None, None, None, (Note(_NEEDS_SAMPLES),))
    held = held_by(pilot)
    k = pilot.samples.shape[0]
    front = torch.stack([held.front(sample) for sample in pilot.samples])
    f = front.reshape(k, -1).double().cpu().numpy().T[:_FITTED]
    y = target.reshape(-1).double().cpu().numpy()[:_FITTED]
    center = held.front(pilot.weight_scaling).reshape(-1, 1).double().cpu().numpy()[:_FITTED]
    precision, own = fitted_precision(f, y), fitted_precision(center, y)
    note = Note(
        "No noise_precision was given: τ = {tau} over masks and {own} in eval mode fit these targets best, so "
        "likelihoods and coverage are a little too good.",
        tau=f"{precision:.4g}",
        own=f"{own:.4g}",
    )
    return Noise(None, precision, own, (note,))


def assess_regression(
    prediction: Prediction,
    target: Tensor,
    digest: dict[str, Tensor] | None,
    noise: Noise,
    groups: Any,
    how: tuple[float, int],
    pilot: Prediction | None = None,
) -> Evaluation:
    """A regression's metrics.

    Parameters
    ----------
    how : level of intervals, and the seed of resampling. pilot : few single masks, with samples.
    """
    level, seed = how
    masked = regressions_of(prediction, target, digest, noise.masks, mixture=noise.mixture)
    if noise.eval_mode != noise.masks:
        center = held_by(prediction).front(prediction.weight_scaling).reshape(-1).double().cpu().numpy()
        own = at_point(target.reshape(-1).double().cpu().numpy(), center, noise.eval_mode, mixture=noise.mixture)
        masked = replace(masked, eval_mode=own)
    small = None
    if pilot is not None and noise.masks is not None:
        few = samples_digested(pilot, target, noise.masks, mixture=noise.mixture)
        small = regressions_of(pilot, target, few, noise.masks, mixture=noise.mixture)
    measures = regression_measures(masked.at(None))
    units = units_of(len(target), np.ones(target.numel(), bool), groups)
    metrics = measured(masked, measures, units, seed)
    # Widths follow other shares of the masks to first order only.
    shown = [m for m in measures if not m.name.startswith("width")]
    return Evaluation(
        **_facts(prediction, target, units, level, seed),
        metrics=metrics,
        by_masks=_against_masks(masked, small, shown, metrics, prediction.n_masks),
        curves=regression_curves(masked.at(None)),
        noise_precision=noise.masks,
        notes=(*prediction.notes, *noise.notes),
    )


def assess_classes(
    main: Prediction,
    outside: Prediction | None,
    target: Tensor,
    groups: Any,
    options: Options,
    how: tuple[float, int],
    pilot: Prediction | None = None,
) -> Evaluation:
    """A classification's metrics, and how well data outside the distribution are told apart."""
    level, seed = how
    keep = kept(main, target)
    masked = classes_of(main, target, keep)
    whole = masked.at(None)
    n_classes, binary = whole.p.shape[1], main.task == "binary"
    if n_classes < 2:
        raise ValueError(
            "the model has one class only, so there is nothing to tell apart; pass task='binary' for scores"
        )
    units = units_of(len(target), keep, groups)
    measures = class_measures(options, n_classes, binary=binary)
    metrics = measured(masked, measures, units, seed)
    curves = class_curves(whole, masked.eval_mode, options.n_bins)
    notes = [*main.notes, *_of_labels(whole)]
    if outside is not None:
        both, found = _detected(masked, outside, units)
        metrics |= measured(both, detection_measures(), found, seed)
        curves |= ood_curves(both.at(None))
    small = None if pilot is None else classes_of(pilot, target, keep)
    return Evaluation(
        **_facts(main, target, units, level, seed),
        metrics=metrics,
        by_masks=_against_masks(masked, small, measures, metrics, main.n_masks),
        curves=curves,
        notes=tuple(notes),
    )


def _detected(masked: Masked, outside: Prediction, units: Units) -> tuple[Masked, Units]:
    p = probabilities(outside)
    if p.shape[1] != masked.at(None).p.shape[1]:
        raise ValueError(f"ood= gives {p.shape[1]} classes where the data have {masked.at(None).p.shape[1]}")
    away = classes_of(outside, None, np.ones(len(p), bool))
    n = len(held_by(outside).front(outside.mean))
    foreign = units_of(n, np.ones(len(p), bool), None, stratum=1)
    of = np.concatenate([units.of, foreign.of + units.n])
    return mixed(masked, away), Units(of, np.concatenate([units.stratum, foreign.stratum]))


def _of_labels(whole: Classes) -> list[str]:
    present = len(np.unique(whole.y))
    if present == 1:
        return [Note("All labels are of one class: metrics that compare classes are nan or say little.")]
    return []


def _facts(main: Prediction, target: Tensor, units: Units, level: float, seed: int) -> dict[str, Any]:
    return {
        "task": main.task,
        "guarantee": main.guarantee,
        "method": main.method,
        "n_masks": main.n_masks,
        "n_examples": len(target),
        "n_entries": len(units.of),
        "n_groups": units.n,
        "level": level,
        "seed": seed,
    }


def _against_masks(
    masked: Masked, small: Masked | None, measures: list[Measure], metrics: dict[str, Metric], n_masks: int
) -> dict[str, tuple[AtMasks, ...]]:
    few = {} if small is None else by_masks(small, measures)
    most = max((point.n_masks for points in few.values() for point in points), default=0)
    more = by_masks(masked, measures, least=most + 1, most=n_masks)
    # As a share of the replicates, and not as all masks: what so many give, without the corrections of a mean over all.
    drawn = None if len(masked.sizes) < 2 else masked.at(masked.sizes / masked.sizes.sum())
    found = {}
    for m in measures:
        metric = metrics[m.name]
        last = [] if drawn is None else [AtMasks(n_masks, float(m.value(drawn, None)[0]), metric.masks_error)]
        points = [*few.get(m.name, []), *more.get(m.name, []), *last, AtMasks(0, metric.value, metric.masks_error)]
        found[m.name] = tuple(points)
    return found


def evaluate_prediction(
    prediction: Prediction,
    y: Any,
    *,
    ood: Prediction | None = None,
    noise_precision: float | None = None,
    groups: Any = None,
    seed: int = 0,
    level: float = 0.9,
    n_bins: int = 15,
    coverage: float = 0.8,
    risk: float = 0.05,
) -> Evaluation:
    """As `evaluate`, of a prediction that was made before: `prediction.evaluate(y)`.

    Parameters
    ----------
    ood : a prediction of data outside the distribution.

    A regression's distribution is known where samples were kept (`predict(..., keep_samples=True)`); without them there
    are RMSE, MAE and sharpness.
    """
    check_level(level)
    options = Options(n_bins, coverage, risk)
    target = checked_targets(prediction, y)
    if prediction.task != "regression":
        if ood is not None:
            held_by(ood)
        return assess_classes(prediction, ood, target, groups, options, (level, seed))
    noise = noise_of(prediction.noise_precision if noise_precision is None else noise_precision, prediction, target)
    digest = None
    if prediction.samples is not None and noise.masks is not None:
        digest = samples_digested(prediction, target, noise.masks, mixture=noise.mixture)
    elif not noise.notes:
        noise = replace(noise, notes=(Note(_NEEDS_SAMPLES),))
    return assess_regression(prediction, target, digest, noise, groups, (level, seed))
