"""What the library says today, number by number: the record that a rebuilt house is held against.

`python tests/golden.py FILE` writes the record. Floats are kept as their bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import json
import math
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import nn

import allmasks as am
from allmasks import methods as M
from architectures import ARCHITECTURES
from model_cases import CASES, seeded

LARGEST = 400
SHOWN = re.compile(
    r"\(?(-?\d[\d.,e+-]*|–) ± (\d[\d.e+-]*|\?|unknown|알 수 없음)\)?(e-?\d+)?"
    r"|(?<=평균\)에서 )[\d.]+(?=, 평가)|\d[\d.]* ±|\d[\d.]*e-\d+"
)
"""A value with its error, as text: how many of its digits are shown has changed, and its bits are recorded."""

TIMES = re.compile(r"\d+(\.\d+)?(e-\d+)? ?(s|seconds|초)\b")


def plain(value: Any) -> Any:
    """A value as JSON, floats as their bits; large arrays as a digest, their sum and their absolute sum."""
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, float | np.floating):
        return {"f": float(value).hex()}
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if scipy.sparse.issparse(value):
        value = value.toarray()
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f":
            wide = value.astype(np.float64)
            if value.size <= LARGEST:
                return {"shape": list(value.shape), "a": [v.hex() for v in wide.ravel().tolist()]}
            digest = hashlib.sha256(np.ascontiguousarray(wide).tobytes()).hexdigest()
            sums = np.nansum(wide), np.nansum(np.abs(wide))
            return {"shape": list(value.shape), "sha": digest, "s": [float(s).hex() for s in sums]}
        return {"shape": list(value.shape), "v": [plain(v) for v in value.ravel().tolist()[:LARGEST]]}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return repr(value)


def said(value: Any) -> Any:
    """All that a result tells: its fields, its dictionary, what it prints, what a notebook shows."""
    told: dict[str, Any] = {"type": type(value).__name__}
    if hasattr(value, "to_dict"):
        told["dict"] = plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        told["fields"] = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
        told["repr"] = repr(value)
    elif not told.get("dict"):
        told["value"] = plain(value)
    if hasattr(value, "_repr_html_"):
        told["html"] = value._repr_html_()
    if hasattr(value, "interval"):
        with contextlib.suppress(TypeError):
            told["interval"] = plain(value.interval())
    return told


METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "one": {"n_masks": 1},
    "seven": {"n_masks": 7},
    "mc": {"method": M.MonteCarlo(n_masks=72)},
    "mc, seed": {"method": M.MonteCarlo(n_masks=300), "seed": 5},
    "independent": {"method": M.MonteCarlo(n_masks=64, sampler=am.samplers.Independent())},
    "antithetic": {"method": M.MonteCarlo(n_masks=65, sampler=am.samplers.Antithetic())},
    "atol": {"method": M.MonteCarlo(), "atol": 0.05},
    "rtol, capped": {"method": M.MonteCarlo(n_masks=512), "rtol": 1e-4},
    "budget": {"budget": 100},
    "enumeration": {"method": M.Enumeration()},
    "few": {"method": M.Enumeration(max_masks=8)},
    "closed": {"method": M.ClosedForm()},
    "fourier": {"method": M.Fourier()},
    "gauss": {"method": M.GaussianMoments()},
    "delta": {"method": M.Delta()},
    "control": {"method": M.MonteCarlo(n_masks=64, control="quadratic")},
    "wrong": {"method": M.MonteCarlo(n_masks=64), "n_masks": 32},
    "negative": {"n_masks": -1},
    "seedless": {"seed": -1},
}


def gradient(net: nn.Module, result: Any) -> Any:
    wanted = list(net.parameters())
    return torch.autograd.grad(result.value, wanted, allow_unused=True)


def losses() -> Iterator[tuple[str, Callable[[], Any]]]:
    for case in CASES:
        for name, how in METHODS.items():

            def run(case=case, how=how):
                net = case.build()
                result = am.expected_loss(net, case.x, case.y, case.loss, **how)
                return [said(result), plain(gradient(net, result))]

            yield f"expected_loss/{case.name}/{name}", run
            seedless = {k: v for k, v in how.items() if k != "seed"}
            yield (
                f"plan/{case.name}/{name}",
                lambda case=case, how=seedless: repr(
                    am.plan_expected_loss(case.build(), case.x, case.y, case.loss, **how)
                ),
            )
    case = CASES[3]
    x32, net32 = case.x.float(), partial(lambda: case.build().float())
    y1 = CASES[0].y
    more = {
        "float32": lambda: am.expected_loss(net32(), x32, case.y, "cross_entropy", n_masks=64),
        "float32, all": lambda: am.expected_loss(net32(), x32, case.y, "cross_entropy"),
        "weights": lambda: am.expected_loss(case.build(), case.x, case.y, case.loss, sample_weight=np.arange(5.0)),
        "module": lambda: am.expected_loss(
            case.build(), case.x, case.y, nn.CrossEntropyLoss(reduction="sum", label_smoothing=0.1), n_masks=40
        ),
        "callable": lambda: am.expected_loss(
            CASES[0].build(), CASES[0].x, y1, lambda z, y: (z - y).abs().flatten(1).sum(1), n_masks=64
        ),
        "keys": lambda: am.expected_loss(
            case.build(), case.x, case.y, case.loss, example_index=[4, 4, 2, 9, 0], n_masks=24
        ),
        "batches": lambda: am.expected_loss(case.build(), case.x, case.y, case.loss, batch_size=2, n_masks=33),
        "loader": lambda: am.expected_loss(
            case.build(),
            torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.x, case.y), batch_size=2),
            None,
            case.loss,
            n_masks=33,
        ),
        "no dropout": lambda: am.expected_loss(seeded(lambda: nn.Linear(3, 3)), case.x, case.y, case.loss),
        "not a model": lambda: am.expected_loss(lambda x: x, case.x, case.y, case.loss),
        "high rate": lambda: am.expected_loss(
            seeded(lambda: nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.99), nn.Linear(20, 3))),
            case.x, case.y, "cross_entropy", n_masks=64,
        ),
        "infinite": lambda: am.expected_loss(case.build(), case.x * np.inf, case.y, case.loss),
    }  # fmt: skip
    for name, run in more.items():
        yield f"expected_loss/more/{name}", lambda run=run: said(run())


PREDICTIONS: dict[str, dict[str, Any]] = {
    **{k: v for k, v in METHODS.items() if k not in ("control",)},
    "samples": {"keep_samples": True, "n_masks": 40},
    "consistent": {"consistent": True, "n_masks": 40},
    "batches": {"batch_size": 2, "n_masks": 33},
}


def predictions() -> Iterator[tuple[str, Callable[[], Any]]]:
    tasks = {
        "squared_error": "regression",
        "poisson": "regression",
        "logistic": "binary",
        "cross_entropy": "multiclass",
    }
    for case in CASES:
        for name, how in PREDICTIONS.items():
            task = tasks.get(case.loss, "regression")
            yield (
                f"predict/{case.name}/{name}",
                lambda case=case, how=how, task=task: said(am.predict(case.build(), case.x, task=task, **how)),
            )
        task = tasks.get(case.loss, "regression")
        yield (
            f"predict/{case.name}/likelihood",
            lambda case=case, task=task: said(
                am.predict(case.build(), case.x, task=task, y=case.y, noise_precision=2.0, n_masks=64)
            ),
        )
        yield f"predict/{case.name}/inferred", lambda case=case: said(am.predict(case.build(), case.x, n_masks=64))

    def deep() -> nn.Module:
        return seeded(
            lambda: nn.Sequential(
                nn.Linear(3, 64),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(64, 64),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(64, 3),
            )
        )

    x = CASES[3].x
    yield "predict/deep/nested", lambda: said(am.predict(deep(), x, task="multiclass", n_masks=48))
    yield "predict/deep/atol", lambda: said(am.predict(deep(), x, task="multiclass", atol=0.01))
    yield (
        "predict/deep/rate",
        lambda: said(
            am.predict(
                seeded(lambda: nn.Sequential(nn.Linear(3, 40), nn.Dropout(0.99), nn.Linear(40, 3))), x, n_masks=64
            )
        ),
    )


def architectures() -> Iterator[tuple[str, Callable[[], Any]]]:
    for one in ARCHITECTURES:
        if one.needs and one.name not in ("Bert, classes", "GPT2, eager", "T5", "ViT"):
            continue
        if "later" in one.kinds:
            continue

        def sites(one=one):
            model, args, kwargs = one()
            return [plain(s) for s in am.find_dropout(model, *args, batch_dim=one.batch_dim, **kwargs)]

        def forecast(one=one):
            model, args, kwargs = one()
            given = kwargs if kwargs else args if len(args) > 1 else args[0]
            return said(am.predict(model, given, batch_dim=one.batch_dim, n_masks=16))

        def loss(one=one):
            model, args, kwargs = one()
            given = kwargs if kwargs else args if len(args) > 1 else args[0]
            n = len(next(iter(kwargs.values()))) if kwargs else args[0].shape[one.batch_dim or 0]

            def size(output, target):
                while not isinstance(output, torch.Tensor):
                    output = getattr(output, "logits", None) if hasattr(output, "logits") else output[0]
                return output.movedim(one.batch_dim or 0, 0).double().flatten(1).pow(2).mean(1)

            return said(am.expected_loss(model, given, torch.zeros(n), size, batch_dim=one.batch_dim, n_masks=16))

        yield f"sites/{one.name}", sites
        yield f"predict/{one.name}", forecast
        yield f"expected_loss/{one.name}", loss


def text_of(page: Path) -> str:
    """What a report says, without its scripts, styles and pictures."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<(script|style|svg)\b.*?</\1>", "", text, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"data:[^\"')]+", "", text))


