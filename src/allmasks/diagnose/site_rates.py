"""Which p at each of several sites: combinations of rates raced on paired seeds, and what is known of the answer."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allmasks.diagnose.audit import Audit
from allmasks.diagnose.halving import excluded, rungs
from allmasks.diagnose.paired import interval
from allmasks.masks import check_p
from allmasks.over_masks.progress import progress_bar
from allmasks.results import Note, Result, with_error
from allmasks.trials import Trials, run_trials

__all__ = ["RateRace", "race_sites"]

Array = NDArray[np.float64]
Rates = dict[str, float]

_MOST_ARMS = 4096
_ALL_BROKEN = 5
"""Combinations that have all failed when the fault is taken for the fit's own."""


@dataclass(frozen=True, repr=False)
class RateRace(Result):
    """Rates of several sites, raced together. See `rate_curve`.

    Attributes
    ----------
    sites : their names. arms : the combinations tried, as dicts of rates.
    values : (arms, seeds) what `fit` returned in the race; nan where an arm was not run. n_seeds : (arms,) seeds run.
    mean, error : (arms,) over the seeds that ran, and the standard error.
    best : the combination of smallest mean among those that ran longest.
    tied : combinations that no interval excludes; the truly best is among them with probability `level`.
    ranges : of each site, the least and the largest rate among `tied`.
    baseline : what `gain` is measured from. gain, gain_error, gain_low, gain_high : how much smaller the loss is at
        `best`, on seeds that took no part in choosing it, so that luck in being chosen is not in it.
    n_fits : fits that were run (or taken from the cache). grid_fits : what all arms on all seeds would take.
    failed : arms left out, with what went wrong.
    """

    sites: tuple[str, ...]
    arms: tuple[Rates, ...]
    values: Array
    n_seeds: NDArray[np.int64]
    mean: Array
    error: Array
    best: Rates
    tied: tuple[Rates, ...]
    ranges: dict[str, tuple[float, float]]
    baseline: Rates
    gain: float
    gain_error: float
    gain_low: float
    gain_high: float
    n_fits: int
    grid_fits: int
    failed: tuple[tuple[Rates, str], ...]
    level: float
    seconds: float
    guarantee: str = "statistical"
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        return f"RateRace: best {named(self.best)}; {len(self.tied)} of {len(self.arms)} combinations not excluded"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [(site, f"p {self.best[site]:g}, could be {lo:g} to {hi:g}") for site, (lo, hi) in self.ranges.items()]
        rows.append((f"gain over {named(self.baseline)}", with_error(self.gain, self.gain_error)))
        rows.append(("fits", f"{self.n_fits} of the {self.grid_fits} of a full grid"))
        return rows


def named(rates: Rates) -> str:
    """Rates in a line.

    >>> named({"a": 0.0, "b": 0.5})
    'a 0, b 0.5'
    """
    return ", ".join(f"{site} {p:g}" for site, p in rates.items())


