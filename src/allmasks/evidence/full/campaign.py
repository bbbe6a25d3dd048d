"""The full run: which trial next, within a budget, and the verdicts on what is there.

Order: every contrast gets a pilot first, the cheaper experiments before the dearer; from then on the seeds that each
contrast takes for 90 % power follow from its pilot's spread, and what completes an experiment in the least time comes
first. The order looks at spreads and seconds only, never at effects: so that stopping when the time is over does not
make noise speak more often.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from allmasks.evidence.claim import Effect
from allmasks.evidence.findings import Evidence, conclude
from allmasks.evidence.full.claims_at_scale import CONTRASTS, FULL_CLAIMS, Contrast, pictures, readings
from allmasks.evidence.full.large_nets import ARMS, Work, experiments, steps_of, train_one
from allmasks.evidence.full.public_data import Sources, find_sources
from allmasks.evidence.power import seeds_for, upper_spread
from allmasks.trials import Trials, run_trials

__all__ = ["held", "run_full"]

VERSION = 1
PILOT = 3
MOST = 40
"""Seeds that an experiment is given at most."""
_SMALL, _AT_SMALL = 1000, 10
"""MNIST of up to so many images has at least so many seeds."""

Results = dict[tuple[str, str, int], dict[str, float]]


def run_full(
    data: str | Path | None,
    *,
    budget: float | None = None,
    trials: str | Path | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> Evidence:
    """The claims on large nets and public data, as far as the budget goes.

    Parameters
    ----------
    data : a folder that has, in it or below, any of MNIST's idx files, sentences by polarity, regressions as .npz.
    budget : seconds from now; None: until every contrast has the seeds that it takes.
    trials : a folder for finished trials; a run that is killed, or has a budget again, goes on from there.
    n_jobs : joblib processes. progress : tell on stderr what is done and left.

    Raises
    ------
    FileNotFoundError : no such folder, or nothing in it. ValueError : a budget in which nothing could be compared.
    """
    began = time.monotonic()
    sources = find_sources(data)
    campaign = _Campaign(sources, Trials(None if trials is None else Path(trials)))
    ends = None if budget is None else began + budget
    told = began
    while True:
        left = float("inf") if ends is None else ends - time.monotonic()
        wave = campaign.next(max(n_jobs, 1) if n_jobs > 0 else os.cpu_count() or 1, left)
        if not wave:
            break
        campaign.do(wave, n_jobs)
        if progress and time.monotonic() - told > 10:
            told = time.monotonic()
            rest = "" if ends is None else f", {max(ends - told, 0) / 60:.1f} min of the budget left"
            print(f"{len(campaign.results)} trials done; last {wave[-1].experiment}{rest}", file=sys.stderr, flush=True)
    return campaign.conclude(time.monotonic() - began)


class _Campaign:
    def __init__(self, sources: Sources, store: Trials) -> None:
        self.sources, self.store = sources, store
        self.experiments = experiments(sources)
        self.results: Results = {}
        for experiment in self.experiments:
            for arm in ARMS:
                for seed in range(MOST):
                    found = store.get(self.key(Work(experiment, arm, seed))) if store.folder is not None else None
                    if found is not None:
                        self.results[experiment, arm, seed] = found

    def key(self, work: Work) -> dict[str, Any]:
        """What a trial's result depends on; of the data, sizes of the files, so that the folder may move."""
        kind = work.experiment.split()[0]
        files = {
            "mnist": [path for _, path in self.sources.mnist],
            "text": list(self.sources.text or ()),
            "table": [path for name, path in self.sources.tables if work.experiment == f"table {name}"],
        }[kind]
        return asdict(work) | {"full": VERSION, "files": [[path.name, path.stat().st_size] for path in files]}

    def wanted(self, experiment: str) -> dict[str, int]:
        """Seeds that each arm takes, by the pilots there are; arms that no contrast asks for come last, with few."""
        found = dict.fromkeys(_arms(experiment), PILOT)
        tests = sum(contrast.asks(e) for contrast in CONTRASTS for e in self.experiments)
        small = experiment.split()[0] == "mnist" and "conv" not in experiment and int(experiment.split()[1]) <= _SMALL
        for contrast in CONTRASTS:
            if not contrast.asks(experiment):
                continue
            values = readings(contrast, experiment, self.results)
            needed = _AT_SMALL if small else PILOT
            if len(values) >= PILOT:
                # The pilot alone decides: seeds added later must not move what they are added for.
                spread = upper_spread(float(np.std(values[:PILOT], ddof=1)), PILOT)
                needed = max(needed, seeds_for(contrast.criterion.minimum, spread, tests, most=MOST))
            for arm in (contrast.treated, contrast.untreated):
                found[arm] = max(found[arm], min(needed, MOST))
        return found

    def cost(self, experiment: str, arm: str) -> float:
        """Seconds of a trial: those seen, or what a step of its net takes about."""
        seen = [r["seconds"] for (e, _, _), r in self.results.items() if e == experiment]
        if seen:
            return float(np.mean(seen))
        kind = experiment.split()[0]
        step = {"text": 0.02, "table": 0.004}.get(kind, 0.05 if steps_of(experiment) >= 2000 else 0.03)
        return steps_of(experiment) * step

    def next(self, count: int, left: float) -> list[Work]:
        """The next trials, of one experiment each time, that fit in the seconds left."""
        todo: list[tuple[float, list[Work]]] = []
        for experiment in self.experiments:
            wanted = self.wanted(experiment)
            each = self.cost(experiment, "")
            missing = [
                Work(experiment, arm, seed)
                for seed in range(max(wanted.values()))
                for arm in wanted
                if seed < wanted[arm] and (experiment, arm, seed) not in self.results
            ]
            if not missing or each > left:
                continue
            pilot = [work for work in missing if work.seed < PILOT]
            # Pilots of all before the seeds that follow from them; then what is nearest to complete.
            rank = each * (len(pilot) if pilot else len(missing)) + (0.0 if pilot else 1e9)
            todo.append((rank, (pilot or missing)[:count]))
        return min(todo, key=lambda one: one[0])[1] if todo else []

    def do(self, wave: list[Work], n_jobs: int) -> None:
        """Train, and keep each result as it comes."""
        jobs = [(self.key(work), (work, self.sources)) for work in wave]
        for work, found in zip(wave, run_trials(train_one, jobs, self.store, n_jobs=n_jobs), strict=True):
            self.results[work.experiment, work.arm, work.seed] = found

    def more(self) -> tuple[str, ...]:
        """What a larger budget would add: experiment, seeds there and wanted, and about how long."""
        found = []
        for experiment in self.experiments:
            wanted = self.wanted(experiment)
            there = {arm: sum(e == experiment and a == arm for e, a, _ in self.results) for arm in wanted}
            missing = sum(max(wanted[arm] - there[arm], 0) for arm in wanted)
            if missing:
                minutes = missing * self.cost(experiment, "") / 60
                found.append(f"{experiment}: {missing} more nets, about {minutes:.0f} min of one core")
        return tuple(found)

    def conclude(self, seconds: float) -> Evidence:
        """Verdicts on the contrasts that have two seeds or more."""
        rows = [
            (contrast.claim, contrast.criterion, Effect(contrast.criterion.key, experiment, values))
            for claim in FULL_CLAIMS
            for experiment in self.experiments
            for contrast in _of(claim)
            if contrast.asks(experiment) and len(values := readings(contrast, experiment, self.results)) > 1
        ]
        if not rows:
            raise ValueError(
                f"the budget ended after {len(self.results)} trials, before anything could be compared; give more: "
                "what is finished is kept where --out is the same"
            )
        there = {claim.key for claim, *_ in rows}
        return conclude(
            [claim for claim in FULL_CLAIMS if claim.key in there],
            rows,
            pictures(self.results),
            datasets=self.experiments,
            linear_datasets=(),
            seeds=tuple(sorted({seed for *_, seed in self.results})),
            quick=False,
            null=False,
            seconds=seconds,
            step_seconds={
                e: {a: r["seconds"] / steps_of(e)} for (e, a, s), r in self.results.items() if s == 0 and a == "none"
            },
            scale="full",
            more=self.more(),
        )


def _of(claim: Any) -> list[Contrast]:
    return [contrast for contrast in CONTRASTS if contrast.claim is claim]


def _arms(experiment: str) -> list[str]:
    """Arms of an experiment; all of them on MNIST's three layers."""
    if experiment.startswith("table "):
        return ["none", "dropout"]
    if "conv" in experiment or experiment.startswith("text"):
        return ["none", "dropout", "max-norm + dropout"]
    return list(ARMS)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for this run alone; freed by the system however the run ends.

    Raises
    ------
    ValueError : another run is going on there.
    """
    try:
        import fcntl
    except ImportError:  # Windows: two runs there would only do the same work twice
        yield
        return
    with open(folder / ".running", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another run is going on in {folder}: wait until it ends, or give another --out"
            ) from None
        yield
