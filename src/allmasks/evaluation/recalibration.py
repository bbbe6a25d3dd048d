"""Calibration afterwards: a temperature for classes, a scale or a monotone map for regressions; what it is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, ndtr, ndtri
from torch import Tensor

from allmasks.evaluation.measures import Floats
from allmasks.evaluation.scored import held_by, probabilities
from allmasks.evaluation.settle import checked_targets, kept, units_of
from allmasks.prediction import Prediction
from allmasks.replicates import check_level
from allmasks.results import Note, Result, with_error

__all__ = ["Calibration", "calibrate"]

_FOLDS = 10
_KNOTS = 20
_LEAST = 1e-300


@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """How predictions are made to say what is seen, and what that is worth on data that it was not fitted to.

    Attributes
    ----------
    method : "temperature", "scale" or "isotonic".
    temperature : T of p^(1/T), classes; above 1 where the model was too sure. 1 where not `helps`.
    scale : factor of a regression's total standard deviation. 1 where not `helps`.
    gain, gain_error : log likelihood an entry gains, in nats, cross-validated over units, and its standard error.
    helps : whether the gain is more than noise: above twice its error. Where it is not nothing is changed.
    knots : (k, 2) probabilities before and after, of the monotone map; None otherwise.
    n : units it was fitted to.
    """

    method: str
    gain: float
    gain_error: float
    helps: bool
    n: int
    temperature: float = 1.0
    scale: float = 1.0
    knots: Any = None
    notes: tuple[str, ...] = ()

    def probabilities(self, prediction: Prediction) -> Tensor:
        """(entries, classes) calibrated probabilities of another prediction of the same model.

        Raises
        ------
        ValueError : a regression.
        """
        if prediction.task == "regression":
            raise ValueError("a regression has no class probabilities; ask for interval(prediction, level)")
        logs = np.log(np.maximum(probabilities(prediction), _LEAST))
        return torch.from_numpy(np.exp(log_softmax(logs / self.temperature, axis=1)))

    def interval(self, prediction: Prediction, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """The calibrated band in which a new observation lies, in the layout of the prediction.

        Raises
        ------
        ValueError : a classification, or a level outside (0, 1).
        """
        check_level(level)
        if prediction.task != "regression":
            raise ValueError("bands are for regressions; ask for probabilities(prediction), or am.conformal's sets")
        mean, total = prediction.mean, self.scale * _total(prediction)
        low, high = (float(ndtri(self._stated(tail))) for tail in ((1 - level) / 2, (1 + level) / 2))
        return mean + low * total, mean + high * total

    def _stated(self, seen: float) -> float:
        """The probability that the model states where this share is seen."""
        if self.knots is None:
            return seen
        before, after = np.asarray(self.knots).T
        return float(np.clip(np.interp(seen, after, before), 1e-12, 1 - 1e-12))

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("method", self.method), ("gain", f"{with_error(self.gain, self.gain_error)} nats an entry")]
        if self.method == "temperature":
            rows.append(("temperature", f"{self.temperature:.4g}"))
        if self.method != "temperature":
            rows.append(("scale", f"{self.scale:.4g}"))
        return rows


def calibrate(
    prediction: Prediction, y: Any, *, method: str | None = None, groups: Any = None, seed: int = 0
) -> Calibration:
    """Calibrate predictions on held-out targets, and say whether that is worth more than noise.

    Classes: one temperature on the log of the mean probabilities over masks, p ∝ p̄^(1/T) (Guo et al. 2017).
    Regressions: N(mean, c² (std² + 1/τ)), "scale", or after that a monotone map of its distribution function with
    add-one counts, "isotonic" (Kuleshov, Fenner & Ermon 2018).

    Parameters
    ----------
    prediction : of data that the model was not trained on.
    y : its targets.
    method : "temperature"; "scale" (default of regressions) or "isotonic".
    groups : (n,) units that stay together in the 10 folds of the cross-validated gain.
    seed : of the folds.

    Raises
    ------
    ValueError : targets that do not fit; fewer than 20 units; a regression without spread or noise.

    >>> import torch, allmasks as am
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(3, 2)).double()
    >>> x = torch.randn(400, 3).double()
    >>> y = torch.distributions.Categorical(logits=3 * net.eval()(x).detach()).sample()
    >>> found = calibrate(am.predict(net, x), y)
    >>> found.helps, found.temperature < 1
    (True, True)
    """
    target = checked_targets(prediction, y)
    keep = kept(prediction, target)
    units = units_of(len(target), keep, groups)
    if units.n < 2 * _FOLDS:
        raise ValueError(f"calibration needs {2 * _FOLDS} units at least to say what it is worth, got {units.n}")
    classes = prediction.task != "regression"
    allowed = ("temperature",) if classes else ("scale", "isotonic")
    chosen = method or allowed[0]
    if chosen not in allowed:
        raise ValueError(f"method must be one of {', '.join(map(repr, allowed))} for this task, got {method!r}")
    order = np.random.default_rng(seed).permutation(units.n)
    fold = np.empty(units.n, int)
    fold[order] = np.arange(units.n) % _FOLDS
    of = fold[units.of]
    model: Any = _Temperature(prediction, target, keep) if classes else _Normal(prediction, target, chosen)
    gain = np.empty(len(of))
    for f in range(_FOLDS):
        test = of == f
        gain[test] = model.gain(model.fit(~test), test)
    total = np.bincount(units.of, gain, minlength=units.n) * units.n / len(gain)
    mean, error = float(total.mean()), float(total.std(ddof=1) / math.sqrt(units.n))
    helps = mean > 2 * error
    fitted = model.fields(model.fit(np.ones(len(of), bool))) if helps else {}
    notes = () if helps else (Note("The gain is no more than noise, so nothing is changed."),)
    return Calibration(chosen, mean, error, helps, units.n, notes=notes, **fitted)


class _Temperature:
    def __init__(self, prediction: Prediction, y: Tensor, keep: NDArray[np.bool_]) -> None:
        self._logs = np.log(np.maximum(probabilities(prediction)[keep], _LEAST))
        self._y = y.reshape(-1).long().cpu().numpy()[keep]

    def _each(self, inverse: float, rows: NDArray[np.bool_]) -> Floats:
        found: Floats = log_softmax(inverse * self._logs[rows], axis=1)[np.arange(int(rows.sum())), self._y[rows]]
        return found

    def fit(self, rows: NDArray[np.bool_]) -> float:
        # The log loss is convex in 1/T.
        found = minimize_scalar(lambda a: -self._each(a, rows).mean(), bounds=(1e-3, 1e3), method="bounded")
        near = minimize_scalar(
            lambda log: -self._each(math.exp(log), rows).mean(),
            bounds=(math.log(found.x) - 3, math.log(found.x) + 3) if found.x > 0.05 else (-7, 3),
            method="bounded",
            options={"xatol": 1e-8},
        )
        return math.exp(float(near.x))

    def gain(self, inverse: float, rows: NDArray[np.bool_]) -> Floats:
        return self._each(inverse, rows) - self._each(1.0, rows)

    def fields(self, inverse: float) -> dict[str, Any]:
        return {"temperature": 1 / inverse}


class _Normal:
    def __init__(self, prediction: Prediction, y: Tensor, method: str) -> None:
        held = held_by(prediction)
        total = held.front(_total(prediction)).reshape(-1).cpu().numpy()
        mean = held.front(prediction.mean).reshape(-1).double().cpu().numpy()
        self._z = (y.reshape(-1).double().cpu().numpy() - mean) / total
        self._isotonic = method == "isotonic"

    def fit(self, rows: NDArray[np.bool_]) -> Any:
        z = self._z[rows]
        scale = max(float(np.sqrt((z**2).mean())), 1e-12)
        if not self._isotonic:
            return scale, None
        # Scaled first: what is far out would all fall into the last of the map's steps.
        before = np.linspace(0, 1, min(_KNOTS, max(2, len(z) // 10)) + 1)
        counts = np.histogram(ndtr(z / scale), before)[0] + 1.0
        return scale, np.stack([before, np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])], axis=1)

    def gain(self, fitted: Any, rows: NDArray[np.bool_]) -> Floats:
        z, (scale, knots) = self._z[rows], fitted
        found: Floats = -math.log(scale) + z**2 / 2 * (1 - 1 / scale**2)
        if knots is None:
            return found
        before, after = knots.T
        slope = np.diff(after) / np.diff(before)
        step = np.clip(np.searchsorted(before, ndtr(z / scale), "right") - 1, 0, len(slope) - 1)
        return found + np.log(slope[step])

    def fields(self, fitted: Any) -> dict[str, Any]:
        scale, knots = fitted
        return {"scale": scale, "knots": knots}


def _total(prediction: Prediction) -> Any:
    """Spread over masks and noise together, in the prediction's layout."""
    square = prediction.std.double() ** 2
    if prediction.noise_precision is not None:
        square = square + 1.0 / prediction.noise_precision
    if not bool((square > 0).all()):
        raise ValueError(
            "some predictions have no spread over masks and no noise is stated, so there is nothing to scale; pass "
            "noise_precision=τ to am.predict"
        )
    return square.sqrt()
