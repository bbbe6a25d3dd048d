"""The shared nets and what the instruments say of them: each trained and looked at once, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from allmasks.evidence.datasets import Dataset, Split, load, split
from allmasks.evidence.nets import Arm, as_module, unpack
from allmasks.trials import Trials

__all__ = ["VERSION", "Lab", "Settings", "Trial"]

Array = NDArray[np.float64]

VERSION = 2
"""Counts changes of the experiments: a trial of another version is never taken for this one's."""

_MEMBERS = 6
_FAMILIES = {"dropout": "drop", "L2": "l2=", "L1": "l1=", "both": "both"}


@dataclass(frozen=True)
class Settings:
    """What a run is about. Two runs of equal settings give the same numbers.

    `null` switches every treatment off and gives each arm its own seeds: nothing comparative may then be seen.
    """

    seeds: tuple[int, ...] = tuple(range(10))
    quick: bool = False
    null: bool = False
    files: tuple[tuple[str, str], ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        """Classification data sets."""
        bundled = ("digits", "breast_cancer") if self.quick else ("digits", "breast_cancer", "wine")
        return bundled + tuple(name for name, file in self.files if load(name, file).classes > 1)

    @property
    def linear_datasets(self) -> tuple[str, ...]:
        """Data sets of the claims on linear models."""
        bundled = ("diabetes", "breast_cancer") if self.quick else ("diabetes", "breast_cancer", "digits")
        return bundled + tuple(name for name, _ in self.files)

    @property
    def rates(self) -> tuple[float, ...]:
        """Drop rates of the shared nets."""
        return (0.25, 0.5, 0.75) if self.quick else (0.1, 0.25, 0.5, 0.75)

    @property
    def arms(self) -> dict[str, Arm]:
        """Every kind of net that a claim may ask for."""
        l2 = (1e-3, 1e-2) if self.quick else (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
        l1 = (3e-2, 1e-1) if self.quick else (1e-2, 3e-2, 1e-1, 3e-1)
        arms = [Arm("none"), *(Arm(f"drop{p:g}", p=p) for p in self.rates)]
        arms += [Arm(f"l2={s:g}", l2=s) for s in l2] + [Arm(f"l1={s:g}", l1=s) for s in l1]
        arms += [Arm(f"both{p:g},{s:g}", p=p, l2=s) for p in (0.25, 0.5) for s in (l2 if self.quick else l2[1:])]
        arms += [Arm("drop0.5, 8 masks", p=0.5, n_masks=8)]
        arms += [Arm(f"thinned {m}", p=0.5, member=m) for m in range(_MEMBERS)]
        return {arm.name: arm.untreated() if self.null else arm for arm in arms}

    @property
    def thinned(self) -> tuple[str, ...]:
        """The members of the ensemble of independently trained thinned nets."""
        return tuple(f"thinned {m}" for m in range(_MEMBERS))

    def family(self, name: str) -> tuple[str, ...]:
        """The arms of one regularizer: "dropout", "L2", "L1" or "both"."""
        start = _FAMILIES[name]
        return tuple(arm for arm in self.arms if arm.startswith(start) and "masks" not in arm)

    def middle(self, name: str) -> str:
        """The middle strength of a family, for claims that name one in advance as they name p = 1/2."""
        arms = self.family(name)
        return arms[len(arms) // 2]

    def epochs(self, dataset: str) -> int:
        """Passes over the training rows; the bundled sets have few rows."""
        full = {"digits": 200}.get(dataset, 300 if dataset in ("breast_cancer", "wine", "iris") else 60)
        return full // 3 if self.quick else full

    def width(self, dataset: str) -> int:
        """Units of each hidden layer."""
        return 64 if dataset not in ("breast_cancer", "wine", "iris") else 32


@dataclass(frozen=True)
class Trial:
    """One trial: "net" trains an arm for all seeds, "probe" looks at one net, "own" is a claim's own experiment."""

    kind: str
    dataset: str
    name: str
    seed: int = -1

    def key(self, settings: Settings) -> dict[str, Any]:
        """What the trial's result depends on."""
        key = asdict(self) | {"version": VERSION, "quick": settings.quick, "null": settings.null}
        file = dict(settings.files).get(self.dataset)
        if file is not None:
            import os

            status = os.stat(file)
            key["file"] = [file, status.st_size, status.st_mtime_ns]
        # Nets of one arm are trained side by side and share streams of random numbers.
        return key | {"seeds": list(settings.seeds)}


@dataclass
class Lab:
    """Results of finished trials, as arrays over seeds. Asking for one that is missing does it, by `run`."""

    settings: Settings
    trials: Trials
    run: Callable[[Trial, Settings, Trials], Any]
    _memo: dict[Trial, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.settings.seeds

    def result(self, trial: Trial) -> Any:
        """The plain result of a trial."""
        if trial not in self._memo:
            key = trial.key(self.settings)
            found = self.trials.get(key)
            if found is None:
                found = self.run(trial, self.settings, self.trials)
                self.trials.put(key, found)
            self._memo[trial] = found
        return self._memo[trial]

    def keep(self, results: dict[Trial, Any]) -> None:
        """Results that are at hand already."""
        self._memo.update(results)

    def step_seconds(self) -> dict[str, dict[str, float]]:
        """Seconds of one training step of all seeds, by data set and arm: the one thing that is not the same twice."""
        found: dict[str, dict[str, float]] = {}
        for trial, result in self._memo.items():
            if trial.kind == "net":
                found.setdefault(trial.dataset, {})[trial.name] = result["seconds"]
        return found

    def data(self, dataset: str) -> Dataset:
        """The whole data set."""
        return load(dataset, dict(self.settings.files).get(dataset))

    def split(self, dataset: str, seed: int) -> Split:
        """A seed's rows."""
        return split(self.data(dataset), seed)

    def curves(self, dataset: str, arm: str) -> dict[str, Any]:
        """What training recorded, lists as arrays (seeds, …)."""
        raw = self.result(Trial("net", dataset, arm))
        return {k: np.asarray(v, np.float64) if isinstance(v, list) else v for k, v in raw.items()}

    def last(self, dataset: str, arm: str, name: str) -> Array:
        """(seeds,) the final value of a training curve."""
        return self.curves(dataset, arm)[name][:, -1]

    def net(self, dataset: str, arm: str, seed: int, *, when: str = "final", p: float | None = None) -> nn.Sequential:
        """A trained net as a torch module, with the arm's rate or another."""
        raw = self.result(Trial("net", dataset, arm))
        i = self.settings.seeds.index(seed)
        rate = self.settings.arms[arm].p if p is None else p
        return as_module(unpack(raw[when], raw["sizes"], len(self.seeds), i), rate)

    def tensors(self, dataset: str, seed: int, part: str, at_most: int = 200) -> tuple[Tensor, Tensor]:
        """The first rows of a part of the split, (n, d) float64 and (n,)."""
        x, y = getattr(self.split(dataset, seed), part)
        return torch.from_numpy(x[:at_most]), torch.from_numpy(y[:at_most])

    def probed(self, dataset: str, arm: str, name: str) -> Array:
        """(seeds, …) one number, or row of numbers, of every instrument's look at the nets."""
        return np.array([self.result(Trial("probe", dataset, arm, s))[name] for s in self.seeds], np.float64)

    def own(self, claim: str, dataset: str, name: str) -> Array:
        """(seeds, …) a number of the claim's own experiment."""
        return np.array([self.result(Trial("own", dataset, claim, s))[name] for s in self.seeds], np.float64)

    def best(self, dataset: str, family: str) -> str:
        """The arm of a family with the smallest mean validation loss at the end of training."""
        arms = self.settings.family(family)
        return min(arms, key=lambda arm: float(self.last(dataset, arm, "validation").mean()))
