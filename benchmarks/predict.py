"""Time to a given standard error of the mean prediction: `am.predict` against the loop that people write.

    python benchmarks/predict.py [--examples 256] [--errors .003 .001]

Nets trained on digits (`benchmarks/trained.py`), held-out examples; each row is printed as it is measured.

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
from collections.abc import Iterator
from pathlib import Path

import torch
from measure import Rows, machine, median, once
from torch import nn
from trained import HELD_OUT, digits, trained

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.samplers import LatinHypercube


def everywhere() -> nn.Module:
    layers = [nn.Dropout(0.2), nn.Linear(784, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 1024), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Dropout(0.5), nn.Linear(1024, 10))


def backbone(outputs: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(256, 512), nn.ReLU()]
    for _ in range(18):
        layers += [nn.Linear(512, 512), nn.LayerNorm(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(512, outputs))


def problems(n: int) -> Iterator[tuple[str, nn.Module, torch.Tensor, str]]:
    for name, build, size, task in (
        ("784-1024-1024-10, dropout everywhere", everywhere, 28, "multiclass"),
        ("20 layers, dropout before the last", lambda: backbone(10), 16, "multiclass"),
        ("20 layers, binary head", lambda: backbone(1), 16, "binary"),
    ):
        x, y = digits(size)
        yield name, trained(name, build, x, y if task == "multiclass" else y % 2, epochs=5), x[:n], task


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

    return min(median(lambda f=form, b=b, m=m: calls(f, b, 8 // m)).seconds / 8 for form, m in forms for b in batches)


def rms(error: torch.Tensor) -> float:
    return float((error**2).mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=256, help=f"at most {HELD_OUT}")
    parser.add_argument("--errors", type=float, nargs="+", default=[0.003, 0.001])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    n = min(options.examples, HELD_OUT)
    print(f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {n} examples")
    columns = ("wanted", "reached", "masks", "ours: s", "passes", "loop: s", "loop", "torch-uncertainty", "baal")
    rows = Rows(("model", 36), *((column, max(7, len(column))) for column in columns))
    for name, model, x, task in problems(n):
        batches = sorted({32, 128, n})
        per_pass = {b: median(lambda b=b, m=model, x=x, t=task: loop(m, x, t, 8, b)).seconds / 8 for b in batches}
        best = min(per_pass, key=per_pass.__getitem__)
        others = {k: fastest_pass(forms, x, task, batches) for k, forms in wrapped(model).items()}
        spread = float(loop(model, x, task, 128, best)[1].mean())
        trial = am.predict(model, x, task=task)  # compiles the kernels, too
        for wanted in options.errors:
            method = None
            if trial.guarantee != "exact":
                # The number of masks both need is known: what is compared is the time per unit of error.
                masks = max(256, int(trial.n_masks * (rms(trial.mean_error) / wanted) ** 2 / 8 + 1) * 8)
                method = MonteCarlo(n_masks=masks, sampler=LatinHypercube())
            seconds, found = median(
                lambda m=model, x=x, t=task, how=method: am.predict(m, x, task=t, method=how), options.repeats
            )
            reached = 0.0 if method is None else rms(found.mean_error)
            passes = max(1, round(spread / (reached or wanted) ** 2))
            # Passes cost the same each, so a long loop is measured on a part of it.
            part = min(passes, 50)
            rival = once(lambda m=model, x=x, t=task, k=part, b=best: loop(m, x, t, k, b)).seconds * passes / part
            shown = f"{reached:.1e}" if reached else "exact"
            beside = (others.get(k) for k in ("torch-uncertainty", "baal"))
            ratios = ("–" if each is None else f"{each * passes / seconds:.1f}" for each in beside)
            numbers = (f"{seconds:.2f}", passes, f"{rival:.2f}", f"{rival / seconds:.1f}")
            rows.add(name, f"{wanted:g}", shown, found.n_masks, *numbers, *ratios)
            name = ""


if __name__ == "__main__":
    main()
