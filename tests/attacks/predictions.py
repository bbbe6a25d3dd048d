"""Attack on `predict`: mean, spread, entropies and likelihood over every mask, in extended precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allmasks as am
from allmasks import methods
from attacks import nets
from attacks.blocks import sigmoid
from attacks.core import Fault, holds
from attacks.models import _given_back
from attacks.scores_truth import LONG

TASKS = ("regression", "binary", "multiclass")


@dataclass(frozen=True)
class Case:
    spec: nets.Spec
    task: str
    method: Any
    likelihood: bool
    precision: float | None
    seed: int
    plain: bool = False

    def targets(self) -> Tensor:
        g = torch.Generator().manual_seed(self.seed)
        if self.task == "multiclass":
            return torch.randint(0, self.spec.outputs, (self.spec.rows,), generator=g)
        if self.task == "binary":
            return torch.randint(0, 2, (self.spec.rows, self.spec.outputs), generator=g).to(torch.float64)
        return torch.randn((self.spec.rows, self.spec.outputs), generator=g, dtype=torch.float64)


def plogp(p: Any) -> Any:
    return np.where(p > 0, -p * np.log(np.where(p > 0, p, 1)), 0)


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def quantities(case: Case, z: Any, chance: Any) -> dict[str, Any]:
    """Every quantity of a `Prediction` from outputs (M, n, k) in extended precision and the masks' probabilities."""
    weight = chance[:, None, None]
    if case.task == "regression":
        v = z
    elif case.task == "binary":
        v, other = sigmoid(z), sigmoid(-z)
    else:
        v = softmax(z)
    mean = (weight * v).sum(axis=0)
    found = {"mean": mean, "std": np.sqrt((weight * (v - mean) ** 2).sum(axis=0))}
    if case.task == "binary":
        rest = (weight * other).sum(axis=0)
        found["entropy"] = plogp(mean) + plogp(rest)
        found["expected_entropy"] = (weight * (plogp(v) + plogp(other))).sum(axis=0)
    elif case.task == "multiclass":
        found["entropy"] = plogp(mean).sum(axis=-1)
        found["expected_entropy"] = (weight[..., 0] * plogp(v).sum(axis=-1)).sum(axis=0)
    if case.task != "regression":
        found["mutual_information"] = found["entropy"] - found["expected_entropy"]
    if case.likelihood:
        y = case.targets().numpy()
        if case.task == "multiclass":
            top = z.max(axis=-1, keepdims=True)
            log = z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
            logs = np.take_along_axis(log, np.broadcast_to(y[None, :, None], (*z.shape[:2], 1)), axis=-1)[..., 0]
        elif case.task == "binary":
            logs = (-np.log1p(np.exp(-np.abs(z))) - np.maximum(np.where(y == 1, -z, z), 0)).sum(axis=-1)
        else:
            tau = LONG(case.precision)
            logs = (np.log(tau / (2 * LONG(np.pi))) / 2 - tau / 2 * (z - y) ** 2).sum(axis=-1)
        top = logs.max(axis=0)
        found["log_likelihood"] = np.log((chance[:, None] * np.exp(logs - top)).sum(axis=0)) + top
    return found


class Predictions:
    name = "predictions"

    def draw(self, rng: np.random.Generator) -> Case:
        spec = replace(nets.draw(rng), returns="tensor")
        task = str(rng.choice(TASKS))
        if task == "multiclass":
            spec = replace(spec, outputs=max(2, spec.outputs))
        likelihood = bool(rng.random() < 0.4)
        if task == "binary" and likelihood:
            spec = replace(spec, outputs=1)
        precision = float(10.0 ** rng.uniform(-2, 3)) if task == "regression" and likelihood else None
        k = int(rng.choice([1, 2, 3, 10, 31, 64, 100, 255, 256]))
        sampler = rng.choice([am.samplers.Independent(), am.samplers.Antithetic(), am.samplers.LatinHypercube()])
        choices = [None, None, methods.Enumeration(), methods.MonteCarlo(n_masks=k, sampler=sampler)]
        method = choices[int(rng.integers(len(choices)))]
        careless = any(kind in nets.CARELESS for kind, _ in spec.steps)
        plain = method is None and not careless and spec.scale <= 3
        return Case(spec, task, method, likelihood, precision, int(rng.integers(2**31)), plain)

    def check(self, case: Case) -> list[Fault]:
        built = nets.build(case.spec)
        before, answer = nets.state(built.net), nets.output(built.net, built.x)
        y = case.targets() if case.likelihood else None
        try:
            result = am.predict(
                built.net,
                built.x,
                task=case.task,
                method=case.method,
                seed=case.seed,
                y=y,
                noise_precision=case.precision,
            )
        finally:
            after = nets.state(built.net)
        faults = _given_back(built, before, after, answer)
        nets.put_back(built.net, before)
        masks, chance = built.masks()
        with np.errstate(all="ignore"):
            truth = quantities(case, built.outputs(masks, LONG), chance)
            own = quantities(case, built.outputs(masks, np.dtype(case.spec.dtype)).astype(LONG), chance)
        # Rounding of the softmax itself is the library's; of the net, the model's own.
        for name, value in truth.items():
            if np.isnan(value).any():
                continue
            got, error = getattr(result, name), getattr(result, f"{name}_error")
            if got is None or tuple(got.shape) != value.shape:
                shape = None if got is None else tuple(got.shape)
                faults.append(Fault(f"{name}: missing, or another shape", f"{shape}, expected {value.shape}"))
                continue
            with np.errstate(all="ignore"):
                # One way to round tells what another may do, not exactly what.
                slack = (3 if case.spec.dtype == "float32" else 1) * np.abs(own[name] - value) + 1e-18 * (
                    1 + np.abs(value)
                )
            label = f"{case.task} {name} {type(result.method).__name__}"
            faults += holds(label, got.numpy(), error.numpy(), result.guarantee, value, slack)
        if isinstance(case.method, methods.MonteCarlo) and result.guarantee == "statistical":
            asked = case.method.n_masks
            if result.n_masks != asked:
                faults.append(Fault("K is not honoured", f"asked for {asked} masks, drew {result.n_masks}"))
        return faults

    def call(self, case: Case) -> str:
        net = " > ".join(f"{kind}({value:g})" for kind, value in case.spec.steps)
        rest = f"task={case.task!r}, seed={case.seed}"
        rest += "" if case.method is None else f", method={case.method!r}"
        rest += f", y=…, noise_precision={case.precision}" if case.likelihood else ""
        return (
            f"predict(nets.build({case.spec!r}).net, …, {rest})\n    # {case.spec.shape} > {net} -> {case.spec.outputs}"
        )

    def smaller(self, case: Case) -> Iterator[Case]:
        for spec in nets.smaller(case.spec):
            if case.task != "multiclass" or spec.outputs > 1:
                yield replace(case, spec=spec)
        if case.likelihood:
            yield replace(case, likelihood=False, precision=None)
