"""What `am.evaluate` claims, shown: errors that hold, conformal coverage, whether masks pay, memory, cost, UCI bands.

    python benchmarks/evaluate.py coverage [--rough] [--task] # intervals over masks, over data, both, against the truth
    python benchmarks/evaluate.py conformal [--splits 200]    # sets at 90 % over random splits
    python benchmarks/evaluate.py pays [--data DIR]           # masks against eval mode: digits, MNIST in DIR/mnist
    python benchmarks/evaluate.py cost [--masks 1000]         # memory, and processor time beside am.predict's
    python benchmarks/evaluate.py uci --data DIR [--splits 1] # bands before and after calibration

Coverage: a net of six random units, whose 64 masks are listed, and a population from which x and y are drawn at will.
The truth over masks is the metric of the listed mean on one test set; over data and of both, that of 200 000 examples.
Each metric's interval is 95 %; a cell is that metric over one source of error. The cells were fixed beforehand.
"""

from __future__ import annotations

import argparse
import gzip
import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from trained import HELD_OUT, digits, trained

import allmasks as am
from allmasks.evaluation.classes import Options, class_measures
from allmasks.evaluation.regressions import regression_measures
from allmasks.evaluation.resampling import measured
from allmasks.evaluation.scored import classes_of, regressions_of, samples_digested
from allmasks.evaluation.settle import units_of
from allmasks.prediction import Prediction
from allmasks.prediction.held import Held

N, K, TAU, POPULATION = 400, 64, 4.0, 200_000
SMOOTH = {"multiclass": ("log_loss", "brier"), "binary": ("auroc",), "regression": ("rmse", "crps")}
ROUGH = {
    "multiclass": ("accuracy", "calibration_error", "aurc", "coverage_at_risk", "accuracy_at_coverage",
                   "error_entropy_auroc", "error_entropy_aupr"),
    "binary": ("aupr",),
    "regression": ("coverage_90", "miscalibration_area"),
}  # fmt: skip