def race_sites(
    fit: Callable[[Rates, int], float],
    p: Mapping[str, ArrayLike],
    *,
    kept: tuple[str, Trials],
    seeds: Sequence[int],
    level: float,
    first_look: int,
    stop_early: bool,
    baseline: float | Mapping[str, float],
    start: Audit | Mapping[str, float] | None,
    budget: float | None,
    n_jobs: int,
    progress: bool,
) -> RateRace:
    """See `rate_curve`, which settles the arguments."""
    sites, arms = _combinations(p)
    reference = _rates("baseline", baseline, sites)
    if budget is not None and not (isinstance(budget, int | float) and budget > 0):
        raise ValueError(f"budget must be seconds above 0, or None, got {budget!r}")
    # A quarter of the seeds chooses nothing: on them the gain is measured.
    confirming = max(2, len(seeds) // 4)
    racing, held_back = list(seeds[:-confirming]), list(seeds[-confirming:])
    if len(racing) < first_look:
        raise ValueError(
            f"{len(seeds)} seeds are too few for several sites: {confirming} are kept to measure the gain, and a race "
            f"begins with {first_look}; give at least {first_look + max(2, math.ceil(first_look / 3))}"
        )
    ends = None if budget is None else time.monotonic() + budget
    with progress_bar(progress, "fits") as (begin, tick):
        runner = _Runner(fit, *kept, n_jobs, ends, tick, keep=2 * confirming)
        race = _Race(arms, racing, runner, level, rungs(first_look, len(racing)))
        begin(race.expected(halve=stop_early) + 2 * confirming)
        race.run(_order(arms, start, sites), halve=stop_early, onwards=budget is not None)
        return _conclude(race, runner, sites, reference, held_back, level)


def _combinations(p: Mapping[str, ArrayLike]) -> tuple[tuple[str, ...], list[Rates]]:
    offered: dict[str, list[float]] = {}
    for site, given in p.items():
        if not isinstance(site, str):
            raise TypeError(f"p maps names of sites to rates, and {site!r} is no name")
        offered[site] = [float(v) for v in np.unique(check_p(given))]
        if not offered[site]:
            raise ValueError(f"p[{site!r}] must be one or more rates in [0, 1), got none")
    if not offered:
        raise ValueError("p must name one or more sites, got none")
    count = math.prod(len(rates) for rates in offered.values())
    if count > _MOST_ARMS:
        raise ValueError(
            f"p asks for {count:,} combinations of rates, more than {_MOST_ARMS:,}: give fewer rates a site, or race "
            "some sites with the others fixed"
        )
    sites = tuple(offered)
    return sites, [dict(zip(sites, one, strict=True)) for one in itertools.product(*offered.values())]


def _rates(what: str, given: float | Mapping[str, float], sites: Sequence[str]) -> Rates:
    if isinstance(given, Mapping):
        if set(given) != set(sites):
            raise ValueError(f"{what} must give a rate for each of {', '.join(sites)}, got {dict(given)}")
        return {site: float(check_p(given[site])) for site in sites}
    return dict.fromkeys(sites, float(check_p(given)))


def _order(arms: list[Rates], start: Audit | Mapping[str, float] | None, sites: Sequence[str]) -> list[int]:
    """Places of the arms, those nearest to the start first: it matters where a budget ends a race early."""
    if start is None:
        return list(range(len(arms)))
    center = _from_shares(start, sites) if isinstance(start, Audit) else _rates("start", start, sites)
    return sorted(range(len(arms)), key=lambda i: sum((arms[i][site] - center[site]) ** 2 for site in sites))


def _from_shares(audit: Audit, sites: Sequence[str]) -> Rates:
    """Rates at which each site would pay alike: to second order what a site pays is proportional to p/(1−p)."""
    paid = {one.site.name: (one.site.p, max(one.alone, 0.0)) for one in audit.per_site}
    missing = [site for site in sites if site not in paid]
    if missing:
        raise ValueError(f"the audit has no site {missing[0]!r}; its sites are {', '.join(paid)}")
    mean = sum(paid[site][1] for site in sites) / len(sites)
    found = {}
    for site in sites:
        rate, share = paid[site]
        rate = float(np.mean(rate)) or 0.5
        odds = rate / (1 - rate) * (mean / share if share > 0 else 1.0)
        found[site] = odds / (1 + odds)
    return found


class _Runner:
    """Fits, as many as there is time for; what went wrong is a result too."""

    def __init__(
        self, fit: Any, key: str, trials: Trials, n_jobs: int, ends: float | None, tick: Any, *, keep: int
    ) -> None:
        self.fit, self.key, self.trials, self.n_jobs = fit, key, trials, n_jobs
        self.ends, self.tick, self.keep = ends, tick, keep
        self.count, self.fresh, self.spent = 0, 0, 0.0

    def in_time(self) -> bool:
        """Whether one more fit leaves time for those that measure the gain."""
        each = self.spent / self.fresh if self.fresh else 0.0
        return self.ends is None or time.monotonic() + each * (1 + self.keep) < self.ends

    def __call__(self, asked: Sequence[tuple[Rates, int]], *, always: bool = False) -> list[Any]:
        """Results of (rates, seed) in order: a number, or what went wrong; fewer where time ran out."""
        found: list[Any] = []
        # Without a budget nothing has to be asked in between.
        step = len(asked) if self.ends is None else max(1, self.n_jobs if self.n_jobs > 0 else 8)
        for lo in range(0, len(asked), step):
            if not always and not self.in_time():
                break
            part = asked[lo : lo + step]
            jobs = [({"fit": self.key, "rates": rates, "seed": seed}, (self.fit, rates, seed)) for rates, seed in part]
            known = [self._kept(key) for key, _ in jobs]
            began = time.monotonic()
            results = run_trials(_trial, jobs, self.trials, n_jobs=self.n_jobs, done=lambda key: self.tick(1))
            if known.count(False):
                self.fresh += known.count(False)
                self.spent += time.monotonic() - began
            self.count += len(part)
            found += [one["score"] if "score" in one else one["failed"] for one in results]
        return found

    def _kept(self, key: Any) -> bool:
        """Whether the trial is there; one that raised is run again, since what was wrong may have been mended."""
        path = self.trials.path(key)
        if path is None or not path.is_file():
            return False
        if "raised" in (self.trials.get(key) or {}):
            path.unlink()
            return False
        return True


def _trial(fit: Callable[[Rates, int], float], rates: Rates, seed: int) -> dict[str, Any]:
    call = f"fit({rates}, seed={seed})"
    try:
        value = fit(dict(rates), seed)
    except Exception as problem:
        return {"failed": f"{call} raised {type(problem).__name__}: {problem}", "raised": True}
    try:
        score = float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{call} returned {type(value).__name__}: it must return one number, the validation loss"
        ) from None
    return {"score": score} if math.isfinite(score) else {"failed": f"{call} returned {score}"}


