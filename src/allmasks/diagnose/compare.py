"""Dropout against L2, L1 and nothing, each at its best strength: paired seeds, intervals, cost and penalty."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allmasks.diagnose.paired import check_level, holm, interval, p_value, seed_numbers
from allmasks.diagnose.scaled_units import ScaledUnits
from allmasks.diagnose.unit_penalty import measure_unit_penalty
from allmasks.expect import prepare
from allmasks.results import Result, with_error
from allmasks.sites import leaves_no_trace
from allmasks.trials import Trials, identity, run_trials, where_raised

__all__ = ["STANDARD_ARMS", "Arm", "Comparison", "Outcome", "compare", "effective_penalty"]

Array = NDArray[np.float64]
Settings = Mapping[str, Any]

_P = (0.1, 0.2, 0.35, 0.5, 0.65)
_LAMBDA = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

STANDARD_ARMS: dict[str, tuple[dict[str, float], ...]] = {
    "none": ({},),
    "L2": tuple({"l2": s} for s in _LAMBDA),
    "L1": tuple({"l1": s} for s in _LAMBDA),
    "dropout": tuple({"p": p} for p in _P),
    "dropout + L2": tuple({"p": p, "l2": s} for p in _P[1::2] for s in _LAMBDA[:4]),
    "early dropout": tuple({"p": p, "until": 0.5} for p in _P),
    "late dropout": tuple({"p": p, "start": 0.5} for p in _P),
}
"""Settings tried by each standard arm, as keywords of `fit`: the drop rate p, the strengths of λ‖w‖² and λ‖w‖₁,
and the share of training at which dropout begins (`start`) or ends (`until`)."""


@dataclass(frozen=True)
class Outcome:
    """What `fit` returns for one setting and seed.

    Attributes
    ----------
    validation : the loss by which a setting is chosen. test : the loss that is reported. Smaller is better.
    accuracy : on test data, if it is a classifier.
    penalty : (weights,) effective L2 penalty on each weight or unit, for instance from `effective_penalty`.
    """

    validation: float
    test: float
    accuracy: float | None = None
    penalty: Sequence[float] | None = None


@dataclass(frozen=True)
class Arm:
    """One arm at its best setting; arrays are (seeds,).

    Attributes
    ----------
    setting : the keywords chosen, by mean validation loss. settings : (settings, seeds) validation losses of all.
    test, accuracy, seconds : of each seed. penalty : mean over seeds of the effective penalty on each weight, or None.
    """

    name: str
    setting: dict[str, Any]
    n_settings: int
    validation: Array
    test: Array
    accuracy: Array | None
    seconds: Array
    penalty: Array | None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Interval of the mean test loss over seeds."""
        return interval(self.test, level)[2:]


