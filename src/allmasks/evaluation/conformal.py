"""Sets and intervals that hold the truth as often as they say, for any model: split and cross-conformal prediction.

Written here and held against `crepes` in the tests: importing that changes the warnings of the whole process and asks
for pandas, and what is needed of it is one order statistic. MAPIE fits estimators itself, and a prediction is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allmasks.evaluation.measures import Floats
from allmasks.evaluation.scored import held_by, probabilities
from allmasks.evaluation.settle import checked_targets, kept, units_of
from allmasks.prediction import Prediction
from allmasks.replicates import check_level
from allmasks.results import Note, Result

__all__ = ["Conformal", "conformal"]


@dataclass(frozen=True, repr=False)
class Conformal(Result):
    """Scores of calibration data, from which sets and intervals follow.

    Attributes
    ----------
    task, level : what was predicted, and the share of new examples that is to be covered.
    kind : "split", whose coverage is at least `level` and, without ties, at most level + 1/(n + 1), on average over
        calibration sets; or "cross", which guarantees `guaranteed` only and reaches about `level` as a rule.
    guaranteed : 1 − α for "split", 1 − 2α for "cross" (Vovk 2015; Barber et al. 2021).
    by_class : whether each class has its own threshold, so that the guarantee holds class by class.
    n : calibration entries (one from each group, where there are groups).
    notes : sentences a reader should know.
    """

    task: str
    level: float
    kind: str
    guaranteed: float
    by_class: bool
    n: int
    scores: tuple[Any, ...]
    labels: tuple[Any, ...]
    score: str
    seed: int
    n_classes: int = 0
    notes: tuple[str, ...] = ()

    _left_out = ("scores", "labels")

    def sets(self, prediction: Prediction | Sequence[Prediction]) -> Tensor:
        """(entries, classes) booleans: which classes belong to each entry's set. It may be empty, or hold all.

        Parameters
        ----------
        prediction : of new data; "cross": a list, of the same data by each fold's model.

        Raises
        ------
        ValueError : a regression; other classes, or another number of predictions, than it was calibrated with.
        """
        if self.task == "regression":
            raise ValueError("sets are of classes; for a regression ask for intervals(prediction)")
        parts = self._parts(prediction)
        alpha = 1 - self.level
        above: Floats = np.zeros(1)
        for i, (own, labels, each) in enumerate(zip(self.scores, self.labels, parts, strict=True)):
            p = probabilities(each)
            if p.shape[1] != self.n_classes:
                raise ValueError(
                    f"it was calibrated with {self.n_classes} classes, and this prediction has {p.shape[1]}"
                )
            found = _class_scores(p, self.score, _uniform(self.seed, 2 * i, len(p)))
            tie = _uniform(self.seed, 2 * i + 1, len(p))
            counted = np.stack(
                [_no_less(own[labels == k] if self.by_class else own, found[:, k], tie) for k in range(p.shape[1])],
                axis=1,
            )
            above = above + counted
        numbers = [
            sum(int((lab == k).sum()) for lab in self.labels) if self.by_class else self.n
            for k in range(self.n_classes)
        ]
        p_values = (above + 1) / (np.array(numbers) + 1)
        return torch.from_numpy(p_values > alpha * (1 + 1e-12))

    def intervals(self, prediction: Prediction | Sequence[Prediction]) -> tuple[Tensor, Tensor]:
        """Lower and upper ends, in the layout of the prediction; infinite where the calibration data are too few.

        Raises
        ------
        ValueError : a classification; another number of predictions than it was calibrated with.
        """
        if self.task != "regression":
            raise ValueError("intervals are for regressions; for classes ask for sets(prediction)")
        parts = self._parts(prediction)
        if self.kind == "split":
            (own,), (each,) = self.scores, parts
            rank = math.ceil(self.level * (self.n + 1) * (1 - 1e-12))
            reach = math.inf if rank > self.n else float(np.sort(own[:, 0])[rank - 1])
            half = reach * _scale(each, self.score)
            return each.mean - half, each.mean + half
        # CV+: of what each calibration example would say, with the model that did not see it.
        pairs = list(zip(self.scores, parts, strict=True))
        reaches = [torch.from_numpy(s[:, 0]) * _scale(p, self.score)[..., None] for s, p in pairs]
        lows = [p.mean[..., None] - reach for p, reach in zip(parts, reaches, strict=True)]
        highs = [p.mean[..., None] + reach for p, reach in zip(parts, reaches, strict=True)]
        low, high = (torch.cat(ends, dim=-1).sort(dim=-1).values for ends in (lows, highs))
        rank = math.ceil(self.level * (self.n + 1) * (1 - 1e-12))
        if rank > self.n:
            infinite = torch.full_like(parts[0].mean, math.inf)
            return -infinite, infinite
        return low[..., self.n - rank], high[..., rank - 1]

    def _parts(self, prediction: Any) -> list[Prediction]:
        parts = list(prediction) if isinstance(prediction, list | tuple) else [prediction]
        if len(parts) != len(self.scores):
            raise ValueError(
                f"it was calibrated with {len(self.scores)} predictions, so it needs as many, got {len(parts)}"
            )
        for part in parts:
            held_by(part)
            if part.task != self.task:
                raise ValueError(f"it was calibrated for a {self.task} task, and this prediction is {part.task}")
        return parts

    def _rows(self) -> list[tuple[str, str]]:
        told = f"at least {self.guaranteed:.4g} of new examples, on average over calibration sets"
        return [
            ("task", self.task),
            ("level", f"{self.level:g}"),
            ("kind", self.kind),
            ("covers", told),
            ("n", f"{self.n}"),
        ]


def conformal(
    prediction: Any,
    y: Any = None,
    *,
    level: float = 0.9,
    by_class: bool = False,
    score: str | None = None,
    groups: Any = None,
    seed: int = 0,
) -> Conformal:
    """Calibrate sets of classes, or intervals, that cover new examples as often as `level`, whatever the model.

    The only assumption is that calibration examples and new ones are exchangeable.

    Parameters
    ----------
    prediction, y : of calibration data that the model did not see; or, for cross-conformal prediction, a list of
        (prediction, y), each out-of-fold, made by the model fitted without that fold. Its guarantee is 1 − 2α.
    by_class : a threshold for each class.
    score : classes: "cumulative" (default), the probability of all classes up to this one with a random share of its
        own (Romano, Sesia & Candès 2020), or "threshold", 1 − p (smallest sets on average). Regressions: "spread"
        (default), |y − mean| over √(std² + 1/τ), so that intervals are wide where masks differ, or "distance",
        |y − mean|.
    groups : (n,) units that are exchangeable, for one (prediction, y): one example of each is used.
    seed : of what is drawn: shares of a class, ties, examples of groups.

    Raises
    ------
    ValueError, TypeError : targets that do not fit, no calibration example, unknown scores.

    References
    ----------
    Vovk, Gammerman & Shafer 2005; Barber, Candès, Ramdas & Tibshirani 2021 (CV+).

    >>> import torch, allmasks as am
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(3, 4)).double()
    >>> x = torch.randn(1200, 3).double()
    >>> y = torch.distributions.Categorical(logits=net.eval()(x).detach()).sample()
    >>> result = conformal(am.predict(net, x[:600], n_masks=32), y[:600], level=0.9)
    >>> sets = result.sets(am.predict(net, x[600:], n_masks=32))
    >>> bool(0.86 < sets[torch.arange(600), y[600:]].double().mean() < 0.94)
    True
    """
    check_level(level)
    cross = isinstance(prediction, list | tuple)
    if cross and (
        y is not None or not prediction or any(not isinstance(p, list | tuple) or len(p) != 2 for p in prediction)
    ):
        raise ValueError("cross-conformal takes a list of (prediction, y), one of each fold, and no y beside it")
    if cross and groups is not None:
        raise ValueError("groups= is for one prediction; of folds make each hold whole groups")
    if not cross and y is None:
        raise ValueError("y is needed: the targets of the calibration data")
    pairs = list(prediction) if cross else [(prediction, y)]
    held_by(pairs[0][0])
    task = pairs[0][0].task
    allowed = ("spread", "distance") if task == "regression" else ("cumulative", "threshold")
    chosen = score or allowed[0]
    if chosen not in allowed:
        raise ValueError(f"score must be one of {', '.join(map(repr, allowed))} for this task, got {score!r}")
    if by_class and task == "regression":
        raise ValueError("by_class=True is for classifications")
    scores, labels, n_classes = [], [], 0
    for i, (each, of_each) in enumerate(pairs):
        own, label = _calibrated(each, of_each, chosen, groups, np.random.default_rng([seed, i, 0xC0]))
        scores.append(own)
        labels.append(label)
        if task != "regression":
            n_classes = probabilities(each).shape[1]
    n = sum(len(s) for s in scores)
    alpha = 1 - level
    notes = []
    fewest = math.ceil(1 / alpha * (1 - 1e-12)) - 1
    if by_class:
        few = [k for k in range(n_classes) if sum(int((lab == k).sum()) for lab in labels) < fewest]
        if few:
            told = ", ".join(map(str, few[:5])) + (" …" if len(few) > 5 else "")
            notes.append(
                Note("Classes {few} have fewer than {n} examples, so every set holds them.", few=told, n=fewest)
            )
    elif n < fewest:
        notes.append(Note("{n} examples are too few for this level: every set is everything.", n=n))
    guaranteed = max(0.0, 1 - 2 * alpha) if cross else level
    kind = "cross" if cross else "split"
    return Conformal(
        task, level, kind, guaranteed, by_class, n, tuple(scores), tuple(labels), chosen, seed, n_classes, tuple(notes)
    )  # fmt: skip


def _calibrated(prediction: Prediction, y: Any, score: str, groups: Any, rng: Any) -> tuple[Floats, Any]:
    """(n, 2) score of each calibration entry's truth and the number that breaks its ties; and the labels."""
    target = checked_targets(prediction, y)
    keep = kept(prediction, target)
    held = held_by(prediction)
    if prediction.task == "regression":
        distance = (held.front(prediction.mean) - target).abs() / held.front(_scale(prediction, score))
        own, label = distance.reshape(-1).double().cpu().numpy(), np.zeros(target.numel(), np.int64)
    else:
        p, label = probabilities(prediction)[keep], target.reshape(-1).long().cpu().numpy()[keep]
        own = _class_scores(p, score, rng.uniform(size=len(p)))[np.arange(len(p)), label]
    found = np.stack([own, rng.uniform(size=len(own))], axis=1)
    if groups is not None:
        units = units_of(len(target), keep, groups)
        order = rng.permutation(len(found))
        _, first = np.unique(units.of[order], return_index=True)
        found, label = found[order[first]], label[order[first]]
    return found, label