def diagnostics() -> Iterator[tuple[str, Callable[[], Any]]]:
    from allmasks import diagnose

    def page(case, lang):
        with tempfile.TemporaryDirectory() as folder:
            audit = am.audit(case.build(), (case.x, case.y), case.loss, n_masks=64, progress=False)
            return text_of(audit.to_html(Path(folder) / "a.html", lang=lang))

    for case in (CASES[1], CASES[3], CASES[5], CASES[10]):
        data = (case.x, case.y)
        sampled = {"method": M.MonteCarlo()}
        for name, how in {"none": {}, "mc": {"n_masks": 64} | sampled, "atol": {"atol": 0.05} | sampled}.items():
            yield (
                f"audit/{case.name}/{name}",
                lambda case=case, data=data, how=how: said(
                    am.audit(case.build(), data, case.loss, progress=False, **how)
                ),
            )
        for lang in ("en", "ko"):
            yield f"report/{case.name}/{lang}", partial(page, case, lang)
        for name in ("concentration", "co_adaptation", "robustness", "unit_penalty"):
            yield (
                f"{name}/{case.name}",
                lambda case=case, name=name: [
                    said(one) for one in getattr(diagnose, name)(case.build(), case.x, case.y, case.loss)
                ],
            )
        yield (
            f"effective_penalty/{case.name}",
            lambda case=case: plain(diagnose.effective_penalty(case.build(), (case.x, case.y), loss=case.loss)),
        )

    def curve():
        return said(am.rate_curve(lambda p, seed: (p - 0.3) ** 2 + 0.001 * (seed % 3), p=[0.1, 0.3, 0.5]))

    def comparison():
        def fit(seed, p=0.0, l2=0.0):
            return diagnose.Outcome(0.5 + (p - 0.2) ** 2 + l2 + 0.003 * (seed % 4), 0.4 + (p - 0.3) ** 2 + l2)

        return said(am.compare(fit, {"none": {}, "dropout": [{"p": 0.1}, {"p": 0.3}], "l2": [{"l2": 0.01}]}, seeds=6))

    def linear_curve():
        X, y = rows(30, 5)
        return said(diagnose.linear_rate_curve(X, y))

    yield "rate_curve", curve
    yield "compare", comparison
    yield "linear_rate_curve", linear_curve
    yield "thinned", lambda: plain(am.thinned(CASES[3].build(), CASES[3].x, seed=3, mask=2)(CASES[3].x))

    def monitor():
        case = CASES[3]
        watch = am.Monitor(case.build(), (case.x, case.y), case.loss, n_masks=64)
        watch.step()
        return plain([[epoch, reading.scalars()] for epoch, reading in watch.history])

    yield "monitor", monitor