class World:
    """A net whose masks are listed, and the law of its data."""

    def __init__(self, task: str) -> None:
        rng = np.random.default_rng(7)
        self.task, self.c = task, {"multiclass": 3, "binary": 1, "regression": 1}[task]
        self.w, self.b = rng.normal(size=(4, 6)), rng.normal(size=6)
        self.v = rng.normal(size=(6, self.c))
        bits = (np.arange(64)[:, None] >> np.arange(6)) & 1
        self.kept, self.chance = bits / 0.7, 0.7 ** bits.sum(axis=1) * 0.3 ** (6 - bits.sum(axis=1))

    def link(self, z: np.ndarray) -> np.ndarray:
        if self.task == "regression":
            return z
        if self.task == "binary":
            return 1 / (1 + np.exp(-z))
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def drawn(self, n: int, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values (n, 64, c) under every mask, those of eval mode (n, c), and targets."""
        h = np.tanh(rng.normal(size=(n, 4)) @ self.w + self.b)
        values, center = self.link((h[:, None] * self.kept) @ self.v), self.link(h @ self.v)
        # The truth is a little sharper than the net, and has noise of its own.
        law = self.link(1.3 * h @ self.v)
        if self.task == "regression":
            return values, center, law + rng.normal(size=(n, 1)) * 0.6
        if self.task == "binary":
            return values, center, (rng.uniform(size=(n, 1)) < law).astype(int)
        return values, center, (law.cumsum(axis=1) < rng.uniform(size=(n, 1))).sum(axis=1)

    def prediction(self, values: np.ndarray, center: np.ndarray, rng: Any = None) -> Prediction:
        """Of K masks an example drawn by their law, or of all of them."""
        n = len(values)
        weight = torch.from_numpy(self.chance)
        samples = torch.from_numpy(values)
        if rng is not None:
            picked = rng.choice(64, size=(n, K), p=self.chance)
            samples = samples[torch.arange(n)[:, None], torch.from_numpy(picked)]
            weight = torch.full((K,), 1 / K).double()
        entropy = torch.zeros(samples.shape[: 3 if self.task == "binary" else 2]).double()
        if self.task == "multiclass":
            entropy = torch.special.entr(samples).sum(-1)
        if self.task == "binary":
            entropy = torch.special.entr(samples) + torch.special.entr(1 - samples)
        share = weight[:, None]
        mean = (samples * share).sum(1)
        expected = (entropy * (share if entropy.ndim == 3 else weight)).sum(1)
        held: dict[str, Tensor] = {}
        if rng is not None:
            held = {"first": (samples - mean[:, None]).float(), "entropy": (entropy - expected[:, None]).float()}
        off = torch.zeros_like(mean)
        return Prediction(
            task=self.task, mean=mean, mean_error=off, std=off, std_error=off, gap=off, gap_error=off,
            guarantee="exact" if rng is None else "statistical", method=am.methods.MonteCarlo(),
            n_masks=64 if rng is None else K, weight_scaling=torch.from_numpy(center), expected_entropy=expected,
            samples=samples.movedim(1, 0),
            held=Held(np.ones(0 if rng is None else K, int), 0, -1, False, 1, held),
        )  # fmt: skip


def metrics(world: World, data: tuple[np.ndarray, ...], rng: Any, names: tuple[str, ...], seed: int) -> dict[str, Any]:
    values, center, y = data
    prediction, target = world.prediction(values, center, rng), torch.from_numpy(y)
    keep = np.ones(len(y), bool)
    if world.task == "regression":
        digest = None
        if rng is not None:
            digest = samples_digested(prediction, target, TAU, mixture=True)
        else:
            digest = listed(world, values, target)
        masked = regressions_of(prediction, target, digest, TAU, mixture=True)
        measures = regression_measures(masked.at(None))
    else:
        masked = classes_of(prediction, target, keep)
        measures = class_measures(Options(risk=0.3), max(world.c, 2), binary=world.task == "binary")
    chosen = [m for m in measures if m.name in names]
    return measured(masked, chosen, units_of(len(y), keep, None), seed)


def listed(world: World, values: np.ndarray, target: Tensor) -> dict[str, Tensor]:
    from allmasks.evaluation.digest import SampleDigest

    samples = torch.from_numpy(values)
    return SampleDigest(TAU, True)(target, samples.mean(1), samples, torch.from_numpy(world.chance), None)


def truth(world: World, names: tuple[str, ...]) -> dict[str, float]:
    """Of the population, each metric the mean over parts of it where that is what it is; else of the whole."""
    values, center, y = world.drawn(20_000 if world.task == "regression" else POPULATION, np.random.default_rng(99))
    from allmasks.evaluation import resampling

    kept, resampling.BOOTSTRAPS = resampling.BOOTSTRAPS, 2
    found = metrics(world, (values, center, y), None, names, 0)
    resampling.BOOTSTRAPS = kept
    named = {name: m.value for name, m in found.items()}
    return named | {f"{name} difference": m.difference.value for name, m in found.items() if m.difference}


def coverage(console: Console, seeds: int, rough: bool, tasks: list[str]) -> None:
    for task in tasks:
        title = f"Coverage of 95 % intervals, {seeds} seeds, %"
        table = Table("metric", "over masks", "over data", "both", title=title)
        world = World(task)
        names = ROUGH[task] if rough else SMOOTH[task]
        shown = [*names, *(["log_loss difference"] if "log_loss" in names else [])]
        population = truth(world, names)
        fixed = world.drawn(N, np.random.default_rng(5))
        exact = metrics(world, fixed, None, names, 0)
        hits = {name: np.zeros(3) for name in shown}
        for seed in range(seeds):
            rng = np.random.default_rng([seed, 1])
            data = world.drawn(N, rng)
            runs = (
                (metrics(world, fixed, rng, names, seed), "masks"),
                (metrics(world, data, None, names, seed), "data"),
                (metrics(world, data, rng, names, seed), "both"),
            )
            for i, (found, over) in enumerate(runs):
                for name in shown:
                    metric, other = found[name.split()[0]], exact[name.split()[0]]
                    wanted = other.value if over == "masks" else population[name]
                    if name.endswith("difference"):
                        metric = metric.difference
                        wanted = other.difference.value if over == "masks" else wanted
                    low, high = metric.interval(0.95, over)
                    hits[name][i] += bool(low <= wanted <= high)
        for name in shown:
            rate = 100 * hits[name] / seeds
            flag = "" if name not in ROUGH[task] else " (bootstrap)" if rate.min() >= 90 else " (bootstrap, below 90)"
            table.add_row(f"{task}: {name}{flag}", *(f"{r:.1f}" for r in rate))
        console.print(table)


def conformal(console: Console, splits: int) -> None:
    """A net on digits, its held-out predictions split anew each time."""
    x, y = digits(8)
    net = trained("pays", small, x, y)
    world = World("multiclass")
    rng = np.random.default_rng(0)
    values, center, labels = world.drawn(2000, rng)
    drawn, target = world.prediction(values, center, rng), torch.from_numpy(labels)
    rows = []
    whole = am.predict(net, x, task="multiclass", n_masks=64)
    for name, found, truths in (("digits", whole, y), ("drawn", drawn, target)):
        for score in ("cumulative", "threshold"):
            for by_class in (False, True):
                hit = []
                for split in range(splits):
                    order = torch.from_numpy(np.random.default_rng(split).permutation(len(truths)))
                    a, b = order[:600], order[600:]
                    made = am.conformal(
                        part(found, a), truths[a], level=0.9, score=score, by_class=by_class, seed=split
                    )
                    sets = made.sets(part(found, b))
                    hit.append(float(sets[torch.arange(len(b)), truths[b].long()].double().mean()))
                rows.append((name, score, "by class" if by_class else "", f"{100 * np.mean(hit):.2f}",
                             f"{100 * np.std(hit) / math.sqrt(splits):.2f}"))  # fmt: skip
    table = Table(
        "data", "score", "", "mean coverage, %", "its error", title=f"Conformal sets at 90 %, {splits} splits"
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)


def part(prediction: Prediction, rows: Tensor) -> Prediction:
    """Some examples of a prediction."""
    from dataclasses import replace

    names = ("mean", "mean_error", "std", "std_error", "gap", "gap_error", "weight_scaling", "expected_entropy")
    return replace(prediction, **{n: getattr(prediction, n)[rows] for n in names if getattr(prediction, n) is not None})


def mnist(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def read(name: str, head: int) -> np.ndarray:
        with gzip.open(data / "mnist" / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=head)

    x, tx = (read(f"{p}-images-idx3-ubyte.gz", 16).reshape(-1, 784) / np.float32(255) for p in ("train", "t10k"))
    y, ty = (read(f"{p}-labels-idx1-ubyte.gz", 8).astype(np.int64) for p in ("train", "t10k"))
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(tx), torch.from_numpy(ty)


def big() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(256, 10),
    )  # fmt: skip


def small() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(128, 10),
    )  # fmt: skip


def pays(console: Console, data: Path | None, masks: int) -> None:
    x, y = digits(8)
    sets = [("digits", trained("pays", small, x, y), x[:HELD_OUT], y[:HELD_OUT])]
    if data is not None:
        a, b, c, d = mnist(data)
        sets.append(("MNIST", trained("pays", big, a, b, epochs=3), c, d))
    for name, net, tx, ty in sets:
        found = am.evaluate(net, tx, ty, n_masks=masks)
        metric, apart = found["log_loss"], found["log_loss"].difference
        console.print(
            f"{name}, {len(ty)} examples, {masks} masks: log loss {metric.value:.5f}, eval mode "
            f"{metric.weight_scaling.value:.5f}, difference {apart.value:.5f} ± {apart.masks_error:.1e} (masks) "
            f"± {apart.data_error:.1e} (data); masks for .001: {found.masks_needed('log_loss', 0.001)}"
        )
        # By hand: passes in train mode.
        net.train()
        torch.manual_seed(0)
        with torch.no_grad():
            passes = [net(tx).softmax(-1).double() for _ in range(min(masks, 200))]
        net.eval()
        p = torch.stack(passes).mean(0)
        loss = -p[torch.arange(len(ty)), ty].log().mean()
        at_mean = -net(tx).double().log_softmax(-1)[torch.arange(len(ty)), ty].mean()
        console.print(f"  loop of {len(passes)} passes: log loss {loss:.5f}, difference {loss - at_mean:.5f}, no error")


def cost(console: Console, masks: int) -> None:
    x, y = torch.randn(10_000, 784), torch.randint(0, 10, (10_000,))
    net = big().eval()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    am.predict(net, x[:100], task="multiclass", n_masks=32)
    times = []
    for call in (
        lambda: am.predict(net, x, task="multiclass", n_masks=masks),
        lambda: am.evaluate(net, x, y, task="multiclass", n_masks=masks),
    ):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        console.print(f"processor {times[-1]:.1f} s, peak so far {peak:.2f} GiB ({before:.2f} before)")
    console.print(f"evaluate / predict: {times[1] / times[0]:.2f}, {masks} masks, 10 000 examples, 10 classes")


def uci(console: Console, data: Path, splits: int, p: float) -> None:
    import uci as benchmark

    columns = ("set", "coverage", "after scale", "conformal", "width", "after", "conformal")
    table = Table(*columns, title=f"90 % bands for new observations, test data, {splits} splits")
    for name in benchmark.FILES:
        rows = []
        for split in range(splits):
            X, y, held_x, held_y, test_x, test_y = benchmark.parts(data, name, split)
            tau = benchmark.PRECISIONS[name][1]
            net = benchmark.fit(X, y, p, tau, seed=split)
            held, new = (
                am.predict(net, benchmark.inputs(net, part), task="regression", n_masks=256, noise_precision=tau)
                for part in (held_x, test_x)
            )
            targets = [torch.from_numpy(np.asarray(t, float))[:, None] for t in (held_y, test_y)]
            bands = [
                new.predictive_interval(0.9),
                am.calibrate(held, targets[0]).interval(new, 0.9),
                am.conformal(held, targets[0], level=0.9).intervals(new),
            ]
            inside = [float(((targets[1] >= lo) & (targets[1] <= hi)).double().mean()) for lo, hi in bands]
            rows.append([*inside, *(float((hi - lo).mean()) for lo, hi in bands)])
        found = np.mean(rows, axis=0)
        table.add_row(name, *(f"{v:.3f}" for v in found[:3]), *(f"{v:.3g}" for v in found[3:]))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "conformal", "pays", "cost", "uci"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--task", choices=tuple(SMOOTH), help="of these coverages only")
    parser.add_argument("--rough", action="store_true", help="the metrics that are not smooth")
    parser.add_argument("--splits", type=int)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--p", type=float, default=0.05)
    given = parser.parse_args()
    console = Console(width=120)
    console.print(machine())
    if given.what == "coverage":
        coverage(console, given.seeds, given.rough, [given.task] if given.task else list(SMOOTH))
    elif given.what == "conformal":
        conformal(console, given.splits or 200)
    elif given.what == "pays":
        pays(console, given.data, given.masks)
    elif given.what == "cost":
        cost(console, given.masks)
    else:
        uci(console, given.data, given.splits or 1, given.p)


if __name__ == "__main__":
    main()
