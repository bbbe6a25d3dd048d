"""Attack on `expected_loss`, `find_dropout` and the promise that a model is only borrowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import allmasks as am
from allmasks import methods
from attacks import nets
from attacks.core import Fault, holds
from attacks.scores_truth import LONG

NAMED = ("squared_error", "logistic", "cross_entropy", "poisson")
MODULES = {
    "nn.MSELoss()": (nn.MSELoss, "real"),
    "nn.MSELoss(reduction='sum')": (lambda: nn.MSELoss(reduction="sum"), "real"),
    "nn.BCEWithLogitsLoss()": (nn.BCEWithLogitsLoss, "share"),
    "nn.BCEWithLogitsLoss(pos_weight=2)": (lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), "share"),
    "nn.CrossEntropyLoss(reduction='sum')": (lambda: nn.CrossEntropyLoss(reduction="sum"), "class"),
    "nn.CrossEntropyLoss(label_smoothing=.1)": (lambda: nn.CrossEntropyLoss(label_smoothing=0.1), "class"),
    "nn.PoissonNLLLoss()": (nn.PoissonNLLLoss, "count"),
    "nn.HuberLoss()": (nn.HuberLoss, "real"),
    "nn.SmoothL1Loss(beta=.5)": (lambda: nn.SmoothL1Loss(beta=0.5), "real"),
}
CALLABLE = "a callable"
_STEPS = 1e-3, 1e-4


@dataclass(frozen=True)
class Case:
    spec: nets.Spec
    loss: str
    method: Any
    sample_weight: tuple[float, ...] | None
    derivatives: bool
    seed: int
    plain: bool = False

    def targets(self, n: int) -> Tensor:
        g = torch.Generator().manual_seed(self.seed)
        shape = (n, self.spec.outputs)
        kind = MODULES[self.loss][1] if self.loss in MODULES else self.loss
        if kind in ("cross_entropy", "class"):
            return torch.randint(0, self.spec.outputs, (n,), generator=g)
        if kind in ("logistic", "share"):
            return torch.randint(0, 2, shape, generator=g).to(getattr(torch, self.spec.dtype))
        if kind in ("poisson", "count"):
            return torch.randint(0, 5, shape, generator=g).to(getattr(torch, self.spec.dtype))
        return torch.randn(shape, generator=g).to(getattr(torch, self.spec.dtype))

    @property
    def given_loss(self) -> Any:
        if self.loss in MODULES:
            return MODULES[self.loss][0]()
        if self.loss != CALLABLE:
            return self.loss
        if self.spec.returns == "tuple":
            return lambda output, y: ((output[0] - y) ** 2).sum(dim=1)
        return lambda output, y: ((output - y) ** 2).sum(dim=1)


def losses(name: str, z: Any, y: Any) -> tuple[Any, Any]:
    """(M, n) losses of outputs (M, n, k), and the sizes of what they are sums of, in the precision of z."""
    if name == "cross_entropy":
        top = z.max(axis=-1, keepdims=True)
        log = np.log(np.exp(z - top).sum(axis=-1)) + top[..., 0]
        own = np.take_along_axis(z, np.broadcast_to(y[None, :, None], (*z.shape[:2], 1)), axis=-1)[..., 0]
        return log - own, np.abs(z).max(axis=-1) + 1
    y = y.astype(z.dtype)
    if name in ("squared_error", CALLABLE):
        each, size = (z - y) ** 2, (np.abs(z) + np.abs(y)) ** 2
    elif name == "logistic":
        each = np.where(z > 0, (1 - y) * z, -y * z) + np.log1p(np.exp(-np.abs(z)))
        size = 1 + np.abs(z)
    else:
        each, size = np.exp(z) - y * z, np.exp(z) * (1 + np.abs(z)) + np.abs(y * z)
    return each.sum(axis=-1), size.sum(axis=-1)


class Models:
    name = "models"

    def draw(self, rng: np.random.Generator) -> Case:
        spec = nets.draw(rng)
        loss = str(rng.choice([*NAMED, *NAMED, CALLABLE, str(rng.choice(list(MODULES)))]))
        kind = MODULES[loss][1] if loss in MODULES else loss
        if kind in ("cross_entropy", "class"):
            spec = replace(spec, outputs=max(2, spec.outputs))
        if spec.returns == "tuple" and rng.random() < 0.5:
            loss = CALLABLE
        k = int(rng.choice([1, 2, 3, 10, 31, 64, 100, 255, 256]))
        sampler = rng.choice([am.samplers.Independent(), am.samplers.Antithetic(), am.samplers.LatinHypercube()])
        choices = [None, None, methods.Enumeration(), methods.MonteCarlo(n_masks=k, sampler=sampler)]
        method = choices[int(rng.integers(len(choices)))]
        weight = tuple(rng.integers(1, 4, spec.rows).tolist()) if rng.random() < 0.25 and loss not in MODULES else None
        careless = any(kind in nets.CARELESS for kind, _ in spec.steps)
        derivatives = rng.random() < 0.25 and spec.dtype == "float64" and not careless and loss in NAMED
        plain = method is None and loss in NAMED and not careless and loss != "poisson" and spec.scale <= 3
        return Case(spec, loss, method, weight, derivatives, int(rng.integers(2**31)), plain)

    def check(self, case: Case) -> list[Fault]:
        built = nets.build(case.spec)
        y = case.targets(len(built.x))
        before, answer = nets.state(built.net), nets.output(built.net, built.x)
        weight = None if case.sample_weight is None else torch.tensor(case.sample_weight, dtype=torch.float64)
        keywords = {"method": case.method, "seed": case.seed, "sample_weight": weight}
        faults = []
        try:
            if case.seed % 3 == 0:
                faults += _sites(built, am.find_dropout(built.net, built.x))
            result = am.expected_loss(built.net, built.x, y, case.given_loss, **keywords)
        finally:
            after = nets.state(built.net)
        faults += _given_back(built, before, after, answer)
        # The twin reads the weights: they must be those that were.
        nets.put_back(built.net, before)
        faults += self._held(case, built, y, result, answer)
        if case.derivatives and not faults and result.guarantee in ("exact", "bounded"):
            faults += self._derivatives(case, built, y, result)
        return faults

    def _held(self, case: Case, built: nets.Built, y: Tensor, result: Any, answer: Tensor) -> list[Fault]:
        label = f"{'module' if case.loss in MODULES else case.loss} {type(result.method).__name__}"
        masks, chance = built.masks()
        if case.loss in MODULES:
            return self._module(case, built, y, result, label)
        target, name, n = y.numpy(), case.loss, len(built.x)
        share = np.ones(n) if case.sample_weight is None else np.array(case.sample_weight)
        share = np.asarray(share, LONG) / share.sum()
        with np.errstate(all="ignore"):
            outputs = built.outputs(masks, LONG)
            each, sizes = losses(name, outputs, target)
            truth = chance @ each
            # "Exact" takes the model's own arithmetic as given: its dtype's answer may lie beside the true one.
            own = built.outputs(masks, np.dtype(case.spec.dtype)).astype(LONG)
            apart = chance @ np.abs(losses(name, own, target)[0] - each)
        if not np.isfinite(truth).all():
            return []
        faults = _kept(case, result, label)
        value, error = result.per_example.detach().numpy(), result.per_example_error.detach().numpy()
        slack = apart + 1e-18 * (chance @ sizes)
        faults += holds(f"{label} per_example", value, error, result.guarantee, truth, slack)
        mean = (share * truth).sum()
        numbers = (float(result.value), float(result.error))
        faults += holds(f"{label} value", *numbers, result.guarantee, mean, (share * slack).sum())
        faults += self._penalty(case, answer, result, label, mean, (share * slack).sum(), share)
        if isinstance(result.method, methods.MonteCarlo) and result.guarantee == "statistical":
            faults += _sampled(result, label, float(mean))
        return faults

    def _penalty(
        self, case: Case, answer: Tensor, result: Any, label: str, mean: Any, slack: Any, share: Any
    ) -> list[Fault]:
        """penalty and weight_scaling_loss, against the net in eval mode."""
        z = answer.numpy()[None]
        with np.errstate(all="ignore"):
            each, sizes = losses(case.loss, z.astype(LONG), case.targets(len(answer)).numpy())
        base = (share * each[0]).sum()
        tight = 1e-13 if case.spec.dtype == "float64" else 1e-5
        near = tight * (share * sizes[0]).sum()
        faults = holds(f"{label} weight_scaling_loss", float(result.weight_scaling_loss), near, "exact", base)
        numbers = (float(result.penalty), float(result.penalty_error))
        return faults + holds(f"{label} penalty", *numbers, result.guarantee, mean - base, slack + near)

    def _module(self, case: Case, built: nets.Built, y: Tensor, result: Any, label: str) -> list[Fault]:
        """A torch loss module: what torch prints for the whole data set, averaged over masks that examples share."""
        masks, chance = built.masks()
        module = case.given_loss.double()
        outputs = torch.from_numpy(built.outputs(masks, np.float64))
        own = torch.from_numpy(built.outputs(masks, np.dtype(case.spec.dtype)).astype(np.float64))
        target = y if y.dtype == torch.int64 else y.double()
        each, near = (np.array([float(module(z, target)) for z in part]) for part in (outputs, own))
        truth = chance @ each
        if not np.isfinite(truth):
            return []
        slack = abs(chance @ near - truth) + 1e-14 * (chance @ np.abs(each)) + 1e-15
        numbers = (float(result.value), float(result.error))
        return holds(f"{case.loss} value", *numbers, result.guarantee, truth, slack) + _kept(case, result, label)

    def _derivatives(self, case: Case, built: nets.Built, y: Tensor, result: Any) -> list[Fault]:
        """Gradient and curvature of `value` along a random direction, against differences of the truth."""
        parameters = list(built.net.parameters())
        # In place, over what the layer before needs in its backward: torch itself refuses that.
        if not parameters or any(getattr(module, "inplace", False) for module in built.net.modules()):
            return []
        g = torch.Generator().manual_seed(case.seed + 1)
        direction = [torch.randn(v.shape, generator=g, dtype=v.dtype) * v.detach().abs().mean() for v in parameters]
        twin = nets.build(case.spec)  # its weights may move: those of the result must stay what they were
        start = [v.detach().clone() for v in parameters]
        share = np.ones(len(built.x)) if case.sample_weight is None else np.array(case.sample_weight)
        share = np.asarray(share, LONG) / share.sum()
        masks, chance = built.masks()

        def along(t: float) -> Any:
            with torch.no_grad():
                for v, at, way in zip(twin.net.parameters(), start, direction, strict=True):
                    v.copy_(at + t * way)
            return (share * (chance @ losses(case.loss, twin.outputs(masks, LONG), y.numpy())[0])).sum()

        label = f"{case.loss} {type(result.method).__name__}"
        grads = torch.autograd.grad(result.value, parameters, create_graph=True, allow_unused=True)
        slope = _along(grads, direction)
        faults: list[Fault] = []
        for step in _STEPS:  # a kink or a bend may lie within the first, and stay unseen by the doubt about it
            values = {k: along(k * step / 2) for k in (-4, -2, -1, 0, 1, 2, 4)}
            faults = self._bends(label, values, step, slope, parameters, direction)
            if not faults:
                break
        return faults

    def _bends(
        self,
        label: str,
        values: dict[int, Any],
        step: float,
        slope: Tensor,
        parameters: list[torch.nn.Parameter],
        direction: list[Tensor],
    ) -> list[Fault]:
        """Slope and curvature along the direction, against differences of these values."""
        first, second = _stencils(values, step)
        faults = _near(f"{label} gradient", float(slope), *first, float(abs(values[0])))
        if faults:
            return faults
        if not slope.requires_grad:
            if abs(second[0]) < 1e-6 * (1 + abs(values[0])):
                return []
            return [
                Fault("second derivatives vanish silently", f"the gradient has no graph; curvature {second[0]:.3g}")
            ]
        try:
            bend = _along(torch.autograd.grad(slope, parameters, allow_unused=True, retain_graph=True), direction)
        except (RuntimeError, NotImplementedError) as error:  # there, or refused in words
            said = "second derivative" in str(error) or "derivative for aten::" in str(error)  # by us, or by torch
            return [] if said else [Fault("second derivatives: obscure", str(error)[:300])]
        return _near(f"{label} second derivative", float(bend), *second, float(abs(values[0]) + abs(slope.detach())))

    def call(self, case: Case) -> str:
        weight = "" if case.sample_weight is None else f", sample_weight={case.sample_weight}"
        method = "" if case.method is None else f", method={case.method!r}"
        net = " > ".join(f"{kind}({value:g})" for kind, value in case.spec.steps)
        return (
            f"expected_loss(nets.build({case.spec!r}).net, …, {case.loss!r}{method}, seed={case.seed}{weight})\n"
            f"    # {case.spec.shape} > {net} -> {case.spec.outputs}"
        )

    def smaller(self, case: Case) -> Iterator[Case]:
        for spec in nets.smaller(case.spec):
            weight = None if case.sample_weight is None else case.sample_weight[: spec.rows]
            yield replace(case, spec=spec, sample_weight=weight)
        if case.sample_weight is not None:
            yield replace(case, sample_weight=None)
        if case.derivatives:
            yield replace(case, derivatives=False)


def _along(grads: Any, direction: list[Tensor]) -> Tensor:
    dots = [(v * way).sum() for v, way in zip(grads, direction, strict=True) if v is not None]
    return sum(dots, torch.zeros((), dtype=torch.float64))


def _stencils(values: dict[int, Any], step: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """First and second derivative from values at multiples of half a step, and how far off each may be."""
    found = []
    for one, two, h in ((2, 4, step), (1, 2, step / 2)):
        first = (8 * (values[one] - values[-one]) - (values[two] - values[-two])) / (12 * LONG(h))
        second = (16 * (values[one] + values[-one]) - values[two] - values[-two] - 30 * values[0]) / (12 * LONG(h) ** 2)
        found.append((float(first), float(second)))
    (coarse, bent), (fine, curved) = found
    # Fourth order: the finer one is off by a fifteenth of their difference, kinks aside.
    return (fine, abs(fine - coarse)), (curved, abs(curved - bent))


def _near(what: str, got: float, truth: float, doubt: float, size: float) -> list[Fault]:
    if not doubt <= 1e-4 * (abs(truth) + size):  # a kink nearby, or too steep for differences
        return []
    allowed = 3 * doubt + 1e-8 * (abs(truth) + size) + 1e-9
    if not abs(got - truth) <= allowed:
        return [Fault(what, f"{got!r}, by differences {truth!r} ± {doubt:.2g}")]
    return []


def _sites(built: nets.Built, found: list[Any]) -> list[Fault]:
    wanted = sorted((round(site.p, 9), site.bits) for site in built.sites if site.bits)
    got = sorted((round(site.p, 9), site.units) for site in found if site.p > 0)
    if wanted != got:
        return [Fault("find_dropout: other sites than there are", f"{got}, there are {wanted} (rate, bits)")]
    return []


def _given_back(built: nets.Built, before: Any, after: Any, answer: Tensor) -> list[Fault]:
    faults = [Fault(f"{what} not given back", "") for what in nets.changed(before, after)]
    for module in built.net.modules():
        kept = getattr(module, "kept", None)
        if isinstance(kept, Tensor):
            try:
                _ = kept + 1, kept.tolist()
            except Exception as error:
                faults.append(Fault("a tensor that forward keeps is dead", f"{type(error).__name__}: {error}"[:200]))
                module.kept = None
    now = nets.output(built.net, built.x)
    if not torch.equal(now, answer):
        faults.append(Fault("the model answers otherwise afterwards", f"by {float((now - answer).abs().max()):.3g}"))
    return faults


def _kept(case: Case, result: Any, label: str) -> list[Fault]:
    if isinstance(case.method, methods.MonteCarlo) and isinstance(result.method, methods.MonteCarlo):
        asked = case.method.n_masks
        if result.n_masks != asked and result.guarantee == "statistical":
            return [Fault("K is not honoured", f"asked for {asked} masks, drew {result.n_masks}")]
    return []


def _sampled(result: Any, label: str, truth: float) -> list[Fault]:
    value, error, k = float(result.value), float(result.error), result.n_masks
    if k == 1 and not np.isnan(error) and abs(value - truth) > error:  # unless no mask matters
        return [Fault("an error from one mask", f"{value} ± {error}, truth {truth}")]
    reliable = getattr(result, "reliable", None)
    if np.isnan(error) or (reliable is not None and not bool(np.all(reliable))):
        return []
    tiny = 1e-9 * (abs(truth) + 1) if result.value.dtype == torch.float64 else 1e-4 * (abs(truth) + 1)
    if error == 0 and abs(value - truth) > tiny:
        return [Fault(f"{label}: error 0 and wrong", f"{value} ± 0 after {k} masks, truth {truth}")]
    return []