def rows(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X @ rng.normal(size=d) + 0.3 * rng.normal(size=n)


def scores() -> Iterator[tuple[str, Callable[[], Any]]]:
    X, y = rows(6, 9)
    w = np.random.default_rng(1).normal(size=9)
    targets = {
        "squared_error": y,
        "logistic": (y > 0).astype(float),
        "poisson": np.abs(np.round(y)),
        "exponential": np.sign(y),
    }
    targets["callable"] = y
    rates = {"half": 0.5, "each": np.linspace(0, 0.8, 9), "high": 0.95}
    kinds = {k: v for k, v in METHODS.items() if k not in ("budget", "control", "seedless")}
    kinds["best"] = {"return_grad": True}
    for loss, target in targets.items():
        fn = (lambda s, t: np.logaddexp(0, s) - t * s) if loss == "callable" else loss
        for at, p in rates.items():
            for name, how in kinds.items():
                keywords = {k: v for k, v in how.items() if k not in ("atol", "budget", "rtol")}

                def run(fn=fn, target=target, p=p, keywords=keywords):
                    return said(am.expected_score_loss(w, X, target, p, loss=fn, intercept=0.1, **keywords))

                yield f"score_loss/{loss}/{at}/{name}", run
    sparse = scipy.sparse.random(6, 9, 0.4, format="csr", random_state=0)
    for loss in ("squared_error", "logistic", "poisson"):
        yield (
            f"score_loss/{loss}/csr",
            lambda loss=loss: said(am.expected_score_loss(w, sparse, targets[loss], 0.3, loss=loss, return_grad=True)),
        )
    for link in ("logistic", "identity"):
        for at, p in rates.items():
            for name, how in kinds.items():
                method = how.get("method")
                yield (
                    f"score/{link}/{at}/{name}",
                    lambda link=link, p=p, method=method: said(am.expected_score(w, X, p, link=link, method=method)),
                )


def fitted(model: Any, X: Any, y: Any) -> Any:
    model.fit(X, y)
    return {k: plain(v) for k, v in sorted(vars(model).items()) if k.endswith("_") and not k.startswith("_")}


def linear_models() -> Iterator[tuple[str, Callable[[], Any]]]:
    from allmasks import linear_model as L

    X, y = rows(60, 7)
    labels = {"two": (y > 0).astype(int), "three": np.digitize(y, [-1, 1])}
    counts = np.abs(np.round(y))
    sparse = scipy.sparse.random(60, 7, 0.5, format="csr", random_state=1)
    for name, data in {"dense": X, "csr": sparse}.items():
        for p in (0.0, 0.3, np.linspace(0, 0.9, 7)):
            at = "each" if isinstance(p, np.ndarray) else str(p)
            for alpha in (0.0, 0.1):
                key = f"{name}/{at}/{alpha}"
                yield f"ridge/{key}", lambda d=data, p=p, a=alpha: fitted(L.DropoutRidge(p=p, alpha=a), d, y)
                yield (
                    f"poisson/{key}",
                    lambda d=data, p=p, a=alpha: fitted(L.DropoutPoissonRegressor(p=p, alpha=a), d, counts),
                )
                for kind, label in labels.items():
                    yield (
                        f"logistic/{kind}/{key}",
                        lambda d=data, p=p, a=alpha, t=label: fitted(L.DropoutLogisticRegression(p=p, alpha=a), d, t),
                    )
        yield f"ridge_cv/{name}", lambda d=data: fitted(L.DropoutRidgeCV(), d, y)
        yield f"ridge_cv/folds/{name}", lambda d=data: fitted(L.DropoutRidgeCV(cv=3), d, y)
        for kind, label in labels.items():
            yield (
                f"logistic_cv/{kind}/{name}",
                lambda d=data, t=label: fitted(L.DropoutLogisticRegressionCV(cv=3), d, t),
            )
    yield "ridge/several", lambda: fitted(L.DropoutRidge(p=0.3), X, np.c_[y, counts])
    yield "ridge/wide", lambda: fitted(L.DropoutRidge(p=0.5), rows(10, 40)[0], rows(10, 40)[1])
    yield "ridge/refused", lambda: fitted(L.DropoutRidge(p=1.5), X, y)
    yield "deletion", lambda: said(L.deletion_curve(L.DropoutRidge(p=0.3).fit(X, y), X, y, seeds=2))


def commands() -> Iterator[tuple[str, Callable[[], Any]]]:
    from typer.testing import CliRunner

    from allmasks.cli import app

    def run(*arguments):
        result = CliRunner().invoke(app, list(arguments))
        return [result.exit_code, result.output]

    for topic in ("moments", "ridge", "montecarlo", "ensemble", "scaling"):
        yield f"explain/{topic}", partial(run, "explain", topic)


SOURCES = (scores, linear_models, losses, predictions, architectures, diagnostics, commands)


def machine() -> str:
    """What bits depend on: processor and versions."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
        return f"{model}, torch {torch.__version__}, numpy {np.__version__}"
    return f"{platform.processor()}, torch {torch.__version__}, numpy {np.__version__}"


def recorded(source: Callable[[], Iterator[tuple[str, Callable[[], Any]]]]) -> dict[str, Any]:
    """Every entry of one source; an error is recorded by its text."""
    found: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, run in source():
            assert name not in found, name
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found[name] = json.loads(json.dumps(run()))
                except Exception as e:
                    found[name] = f"{type(e).__name__}: {e}"
    finally:
        torch.set_num_threads(threads)
    return found


FORMULA = re.compile(r"(?<=feeds the last Linear: )\w+(?= over all its masks)")
"""A plan with Delta() or GaussianMoments() named the exact formula in their place."""


def differences(old: Any, new: Any, exact: bool, at: str = "") -> Iterator[str]:
    """Where two records differ. What is new in a dictionary is no difference."""
    if isinstance(old, str) and isinstance(new, str):
        old, new = (SHOWN.sub("value ± error", TIMES.sub("some time", text)) for text in (old, new))
        old, new = (FORMULA.sub("a formula", text) for text in (old, new))
        # Columns are as wide as what they hold, and lines break where they do.
        old, new = (re.sub(r"[\s─%]+", " ", text.replace("<wbr>", "")) for text in (old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        if set(old) == {"shape", "sha", "s"} and not exact:
            old, new = {"shape": old["shape"], "s": old["s"]}, {"shape": new.get("shape"), "s": new.get("s")}
        for key, value in old.items():
            if key == "seconds":
                continue
            if key not in new:
                yield f"{at}/{key} is gone"
            else:
                yield from differences(value, new[key], exact, f"{at}/{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, exact, f"{at}[{i}]")
    elif old != new:
        if not exact and isinstance(old, str) and isinstance(new, str):
            with contextlib.suppress(ValueError):
                if math.isclose(float.fromhex(old), float.fromhex(new), rel_tol=1e-12, abs_tol=1e-300):
                    return
        yield f"{at}: {str(old)[:160]!r} became {str(new)[:160]!r}"


if __name__ == "__main__":
    found: dict[str, Any] = {"machine": machine()}
    for source in SOURCES:
        found |= recorded(source)
        print(f"{source.__name__}: {len(found)}", file=sys.stderr, flush=True)
    with gzip.open(sys.argv[1], "wt") as file:
        json.dump(found, file, sort_keys=True)