class _Race:
    """Values of the arms, which of them are excluded, and which have failed."""

    def __init__(self, arms: list[Rates], seeds: list[int], run: _Runner, level: float, looks: list[int]) -> None:
        self.arms, self.seeds, self.runner, self.looks = arms, seeds, run, looks
        self.values = np.full((len(arms), len(seeds)), np.nan)
        self.out = np.zeros(len(arms), np.bool_)
        self.failed: dict[int, str] = {}
        self.alpha = (1 - level) / (max(len(arms) - 1, 1) * len(looks))

    def expected(self, *, halve: bool) -> int:
        """Fits of a race in which no arm is excluded."""
        front, total, before = len(self.arms), 0, 0
        for n in self.looks:
            total += front * (n - before)
            before = n
            front = max(front // 2, 1) if halve else front
            if halve and front <= _FEW:
                break
        return total

    def run(self, order: list[int], *, halve: bool, onwards: bool) -> None:
        """All arms, then the better half …; where there is time left, the others that are not excluded go on too."""
        front, room = order, len(order)
        for n in self.looks:
            if not self._advance(front, n):
                return
            self._judge(n)
            front = [i for i in front if not self.out[i]]
            if halve:
                # Half of what began: where exclusions have made room already, nobody has to wait.
                room = max(room // 2, 1)
                front = sorted(front, key=lambda i: float(self.values[i, :n].mean()))[:room]
                if room <= _FEW or len(front) == 1:
                    break
        while onwards:
            waiting = [i for i in np.flatnonzero(~self.out).tolist() if self.ran()[i] < len(self.seeds)]
            if not waiting:
                return
            # The best of those that have run the fewest.
            fewest = min(self.ran()[waiting])
            n = next(look for look in self.looks if look > fewest)
            group = sorted((i for i in waiting if self.ran()[i] == fewest), key=lambda i: np.nanmean(self.values[i]))
            leader = self.leader()
            if not self._advance([leader] if self.ran()[leader] < n else [], n) or not self._advance(group, n):
                return
            self._judge(n)

    def ran(self) -> NDArray[np.int64]:
        """(arms,) seeds run without a gap."""
        return np.isfinite(self.values).cumprod(axis=1).sum(axis=1)

    def leader(self) -> int:
        """The arm of smallest mean among those that ran longest and are not excluded."""
        ran = np.where(self.out, -1, self.ran())
        longest = np.flatnonzero(ran == ran.max())
        return int(min(longest, key=lambda i: float(self.values[i, : max(ran[i], 1)].mean())))

    def _advance(self, front: list[int], n: int) -> bool:
        """Run these arms up to n seeds; False where time ran out."""
        ran = self.ran()
        asked = [(i, s) for i in front if i not in self.failed for s in range(ran[i], n)]
        lo = 0
        while lo < len(asked):
            # An arm that fails is not run again: a part is short where it could fail much.
            part = [one for one in asked[lo : lo + 64] if one[0] not in self.failed]
            lo += 64
            results = self.runner([(self.arms[i], self.seeds[s]) for i, s in part])
            for (i, s), value in zip(part, results, strict=False):
                if isinstance(value, str):
                    self.failed.setdefault(i, value)
                    self.out[i] = True
                else:
                    self.values[i, s] = value
            tried = int(np.isfinite(self.values).any(axis=1).sum())
            if not tried and len(self.failed) >= min(_ALL_BROKEN, len(self.arms)):
                first = next(iter(self.failed.values()))
                raise ValueError(f"all {len(self.failed)} combinations of rates tried have failed; the first: {first}")
            if len(results) < len(part):
                return False
        return True

    def _judge(self, n: int) -> None:
        among = ~self.out & (self.ran() >= n)
        self.out |= excluded(self.values[:, :n], among, self.alpha)


_FEW = 3
"""Halving ends with so many: they have run long enough to choose from."""


def _conclude(
    race: _Race, runner: _Runner, sites: tuple[str, ...], baseline: Rates, held_back: list[int], level: float
) -> RateRace:
    n_seeds = race.ran()
    if n_seeds.max() < 2:
        raise ValueError(
            f"the budget ended after {runner.count} fits, before any combination had two seeds; give more seconds"
            + ("" if runner.trials.folder is None else ", and the same cache: the fits are kept")
        )
    best = race.leader()
    chosen = race.arms[best]
    results = runner([(rates, s) for rates in (chosen, baseline) for s in held_back], always=True)
    wrong = next((one for one in results if isinstance(one, str)), None)
    gains = np.full(len(held_back), np.nan)
    if wrong is None:
        gains = np.array(results[len(held_back) :]) - np.array(results[: len(held_back)])
    gain, gain_error, low, high = interval(gains, level)
    tied = [race.arms[i] for i in np.flatnonzero(~race.out)]
    counts = np.maximum(n_seeds, 1)
    mean = np.array([row[:k].mean() for row, k in zip(race.values, counts, strict=True)])
    error = np.array(
        [row[:k].std(ddof=1) / math.sqrt(k) if k > 1 else np.nan for row, k in zip(race.values, counts, strict=True)]
    )
    return RateRace(
        sites=sites,
        arms=tuple(race.arms),
        values=race.values,
        n_seeds=n_seeds,
        mean=mean,
        error=error,
        best=chosen,
        tied=tuple(tied),
        ranges={site: (min(r[site] for r in tied), max(r[site] for r in tied)) for site in sites},
        baseline=baseline,
        gain=gain,
        gain_error=gain_error,
        gain_low=low,
        gain_high=high,
        n_fits=runner.count,
        grid_fits=len(race.arms) * (race.values.shape[1] + len(held_back)),
        failed=tuple((race.arms[i], told) for i, told in race.failed.items()),
        level=level,
        seconds=runner.spent,
        notes=tuple(_notes(race, chosen, tied, wrong)),
    )


def _notes(race: _Race, chosen: Rates, tied: list[Rates], wrong: str | None) -> list[str]:
    found: list[str] = []
    off = [rates for rates in race.arms if not any(rates.values())]
    if not any(chosen.values()):
        found.append(Note("no dropout at any of these sites is best"))
    elif off and off[0] in tied:
        found.append(Note("no dropout at all of these sites is not excluded"))
    untried = int(((race.ran() < 2) & ~race.out).sum())
    if untried:
        found.append(Note("{count} combinations had no time for two seeds and are not excluded", count=untried))
    if race.failed:
        told = next(iter(race.failed.values()))
        found.append(
            Note("{count} combinations failed and are left out; the first: {told}", count=len(race.failed), told=told)
        )
    if wrong is not None:
        found.append(Note("the gain is not known: {told}", told=wrong))
    return found
