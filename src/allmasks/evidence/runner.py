"""Running the claims: which trials they need, in what order, what is done already, and the verdicts at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from allmasks.diagnose.paired import seed_numbers
from allmasks.evidence.claim import Claim, Criterion, Effect
from allmasks.evidence.claims import CLAIMS
from allmasks.evidence.datasets import find_datasets, load
from allmasks.evidence.examine import examine
from allmasks.evidence.findings import Evidence, conclude
from allmasks.evidence.nets import train
from allmasks.evidence.shared_nets import Lab, Settings, Trial
from allmasks.trials import Stopped, Trials, run_trials

__all__ = ["choose", "run", "run_trial"]

_BY_KEY = {claim.key: claim for claim in CLAIMS}


def choose(names: Sequence[str] | None) -> tuple[Claim, ...]:
    """Claims by number or name; all of them for None.

    Raises
    ------
    ValueError : a claim that does not exist.

    Examples
    --------
    >>> [claim.key for claim in choose(["2", "l1"])]
    ['ridge', 'l1']
    """
    if names is None:
        return CLAIMS
    table = {str(claim.number): claim for claim in CLAIMS} | _BY_KEY
    unknown = [name for name in names if name not in table]
    if unknown or not names:
        known = ", ".join(f"{claim.number} {claim.key}" for claim in CLAIMS)
        raise ValueError(f"no claim {', '.join(map(repr, unknown)) or 'was named'}; the claims are {known}")
    chosen = {table[name].number: table[name] for name in names}
    return tuple(chosen[number] for number in sorted(chosen))


def run(
    claims: Sequence[str] | None = None,
    *,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    null: bool = False,
    data: str | Path | None = None,
    trials: str | Path | None = None,
    n_jobs: int = 1,
    progress: bool = False,
    lang: str = "en",
) -> Evidence:
    """Measure the notes' claims and give each a verdict: holds, holds in part, absent, undecided, contradicted.

    Parameters
    ----------
    claims : numbers or names of claims; all by default.
    seeds : how many, or which; 10 by default, 6 with `quick`. A seed has its own split of the data and its own net.
    quick : fewer seeds, epochs, strengths and data sets: a first look.
    null : switch every treatment off and give each arm seeds of its own: what the same machinery says of noise.
    data : a folder of .npz files with X and y, each one more data set.
    trials : a folder for finished trials; a killed run goes on from there and gives the same numbers, bit for bit.
    n_jobs : joblib processes.
    progress : show progress with the time left, on stderr. lang : "en" or "ko", in which it is told.

    Raises
    ------
    ValueError : an unknown claim, fewer than 2 seeds, data that do not fit. FileNotFoundError : no data in the folder.
    Stopped : a KeyboardInterrupt that knows how many trials are kept.

    Examples
    --------
    >>> found = run(["ridge"], seeds=2, quick=True)
    >>> found["ridge"].readings[0].mean < 1e-12
    True
    """
    began = time.perf_counter()
    chosen = choose(claims)
    numbers = seed_numbers((6 if quick else 10) if seeds is None else seeds)
    files = find_datasets(data)
    for name, file in files.items():
        load(name, file)
    settings = Settings(tuple(numbers), quick, null, tuple(sorted(files.items())))
    store = Trials(None if trials is None else Path(trials))
    lab = Lab(settings, store, run_trial)
    stages = _stages(chosen, settings)
    try:
        with _progress(progress, lang, sum(_cost(trial, settings) for stage in stages for trial in stage)) as tick:
            for stage in stages:
                jobs = [(trial.key(settings), (trial, settings, store)) for trial in stage]
                costs = {id(key): _cost(trial, settings) for (key, _), trial in zip(jobs, stage, strict=True)}
                results = run_trials(run_trial, jobs, store, n_jobs=n_jobs, done=partial(_told, tick, costs))
                lab.keep(dict(zip(stage, results, strict=True)))
    except KeyboardInterrupt:
        paths = [store.path(trial.key(settings)) for stage in stages for trial in stage]
        raise Stopped(sum(path is not None and path.is_file() for path in paths), len(paths)) from None
    return _conclude(chosen, lab, time.perf_counter() - began)


def _told(tick: Callable[[float], None], costs: dict[int, float], key: Any) -> None:
    tick(costs[id(key)])


def run_trial(trial: Trial, settings: Settings, trials: Trials) -> Any:
    """Do a trial's work, in this process and on one thread: more would change the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        lab = Lab(settings, trials, run_trial)
        with threadpool_limits(1):
            if trial.kind == "net":
                return _train(lab, trial)
            if trial.kind == "probe":
                return examine(lab, trial.dataset, trial.name, trial.seed)
            own = _BY_KEY[trial.name].own
            assert own is not None
            return own(lab, trial.dataset, trial.seed)
    finally:
        torch.set_num_threads(before)


