"""Do statistical intervals hold the truth as often as they say, and does `reliable` know where they do not?

A cell is (problem, sampler, K), run under many seeds. Scores and models are called once a seed, on one row. `predict`
is called once, on one example that is repeated: its rows differ in `example_index` alone, which keys the masks, so
they are independent draws of the same run; `reliable` is there for every row.

What each cell must do, at 95 % intervals:

- of the runs that call themselves reliable, where there are 200, at least 92 % cover;
- over all cells whose errors have no allowance for unseen masks these cover 93.5 … 96.5 % in the mean;
- where all runs of a cell cover less than 85 %, 95 % of those that miss call themselves unreliable;
- where they cover 93 % at K ≥ 256, 90 % call themselves reliable: flagging everything is no answer.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import allmasks as am
from allmasks import methods
from attacks.core import generator
from attacks.scores_truth import CALLABLES, LONG, NAMED, listed

SAMPLERS = (am.samplers.LatinHypercube(), am.samplers.Independent(), am.samplers.Antithetic())
MASKS = (1, 2, 3, 10, 31, 64, 100, 255, 256, 1000)
LEVEL = 0.95


@dataclass(frozen=True)
class Runs:
    """What a cell's runs did: whether each covered, called itself reliable, and had an allowance for unseen masks."""

    name: str
    n_masks: int
    covered: np.ndarray
    reliable: np.ndarray
    allowed: np.ndarray

    @property
    def trusted(self) -> float | None:
        """Share of the reliable runs that cover; None where there are too few to say."""
        return float(self.covered[self.reliable].mean()) if self.reliable.sum() >= 0.2 * len(self.covered) else None

    def faults(self) -> Iterator[str]:
        n, share = len(self.covered), float(self.covered.mean())
        # With fewer than the thousand runs that the limits are meant for, chance has its say.
        slack = 0.0 if n >= 1000 else 3 * np.sqrt(0.08 * 0.92 / n)
        if self.trusted is not None and self.trusted < 0.92 - slack:
            yield f"covers {self.trusted:.1%} over its {int(self.reliable.sum())} reliable runs"
        missed = ~self.covered
        if share < 0.85 - slack and missed.any():
            flagged = float((~self.reliable[missed]).mean())
            if flagged < 0.95 - slack:
                yield f"covers {share:.1%}, and only {flagged:.1%} of those that miss are flagged"
        if share >= 0.93 and self.n_masks >= 256 and float(self.reliable.mean()) < 0.9 - slack:
            yield f"covers {share:.1%}, yet only {float(self.reliable.mean()):.1%} call themselves reliable"


def coverage(
    seed: int,
    runs: int,
    seconds: float,
    *,
    say: Callable[[str], None] = print,
    most: int | None = None,
    only: str | None = None,
    until_fault: bool = False,
) -> bool:
    """Run cells until the time is up, or so many are done; print those that fail, and the mean. Whether any failed.

    only : a kind of cells, of "score", "everyday" (scores with nothing rare in them), "prediction", "model".
    """
    end, cells, failed = time.monotonic() + seconds, [], 0
    with warnings.catch_warnings(), suppress(KeyboardInterrupt):
        warnings.simplefilter("ignore")
        for cell in _cells(seed, runs, only):
            cells.append(cell)
            for fault in cell.faults():
                failed += 1
                say(f"[statistical] {cell.name}: {fault}")
            if time.monotonic() > end or len(cells) == most or (failed and until_fault):
                break
    plain = [cell.trusted for cell in cells if cell.trusted is not None and not cell.allowed.any() and cell.n_masks > 1]
    mean = float(np.mean(plain)) if plain else float("nan")
    off = len(plain) >= 20 and not 0.935 <= mean <= 0.965
    sparse = sum(cell.trusted is None for cell in cells)
    say(
        f"\nstatistical: {len(cells)} cells of {runs} runs, {failed} faults; mean coverage of {len(plain)} cells "
        f"without an allowance {mean:.2%}{' (outside 93.5 … 96.5 %)' if off else ''}; {sparse} cells call themselves "
        "unreliable"
    )
    return bool(failed) or off