def _class_scores(p: Floats, score: str, share: Floats) -> Floats:
    """(N, C) how strange each class would be."""
    if score == "threshold":
        return 1 - p
    order = np.argsort(-p, axis=1, kind="stable")
    ordered = np.take_along_axis(p, order, axis=1)
    found = np.empty_like(p)
    np.put_along_axis(found, order, ordered.cumsum(axis=1) - ordered * (1 - share[:, None]), axis=1)
    return found


def _no_less(own: Floats, values: Floats, tie: Floats) -> Floats:
    """Calibration scores at least as large as each value, ties parted by their numbers."""
    order = np.lexsort((own[:, 1], own[:, 0]))
    scores, numbers = own[order, 0], own[order, 1]
    low, high = np.searchsorted(scores, values, "left"), np.searchsorted(scores, values, "right")
    found = (len(scores) - high).astype(float)
    for i in np.flatnonzero(high > low):
        found[i] += high[i] - low[i] - np.searchsorted(numbers[low[i] : high[i]], tie[i], "left")
    return found


def _uniform(seed: int, stream: int, n: int) -> Floats:
    return np.random.default_rng([seed, stream, 0x5E75]).uniform(size=n)


def _scale(prediction: Prediction, score: str) -> Any:
    if score == "distance":
        return torch.ones_like(prediction.mean)
    square = prediction.std**2 + (0.0 if prediction.noise_precision is None else 1.0 / prediction.noise_precision)
    # A prediction without any spread is scaled by the least that others have.
    least = square[square > 0].min() if bool((square > 0).any()) else torch.ones((), dtype=square.dtype)
    return torch.where(square > 0, square, least).sqrt()
