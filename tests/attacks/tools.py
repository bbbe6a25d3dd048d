"""Attack on what stands around an expectation: ways to give data, plans, thinned networks, unit penalties, audits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

import allmasks as am
from allmasks import diagnose, methods
from attacks import nets
from attacks.core import Fault, holds
from attacks.models import Case as ModelCase
from attacks.models import _given_back, losses
from attacks.scores_truth import LONG

TOOLS = ("data", "data", "batches", "plan", "thinned", "smaller", "smaller", "unit_penalty", "audit")
WAYS = ("pair", "loader", "shuffled", "subset", "uneven")
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Softplus, nn.Sigmoid, nn.LeakyReLU, nn.Identity)


@dataclass(frozen=True)
class Case:
    tool: str
    spec: nets.Spec
    loss: str
    way: str
    seed: int
    plain: bool = True

    @property
    def targets(self) -> Tensor:
        return ModelCase(self.spec, self.loss, None, None, False, self.seed).targets(self.spec.rows)


class Tools:
    name = "tools"

    def draw(self, rng: np.random.Generator) -> Case:
        spec = replace(nets.draw(rng, plain=True), rows=int(rng.integers(2, 6)))
        tool = str(rng.choice(TOOLS))
        if tool == "audit" and rng.random() < 0.7:
            tool = "data"
        loss = str(rng.choice(["squared_error", "logistic", "cross_entropy"]))
        if loss == "cross_entropy":
            spec = replace(spec, outputs=max(2, spec.outputs))
        if tool == "unit_penalty":  # the mean mask of alpha dropout is none of its masks
            steps = tuple(step for step in spec.steps if step[0] != "alpha")
            kinds = {kind for kind, rate in steps if rate} & {
                "element",
                "twice",
                "channel",
                "path",
                "recurrent",
                "attention",
            }
            spec, tool = replace(spec, steps=steps), tool if kinds else "plan"
        return Case(tool, spec, loss, str(rng.choice(WAYS)), int(rng.integers(2**31)), plain=tool != "smaller")

    def check(self, case: Case) -> list[Fault]:
        built = nets.build(case.spec)
        before, answer = nets.state(built.net), nets.output(built.net, built.x)
        check: Callable[[Case, nets.Built], list[Fault]] = getattr(self, f"_{case.tool}")
        faults = check(case, built)
        return faults + _given_back(built, before, nets.state(built.net), answer)

    def _data(self, case: Case, built: nets.Built) -> list[Fault]:
        """The same examples, however they are given."""
        x, y, n = built.x, case.targets, case.spec.rows
        rows = np.arange(n)
        if case.way == "pair":
            given: tuple[Any, ...] = ((x, y), case.loss)
        else:
            options: dict[str, Any] = {"batch_size": 2}
            if case.way == "shuffled":
                options["shuffle"] = True
            elif case.way == "subset":
                rows = np.random.default_rng(case.seed).permutation(n)[: max(1, n - 1)]
                options["sampler"] = SubsetRandomSampler(rows.tolist())
            elif case.way == "uneven":
                options["batch_size"] = 3
            loader: Any = DataLoader(TensorDataset(x, y), **options)
            given = (loader, None, case.loss)
        result = am.expected_loss(built.net, *given)
        masks, chance = built.masks()
        each, sizes = losses(case.loss, built.outputs(masks, LONG), y.numpy())
        own = chance @ losses(case.loss, built.outputs(masks, np.float64).astype(LONG), y.numpy())[0]
        truth = chance @ each
        slack = np.abs(own - truth) + 1e-18 * (chance @ sizes)
        label = f"data given as {case.way}"
        numbers = (float(result.value), float(result.error))
        if result.guarantee == "statistical":
            return []
        faults = holds(f"{label}: value", *numbers, result.guarantee, truth[rows].mean(), slack[rows].mean())
        if len(result.per_example) != len(rows):
            faults.append(Fault(f"{label}: other examples", f"{len(result.per_example)}, expected {len(rows)}"))
        return faults

    def _batches(self, case: Case, built: nets.Built) -> list[Fault]:
        """Masks are keyed: neither the size of batches nor the examples beside one change what it gets."""
        method = methods.MonteCarlo(n_masks=256)
        keywords = {"method": method, "seed": case.seed}
        with torch.no_grad():
            whole = am.expected_loss(built.net, built.x, case.targets, case.loss, **keywords)
            single = am.expected_loss(built.net, built.x, case.targets, case.loss, batch_size=1, **keywords)
            last = am.expected_loss(
                built.net, built.x[-1:], case.targets[-1:], case.loss, example_index=[case.spec.rows - 1], **keywords
            )
        faults = []
        for name, one, other in (("batch size", whole, single), ("one example alone", whole, last)):
            a, b = one.per_example[-len(other.per_example) :], other.per_example
            if not torch.allclose(a, b, rtol=1e-12, atol=1e-13):
                faults.append(Fault(f"masks depend on the {name}", f"{a.tolist()} and {b.tolist()}"))
        return faults

    def _plan(self, case: Case, built: nets.Built) -> list[Fault]:
        plan = am.plan_expected_loss(built.net, built.x, case.targets, case.loss)
        bits = sum(site.bits for site in built.sites)
        result = am.expected_loss(built.net, built.x, case.targets, case.loss)
        faults = []
        if plan.mask_bits != bits:
            faults.append(Fault("plan: other bits than there are", f"{plan.mask_bits}, there are {bits}"))
        if plan.method != result.method or plan.guarantee != result.guarantee:
            faults.append(Fault("plan: not what is done", f"{plan.method}, {result.method}"))
        return faults

    def _thinned(self, case: Case, built: nets.Built) -> list[Fault]:
        """A thinned network answers as the net does under one of its masks."""
        one = am.thinned(built.net, built.x, seed=case.seed, mask=case.seed % 97)
        with torch.no_grad():
            got = one(built.x.clone()).numpy()  # dropout in place overwrites what a network is called with
        masks, _ = built.masks()
        every = built.outputs(masks, np.float64)
        apart = np.abs(every - got).reshape(len(every), -1).max(axis=1).min()
        if not apart <= 1e-10 * (1 + np.abs(got).max()):
            return [Fault("thinned: the answer of none of the masks", f"{apart:.3g} from the nearest")]
        return []

    def _smaller(self, case: Case, built: nets.Built) -> list[Fault]:
        """The smaller network is the thinned one, whatever chain it came from, or refused."""
        chain, x = _chain(case.seed)
        one = am.thinned(chain, x, seed=case.seed)
        small = one.smaller()
        with torch.no_grad():
            apart = float((small(x) - one(x)).abs().max())
        if not apart <= 1e-10 * (1 + float(one(x).abs().max())):
            return [Fault("smaller: another network", f"by {apart:.3g}: {chain}")]
        return []

    def _unit_penalty(self, case: Case, built: nets.Built) -> list[Fault]:
        """Each unit's own mask, all others at their mean."""
        found = diagnose.unit_penalty(built.net, (built.x, case.targets), case.loss)
        y, faults = case.targets.numpy(), []
        mean = [[np.full((1, *s.shape), LONG(1) - LONG(s.p)) for s in part.sites] for part in built.parts]

        def loss(masks: Any) -> tuple[Any, Any]:
            each, sizes = losses(case.loss, built.outputs(masks, LONG), y)
            return each.mean(axis=1), sizes.mean(axis=1)

        base, size = loss(mean)
        truths = []
        for i, part in enumerate(built.parts):
            for k, site in enumerate(part.sites):
                values = []
                for unit in range(site.bits):
                    ends = []
                    for bit in (0, 1):
                        changed = mean[i][k].copy()
                        changed.reshape(-1)[unit] = bit
                        masks = [list(own) for own in mean]
                        masks[i][k] = changed
                        ends.append(loss(masks)[0][0])
                    values.append(LONG(site.p) * ends[0] + (1 - LONG(site.p)) * ends[1] - base[0])
                truths.append(np.array(values))
        for one in found:
            near = [t for t in truths if len(t) == len(one.penalty)]
            off = [float(np.abs(np.asarray(one.penalty) - t).max()) for t in near]
            if not near:
                faults.append(Fault("unit_penalty: units that are none", f"{one.site}"))
                continue
            truth = near[int(np.argmin(off))]
            faults += holds("unit_penalty", one.penalty, one.penalty_error, one.guarantee, truth, 1e-14 * size[0])
        return faults

    def _audit(self, case: Case, built: nets.Built) -> list[Fault]:
        result = am.audit(built.net, (built.x, case.targets), case.loss, progress=False)
        masks, chance = built.masks()
        each, sizes = losses(case.loss, built.outputs(masks, LONG), case.targets.numpy())
        truth, slack = (chance @ each).mean(), 1e-13 * (chance @ sizes).mean()
        json.dumps(result.to_dict())
        value = result.expected
        return holds("audit: expected loss", float(value.value), float(value.error), value.guarantee, truth, slack)

    def call(self, case: Case) -> str:
        return f"attacks.tools: {case.tool} ({case.way}), {case.loss}, seed {case.seed}, {case.spec!r}"

    def smaller(self, case: Case) -> Iterator[Case]:
        for spec in nets.smaller(case.spec):
            if case.loss != "cross_entropy" or spec.outputs > 1:
                yield replace(case, spec=spec)


def _chain(seed: int) -> tuple[nn.Sequential, Tensor]:
    """A chain of Linear, dropout, BatchNorm and activations in any order; some share layers or have hooks."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width, layers = 4, []
        shared = nn.ReLU()
        for _ in range(int(rng.integers(2, 4))):
            square = nn.Linear(width, width)
            layers.append(square)
            for kind in rng.permutation(["act", "drop", "norm"])[: int(rng.integers(1, 4))]:
                if kind == "drop":
                    layers.append(nn.Dropout(float(rng.choice([0.25, 0.5]))))
                elif kind == "norm":
                    layers.append(_used_norm(width))
                else:
                    layers.append(shared if rng.random() < 0.3 else ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]())
            if rng.random() < 0.15:
                layers.append(square)
        if rng.random() < 0.3:
            layers.insert(0, nn.Dropout(0.3))
        layers.append(nn.Linear(width, 2))
        chain = nn.Sequential(*layers).double()
        if rng.random() < 0.15:
            chain[0].register_forward_hook(lambda module, inputs, output: output * 2)
        x = torch.randn(5, width, dtype=torch.float64)
    return chain, x


def _used_norm(width: int) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(width)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(width) + 0.5)
    return norm