def _train(lab: Lab, trial: Trial) -> dict[str, Any]:
    splits = [lab.split(trial.dataset, seed) for seed in lab.seeds]

    def stacked(part: str) -> tuple[Tensor, Tensor]:
        rows = [getattr(s, part) for s in splits]
        x, y = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        return x.float(), y

    return train(
        lab.settings.arms[trial.name],
        *stacked("train"),
        [stacked("validation"), stacked("test")],
        classes=lab.data(trial.dataset).classes,
        width=lab.settings.width(trial.dataset),
        epochs=lab.settings.epochs(trial.dataset),
        seeds=lab.seeds,
        own_seed=lab.settings.null,
    )


def _stages(claims: Sequence[Claim], settings: Settings) -> list[list[Trial]]:
    """Nets first, then what looks at them."""
    nets: dict[Trial, None] = {}
    looks: dict[Trial, None] = {}
    for claim in claims:
        for dataset in settings.linear_datasets if claim.linear else settings.datasets:
            probes = _arms(claim.probes, settings)
            for arm in (*_arms(claim.needs, settings), *probes):
                nets[Trial("net", dataset, arm)] = None
            looks.update(dict.fromkeys(Trial("probe", dataset, arm, s) for arm in probes for s in settings.seeds))
            if claim.own is not None:
                looks.update(dict.fromkeys(Trial("own", dataset, claim.key, s) for s in settings.seeds))
    return [list(nets), list(looks)]


def _arms(names: Sequence[str], settings: Settings) -> list[str]:
    """Names of arms, "family:…" and "middle:…" spelled out; rates that a quick run leaves out are left out."""
    found: dict[str, None] = {}
    for name in names:
        kind, _, family = name.partition(":")
        if kind == "family":
            found.update(dict.fromkeys(settings.family(family)))
        else:
            found[settings.middle(family) if kind == "middle" else name] = None
    return [name for name in found if name in settings.arms]


def _cost(trial: Trial, settings: Settings) -> float:
    """Rough seconds, for the time left only."""
    if trial.kind == "net":
        masks = settings.arms[trial.name].n_masks
        return settings.epochs(trial.dataset) * len(settings.seeds) * (0.5 + 0.5 * masks) * 2e-3
    if trial.kind == "probe":
        return 0.5 * (settings.width(trial.dataset) / 32) ** 1.5
    return _BY_KEY[trial.name].cost


def _conclude(claims: Sequence[Claim], lab: Lab, seconds: float) -> Evidence:
    settings = lab.settings
    rows: list[tuple[Claim, Criterion, Effect]] = []
    for claim in claims:
        for dataset in settings.linear_datasets if claim.linear else settings.datasets:
            values = claim.measure(lab, dataset)
            for criterion in claim.criteria:
                effects = tuple(float(v) for v in values[criterion.key])
                rows.append((claim, criterion, Effect(criterion.key, dataset, effects)))
    return conclude(
        claims,
        rows,
        {claim.key: claim.pictures(lab) for claim in claims if claim.pictures is not None},
        datasets=settings.datasets,
        linear_datasets=settings.linear_datasets,
        seeds=settings.seeds,
        quick=settings.quick,
        null=settings.null,
        seconds=seconds,
        step_seconds=lab.step_seconds(),
    )


@contextmanager
def _progress(show: bool, lang: str, total: float) -> Iterator[Callable[[float], None]]:
    """Progress and time left on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not show:
        yield lambda cost: None
        return
    from allmasks.language import translator

    _ = translator(lang)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn(_("trials")),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn(_("left")),
        )
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            whole = bar.add_task("trials", total=total)
            yield lambda cost: bar.advance(whole, cost)
        return
    began = last = time.monotonic()
    done = 0.0

    def tick(cost: float) -> None:
        nonlocal done, last
        done += cost
        now = time.monotonic()
        if now - last >= 10 and done < total:
            last = now
            left = (now - began) * (total - done) / done
            told = _("{share:.0f} % done, about {minutes:.1f} min left")
            print(told.format(share=100 * done / total, minutes=left / 60), file=sys.stderr, flush=True)

    yield tick
