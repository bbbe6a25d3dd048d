"""Time to a given standard error of the mean prediction: `am.predict` against the loop that people write.

    python benchmarks/predict.py [--examples 256] [--errors .01 .003 .001]

The rival runs passes in train mode under no_grad, softmax and running sum, at the fastest of several batch sizes. It is
told for nothing how many passes it needs: those with which its root-mean-square standard error is the one that
`am.predict` really reached. torch-uncertainty's and baal's wrappers stand beside it where they are installed (their
wrapper files alone are needed: `pip install --no-deps torch-uncertainty baal structlog einops`). Ours is the whole
call: finding the sites, pilot where there is one, masks, errors. Every number is the median of one run's repeats; the
last three columns are the rivals' times over ours.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.samplers import LatinHypercube


def everywhere() -> tuple[nn.Module, torch.Tensor, str]:
    layers = [nn.Dropout(0.2), nn.Linear(784, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(1024, 10)), torch.rand(256, 784), "multiclass"


def backbone(outputs: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(256, 512), nn.ReLU()]
    for _ in range(18):
        layers += [nn.Linear(512, 512), nn.LayerNorm(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(512, outputs))


def problems(n: int) -> dict[str, tuple[nn.Module, torch.Tensor, str]]:
    torch.manual_seed(0)
    first, x, task = everywhere()
    with torch.no_grad():
        first[-1].weight.mul_(8)
    deep, binary = backbone(10), backbone(1)
    with torch.no_grad():
        deep[-1].weight.mul_(4)
    return {
        "784-1024-1024-10, dropout everywhere": (first, x[:n], task),
        "20 layers, dropout before the last": (deep, torch.randn(n, 256), "multiclass"),
        "20 layers, binary head": (binary, torch.randn(n, 256), "binary"),
    }


def link(z: torch.Tensor, task: str) -> torch.Tensor:
    return z.softmax(-1) if task == "multiclass" else z.sigmoid()


def loop(model: nn.Module, x: torch.Tensor, task: str, passes: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance over train-mode passes."""
    model.train()
    means, variances = [], []
    with torch.no_grad():
        for part in x.split(batch):
            total = squares = torch.zeros(())
            for _ in range(passes):
                p = link(model(part), task)
                total, squares = total + p, squares + p * p
            means.append(total / passes)
            variances.append(squares / passes - means[-1] ** 2)
    model.eval()
    return torch.cat(means), torch.cat(variances)


def torch_uncertainty(model: nn.Module, m: int, on_batch: bool) -> nn.Module:
    """Its wrapper, loaded from its one file: the package's own import asks for much more."""
    package = importlib.util.find_spec("torch_uncertainty")
    if package is None or package.origin is None:
        raise ImportError("not installed")
    spec = importlib.util.spec_from_file_location("_tu", Path(package.origin).parent / "methods" / "mc_dropout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.mc_dropout(copy.deepcopy(model), m, on_batch=on_batch).eval()


def baal(model: nn.Module) -> nn.Module:
    from baal.bayesian.dropout import MCDropoutModule

    return MCDropoutModule(copy.deepcopy(model)).eval()


def wrapped(model: nn.Module) -> dict[str, list[tuple[nn.Module, int]]]:
    """Each rival package's wrappers, with the passes that one call makes."""
    found: dict[str, list[tuple[nn.Module, int]]] = {}
    try:
        forms = ((1, False), (8, False), (8, True))
        found["torch-uncertainty"] = [(torch_uncertainty(model, m, on_batch), m) for m, on_batch in forms]
    except Exception as error:
        print("torch-uncertainty is left out:", error)
    try:
        found["baal"] = [(baal(model), 1)]
    except Exception as error:
        print("baal is left out:", error)
    return found


def fastest_pass(forms: list[tuple[nn.Module, int]], x: torch.Tensor, task: str, batches: list[int]) -> float:
    """Seconds of one pass over x, at the fastest form and batch size."""

    def calls(model: nn.Module, batch: int, times: int) -> None:
        with torch.no_grad():
            for part in x.split(batch):
                total = torch.zeros(())
                for _ in range(times):
                    total = total + link(model(part), task).unflatten(0, (-1, len(part))).sum(dim=0)

    return min(median_time(lambda f=form, b=b, m=m: calls(f, b, 8 // m), 3) / 8 for form, m in forms for b in batches)


def median_time(function, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--errors", type=float, nargs="+", default=[0.01, 0.003, 0.001])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=130)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    console.print(f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.examples} examples")
    table = Table(
        "model",
        "standard error wanted",
        "ours: reached",
        "masks",
        "s",
        "passes",
        "loop: s",
        "loop",
        "torch-unc.",
        "baal",
    )
    for name, (model, x, task) in problems(options.examples).items():
        batches = sorted({32, 64, 128, len(x)})
        per_pass = {b: median_time(lambda b=b, m=model, x=x, t=task: loop(m, x, t, 8, b), 3) / 8 for b in batches}
        best = min(per_pass, key=per_pass.__getitem__)
        others = {k: fastest_pass(forms, x, task, batches) for k, forms in wrapped(model).items()}
        _, variance = loop(model, x, task, 256, best)
        spread = float(variance.mean())
        am.predict(model, x[:8], task=task, method=MonteCarlo(n_masks=256))  # compiles the kernels
        for wanted in options.errors:
            # The number of masks both need is known: what is compared is the time per unit of error.
            trial = am.predict(model, x, task=task)
            if trial.guarantee == "exact":
                found, seconds = (
                    trial,
                    median_time(lambda m=model, x=x, t=task: am.predict(m, x, task=t), options.repeats),
                )
                reached, passes = 0.0, max(1, round(spread / wanted**2))
            else:
                pilot = float((trial.mean_error**2).mean().sqrt())
                masks = max(256, int(trial.n_masks * (pilot / wanted) ** 2 / 8 + 1) * 8)
                method = MonteCarlo(n_masks=masks, sampler=LatinHypercube())
                kept: list[am.Prediction] = []

                def ours(m=model, x=x, t=task, method=method, kept=kept) -> None:
                    kept.append(am.predict(m, x, task=t, method=method))

                seconds = median_time(ours, options.repeats)
                found = kept[-1]
                reached = float((found.mean_error**2).mean().sqrt())
                passes = max(1, round(spread / reached**2))
            # Passes cost the same each, so a long loop is measured on a part of it.
            run = min(passes, 200)
            rival = median_time(lambda m=model, x=x, t=task, r=run, b=best: loop(m, x, t, r, b), 1) * passes / run
            shown = "exact" if reached == 0.0 else f"{reached:.1e}"
            row = (name, f"{wanted:g}", shown, str(found.n_masks), f"{seconds:.2f}", str(passes), f"{rival:.2f}")
            beside = (others.get(k) for k in ("torch-uncertainty", "baal"))
            ratios = ("–" if each is None else f"{each * passes / seconds:.1f}" for each in beside)
            table.add_row(*row, f"{rival / seconds:.1f}", *ratios)
            name = ""
    console.print(table)


if __name__ == "__main__":
    main()