def _cells(seed: int, runs: int, only: str | None) -> Iterator[Runs]:
    for number in itertools.count():
        rng = generator(seed, "statistical", number)
        kind = only or ("score", "score", "score", "prediction", "score", "model")[number % 6]
        k, sampler = int(rng.choice(MASKS)), SAMPLERS[int(rng.integers(len(SAMPLERS)))]
        if kind == "everyday":
            yield from _score_cells(_everyday(rng), 256, SAMPLERS[0], runs)
        elif kind == "score":
            yield from _score_cells(_score_problem(rng, number), k, sampler, runs)
        elif kind == "model":
            yield from _model_cells(rng, k, sampler, max(200, runs // 5), number)
        else:
            yield from _prediction_cells(rng, max(k, 10), sampler, runs, number)


def _score_cells(problem: tuple[Any, float, float, str], k: int, sampler: Any, runs: int) -> Iterator[Runs]:
    """One row of a score, called once a seed."""
    w, p, y, loss = problem
    function = NAMED[loss] if loss in NAMED else CALLABLES[loss][1]
    x = np.ones((1, len(w)))
    scores, chance, _ = listed(w, x, np.full(len(w), p), 0.0)
    truth = float((function.value(scores, LONG(y)) * chance).sum())
    given = loss if loss in NAMED else CALLABLES[loss][0]
    method = methods.MonteCarlo(n_masks=k, sampler=sampler)
    try:
        results = [am.expected_score_loss(w, x, [y], p, loss=given, method=method, seed=seed) for seed in range(runs)]
    except ValueError:  # a loss beyond the largest double under some mask
        return
    name = f"expected_score_loss({w.tolist()}, ones, [{y}], {p}, loss={loss!r}), {type(sampler).__name__}, K={k}"
    yield _summed(name, k, results, truth)


def _everyday(rng: np.random.Generator) -> tuple[Any, float, float, str]:
    return rng.standard_normal(6), 0.5, 1.0, "logistic"


def _score_problem(rng: np.random.Generator, number: int) -> tuple[np.ndarray, float, float, str]:
    """Weights, rate, target and loss: everyday problems, and those in which few masks decide."""
    d = int(rng.integers(1, 11))
    kind = rng.choice(["even", "even", "one decides", "steep"])
    w = rng.standard_normal(d) / np.sqrt(d) * rng.choice([0.5, 1.0, 2.0])
    if kind == "one decides":
        w *= 0.05
        w[0] = float(rng.choice([3.0, 10.0]))
    elif kind == "steep":
        w = np.abs(w) * 3
    p = float(rng.choice([0.01, 0.1, 0.3, 0.5, 0.5, 0.7, 0.9, 0.99, 0.999]))
    loss = str(rng.choice([*NAMED, "lambda s, y: np.tanh(s - y) ** 2"]))
    y = {
        "logistic": float(rng.integers(2)),
        "poisson": float(rng.poisson(2.0)),
        "exponential": float(rng.choice([-1.0, 1.0])),
    }
    if number == 0:  # a unit that is almost never kept and decides all
        return np.array([3.0, 0.0, 0.0, 0.0]), 0.999, 0.0, "logistic"
    return w, p, y.get(loss, float(np.round(rng.standard_normal(), 2))), loss


def _summed(name: str, k: int, results: list[Any], truth: float) -> Runs:
    intervals = np.array([result.interval(LEVEL) for result in results])
    slack = 1e-12 * (1 + abs(truth))
    covered = (intervals[:, 0] - slack <= truth) & (truth <= intervals[:, 1] + slack)
    reliable = np.array([bool(getattr(result, "reliable", True)) for result in results])
    return Runs(name, k, covered, reliable, np.array([_has_allowance(result) for result in results]))


def _has_allowance(result: Any) -> bool:
    """Whether the error is more than the standard error of the replicates."""
    if result.replicates is None or len(result.replicates) < 2:
        return False
    values = np.asarray(result.replicates, np.float64)
    sizes = getattr(result, "replicate_masks", None)
    share = np.full(len(values), 1 / len(values)) if sizes is None else np.asarray(sizes, np.float64) / np.sum(sizes)
    mean = (share * values).sum()
    plain = np.sqrt(((values - mean) ** 2 * (share / (1 - share))).sum() / len(values))
    return bool(float(result.error) > 1.001 * plain + 1e-12 * abs(mean))


def _model_cells(rng: np.random.Generator, k: int, sampler: Any, runs: int, number: int) -> Iterator[Runs]:
    from attacks import nets
    from attacks.models import Case, losses

    spec = nets.draw(rng, plain=True)
    spec = replace(spec, rows=1, mode="eval", outputs=max(2, spec.outputs))
    loss = str(rng.choice(["squared_error", "logistic", "cross_entropy"]))
    case = Case(spec, loss, methods.MonteCarlo(n_masks=k, sampler=sampler), None, False, number)
    built = nets.build(spec)
    masks, chance = built.masks()
    y = case.targets(1)
    truth = float(chance @ losses(loss, built.outputs(masks, LONG), y.numpy())[0][:, 0])
    import torch

    with torch.no_grad():
        results = [am.expected_loss(built.net, built.x, y, loss, method=case.method, seed=seed) for seed in range(runs)]
    if results[0].guarantee != "statistical":
        return
    yield _summed(
        f"expected_loss of {spec.steps}, seed {spec.seed}, {loss}, {type(sampler).__name__}, K={k}", k, results, truth
    )


def _prediction_cells(rng: np.random.Generator, k: int, sampler: Any, runs: int, number: int) -> Iterator[Runs]:
    import torch

    from attacks import nets
    from attacks.predictions import TASKS, Case, quantities

    spec = replace(nets.draw(rng, plain=True), rows=1, mode="eval")
    task = str(rng.choice(TASKS))
    spec = replace(spec, outputs=max(2, spec.outputs) if task == "multiclass" else spec.outputs)
    built = nets.build(spec)
    masks, chance = built.masks()
    case = Case(spec, task, None, False, None, number)
    truth = quantities(case, built.outputs(masks, LONG), chance)
    with torch.no_grad():
        result = am.predict(
            built.net, built.x.repeat(runs, *[1] * (built.x.ndim - 1)), task=task,
            method=methods.MonteCarlo(n_masks=k, sampler=sampler), batch_size=100, seed=number,
        )  # fmt: skip
    if result.guarantee != "statistical":
        return
    for quantity, value in truth.items():
        low, high = (np.asarray(end).reshape(runs, -1) for end in result.interval(LEVEL, quantity))
        flat = value.astype(np.float64).reshape(-1)
        slack = 1e-12 * (1 + np.abs(flat))
        covered = (low - slack <= flat) & (flat <= high + slack)
        reliable = np.asarray(result.reliable.get(quantity, np.ones((runs, len(flat)), bool))).reshape(runs, -1)
        name = f"predict {quantity} of {spec.steps}, seed {spec.seed}, {task}, {type(sampler).__name__}, K={k}"
        for j in range(len(flat)):
            if np.ptp(high[:, j] - low[:, j]) < 1e-12 and covered[:, j].all():
                continue  # integrated by formula: nothing is drawn
            yield Runs(f"{name}, output {j}", k, covered[:, j], reliable[:, j], np.zeros(runs, bool))