@dataclass(frozen=True)
class Difference:
    """Paired difference of two arms' test losses, a − b; negative where a is better."""

    a: str
    b: str
    mean: float
    error: float
    low: float
    high: float
    p_value: float
    corrected_p_value: float


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Arms at their best, every pair compared on the same seeds. See `compare`.

    `winner` is the arm that is better than every other one beyond doubt (two-sided paired t, Holm's correction over
    all pairs), or None. `notes` say where that stands on less than it seems: an arm whose best setting was chosen on
    the very losses that it is judged by is the luckiest of its settings (20 settings against 1, all equal in truth:
    a winner in 19 % of comparisons).
    """

    arms: tuple[Arm, ...]
    differences: tuple[Difference, ...]
    winner: str | None
    seeds: tuple[int, ...]
    level: float
    guarantee: str = field(default="statistical")
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def _title(self) -> str:
        return f"Comparison over {len(self.seeds)} seeds; winner: {self.winner or 'none beyond doubt'}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        for arm in sorted(self.arms, key=lambda a: a.test.mean()):
            mean, error, *_ = interval(arm.test)
            setting = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in arm.setting.items())
            accuracy = "" if arm.accuracy is None else f"  accuracy {100 * arm.accuracy.mean():.1f} %"
            told = f"test loss {with_error(mean, error)}{accuracy}  {np.median(arm.seconds):.2g} s"
            rows.append((arm.name, f"{told}  ({setting})" if setting else told))
        return rows


def compare(
    fit: Callable[..., Outcome],
    arms: Sequence[str] | Mapping[str, Settings | Sequence[Settings]] = tuple(STANDARD_ARMS),
    *,
    seeds: int | Sequence[int] = 10,
    level: float = 0.95,
    cache: str | Path | None = None,
    name: str | None = None,
    n_jobs: int = 1,
) -> Comparison:
    """Regularizers side by side: each at the strength that validation data choose, on the same seeds.

    Parameters
    ----------
    fit : fit(seed, **setting) -> `Outcome`: trains once. It takes the keywords that the arms use; for the standard
        arms p, l2, l1, start and until (see `STANDARD_ARMS`), absent ones meaning 0, or the whole of training.
    arms : names of standard arms, or {name: settings}, settings being one dict of keywords or a list of them to choose
        from. The choice is by mean validation loss over the seeds; test losses take no part in it.
    seeds : how many, or which; at least 2.
    level : of the intervals, and 1 − level the error that Holm's correction keeps.
    cache, name : a folder in which every finished training is kept at once, so that a killed call resumes, and what it
        calls `fit`; as in `rate_curve`.
    n_jobs : joblib processes, as in `rate_curve`.

    Raises
    ------
    ValueError : an unknown standard arm, an arm without settings, fewer than two arms, an outcome that is not finite.
    TypeError : `fit` returned something else than an `Outcome`.

    Examples
    --------
    >>> def fit(seed, p=0.0, l2=0.0):
    ...     noise = (seed * 7 % 5) / 100
    ...     return Outcome(validation=1 - p + noise, test=1 - p + noise)
    >>> compare(fit, {"none": {}, "dropout": [{"p": 0.1}, {"p": 0.3}]}).winner
    'dropout'
    """
    grid = _grid(arms)
    numbers = seed_numbers(seeds)
    check_level(level)
    key = identity(fit, name, needed=cache is not None)
    # Arms with the same settings are still separate trainings: otherwise they could not differ.
    jobs = [
        ({"fit": key, "arm": arm, "setting": setting, "seed": seed}, (fit, setting, seed))
        for arm, settings in grid.items()
        for setting in settings
        for seed in numbers
    ]
    found = iter(run_trials(_trial, jobs, Trials(None if cache is None else Path(cache)), n_jobs=n_jobs))
    results = {arm: [[next(found) for _ in numbers] for _ in settings] for arm, settings in grid.items()}
    chosen = tuple(_at_its_best(arm, grid[arm], results[arm]) for arm in grid)
    differences = _differences(chosen, level)
    winner = _winner(chosen, differences, 1 - level)
    return Comparison(chosen, differences, winner, tuple(numbers), level, notes=_notes(chosen, results))


@leaves_no_trace
def effective_penalty(
    model: nn.Module, data: Any, y: Any = None, loss: Any = None, *, leave_off: str | Sequence[str] = ()
) -> Array:
    """The L2 strength λⱼ that dropout puts on each unit's outgoing weights: λⱼ ‖wⱼ‖² = its penalty; (units,).

    For the dropout site that feeds the last Linear; penalty is `unit_penalty`'s, wⱼ the unit's column in that layer.
    L2 has one λ for all; here units with large activations in uncertain examples have the larger ones.

    Parameters
    ----------
    model, data, y, loss, leave_off : as in `am.audit`.

    Raises
    ------
    ValueError : no dropout site feeds a last Linear.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1, bias=False)).double()
    >>> x, y = torch.tensor([[1.0, 3.0]]).double(), torch.zeros(1, 1).double()
    >>> effective_penalty(net, (x, y), "squared_error").round(6).tolist()  # p/(1−p) E[x²]
    [1.0, 9.0]
    """
    problem = prepare(model, data, y, loss, leave_off=leave_off, paired=True)
    if problem.look.last is None:
        raise ValueError(
            "no dropout site feeds a Linear whose output is the model's output; λⱼ has no weights to act on"
        )
    site = next(site for site in problem.look.sites if site.name == problem.look.last.site)
    found = measure_unit_penalty(ScaledUnits(problem, site))
    squared_norm = (problem.look.last.weight.detach().double() ** 2).sum(dim=0).cpu().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squared_norm > 0, found.penalty / squared_norm, 0.0)


def _grid(arms: Any) -> dict[str, list[dict[str, Any]]]:
    if isinstance(arms, Mapping):
        grid = {name: _settings(name, given) for name, given in arms.items()}
    else:
        unknown = [name for name in arms if name not in STANDARD_ARMS]
        if unknown:
            raise ValueError(
                f"unknown arm {unknown[0]!r}: the standard arms are {', '.join(map(repr, STANDARD_ARMS))}; for your "
                "own, "
                "pass {name: settings}"
            )
        grid = {name: list(STANDARD_ARMS[name]) for name in arms}
    if len(grid) < 2:
        raise ValueError(f"a comparison needs at least two arms, got {list(grid)}")
    for name, settings in grid.items():
        if not settings:
            raise ValueError(f"arm {name!r} has no settings; give a dict of keywords for fit, {{}} for none")
    return {name: [_plain_setting(name, one) for one in settings] for name, settings in grid.items()}


def _settings(arm: str, given: Any) -> list[dict[str, Any]]:
    listed = [given] if isinstance(given, Mapping) else given
    if isinstance(listed, str) or not isinstance(listed, Sequence) or not all(isinstance(s, Mapping) for s in listed):
        raise TypeError(
            f"arm {arm!r} must be a dict of keywords for fit, or a list of such dicts (each setting whole: "
            f'[{{"p": 0.1}}, {{"p": 0.5}}], not {{"p": [0.1, 0.5]}}), got {given!r}'
        )
    return [dict(one) for one in listed]


def _plain_setting(arm: str, setting: Any) -> dict[str, Any]:
    """Keywords as JSON holds them, since they name a trial: NumPy's scalars become Python's."""
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in setting.items()}
    for k, v in plain.items():
        if not isinstance(k, str):
            raise TypeError(f"arm {arm!r}: settings are keywords for fit, and {k!r} is no name")
        try:
            json.dumps(v)
        except TypeError:
            raise TypeError(
                f"arm {arm!r}: {k}={v!r} names a trial, so it must be numbers, words or lists of them; let fit turn a "
                "word into the object it needs"
            ) from None
    return plain


def _trial(fit: Callable[..., Outcome], setting: dict[str, Any], seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    with where_raised(f"fit({', '.join([f'seed={seed}', *(f'{k}={v!r}' for k, v in setting.items())])})"):
        outcome = fit(seed, **setting)
    seconds = time.perf_counter() - began
    if not isinstance(outcome, Outcome):
        raise TypeError(f"fit must return an allmasks.diagnose.Outcome, got {type(outcome).__name__}")
    if not (math.isfinite(outcome.validation) and math.isfinite(outcome.test)):
        raise ValueError(
            f"fit(seed={seed}, {setting}) returned validation {outcome.validation} and test {outcome.test}: both must "
            "be "
            "finite losses"
        )
    return {
        "validation": float(outcome.validation),
        "test": float(outcome.test),
        "accuracy": None if outcome.accuracy is None else float(outcome.accuracy),
        "penalty": None if outcome.penalty is None else [float(v) for v in outcome.penalty],
        "seconds": seconds,
    }


def _at_its_best(name: str, settings: list[dict[str, Any]], results: list[list[dict[str, Any]]]) -> Arm:
    validation = np.array([[one["validation"] for one in row] for row in results])
    best = int(validation.mean(axis=1).argmin())
    row = results[best]
    penalties = [one["penalty"] for one in row]
    accuracies = [one["accuracy"] for one in row]
    return Arm(
        name=name,
        setting=settings[best],
        n_settings=len(settings),
        validation=validation,
        test=np.array([one["test"] for one in row]),
        accuracy=None if None in accuracies else np.array(accuracies),
        seconds=np.array([one["seconds"] for one in row]),
        penalty=None if None in penalties else np.mean(penalties, axis=0),
    )


def _differences(arms: Sequence[Arm], level: float) -> tuple[Difference, ...]:
    found = []
    for a, b in combinations(arms, 2):
        difference = a.test - b.test
        side = p_value(difference)
        found.append((a.name, b.name, *interval(difference, level), min(1.0, 2 * min(side, 1 - side))))
    corrected = holm([row[-1] for row in found])
    return tuple(Difference(*row, float(p)) for row, p in zip(found, corrected, strict=True))


def _notes(arms: Sequence[Arm], results: Mapping[str, list[list[dict[str, Any]]]]) -> tuple[str, ...]:
    """Arms of several settings whose validation losses are their test losses, but for a constant."""
    found = []
    for arm in arms:
        rows = results[arm.name]
        gaps = np.array([[one["test"] - one["validation"] for one in row] for row in rows])
        size = max(max(abs(one["test"]) for one in row) for row in rows)
        if arm.n_settings > 1 and np.ptp(gaps) <= 1e-12 * size and np.ptp(arm.validation) > 0:
            found.append(arm.name)
    if not found:
        return ()
    names = ", ".join(found)
    return (
        f"{names}: the setting was chosen by the same losses that are compared here (validation and test differ by "
        "a constant at most), so the best of several is compared with its luck; choose on other data than it is "
        "judged by",
    )


def _winner(arms: Sequence[Arm], differences: Sequence[Difference], alpha: float) -> str | None:
    best = min(arms, key=lambda arm: arm.test.mean()).name
    own = [d for d in differences if best in (d.a, d.b)]
    # Identical results carry no noise and no difference.
    beaten = all(d.mean != 0 and d.corrected_p_value < alpha for d in own)
    return best if beaten else None
