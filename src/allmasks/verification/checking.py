"""Going through with it: passes of the step, draws of the law, and their comparison."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from allmasks.errors import UncontrolledRandomness
from allmasks.expect import Expectation, prepare
from allmasks.expect.loss import ModelLoss
from allmasks.over_masks.data import Batch
from allmasks.over_masks.output import extract_output
from allmasks.over_masks.sources import no_masks
from allmasks.ranks.groups import ALONE, Group
from allmasks.results import Note
from allmasks.sites import DropoutSite, find_dropout
from allmasks.sites.naming import path_of
from allmasks.verification.across_ranks import averaged_over_ranks, rank_trials
from allmasks.verification.detectable import Slope, bits_needed, spread_factor
from allmasks.verification.diagnosis import Evidence
from allmasks.verification.effort import GUESSED_TESTS, Effort, planned, work_of
from allmasks.verification.law_trials import LawTrials, eval_trials, law_trials
from allmasks.verification.lawful import Law, Lawful, directions_of
from allmasks.verification.mask_trials import SiteMasks, across_sites, mask_trials
from allmasks.verification.matching import again_in_backward, called_twice, never_ran, site_masks
from allmasks.verification.meant import Meant, against_meant
from allmasks.verification.steps import Passes, Step, give_back
from allmasks.verification.witness import Seen, witnessed

__all__ = ["Asked", "Run", "check"]

_WITNESSED = 8
_BITS = 1 << 24


@dataclass(frozen=True)
class Asked:
    """What a call of `verify` asks for, settled."""

    model: nn.Module
    x: Any
    y: Any
    loss: ModelLoss
    step: Callable[[], Any] | None
    meant: Mapping[str, Meant] | None
    passes: int | None
    level: float
    seed: int
    leave_off: str | Sequence[str] = ()
    ranks: Group = ALONE
    same_masks: tuple[str, ...] = ()
    tick: Callable[[int], None] = lambda done: None

    @property
    def alone(self) -> bool:
        """Whether this process is the only one: then its generators may be seeded."""
        return self.ranks.size == 1


@dataclass
class Run:
    """What a run came to."""

    evidence: Evidence
    sites: tuple[DropoutSite, ...]
    found: list[SiteMasks]
    passes: Passes
    witnessed: int
    slopes: dict[str, Slope]
    eval_loss: float
    n_examples: int
    notes: list[Note] = field(default_factory=list)


class _Trained:
    """The model as it is, in the place of a pass under masks."""

    def __init__(self, model: nn.Module, extract: Callable[[Any], Any]) -> None:
        self.model, self.extract = model, extract
        self.sites: tuple[DropoutSite, ...] = ()

    def __call__(self, batch: Batch, chunk: Any) -> Iterator[tuple[slice, Any]]:
        args, kwargs = tree_map_only(Tensor, torch.clone, (batch.args, batch.kwargs))
        output = self.extract(self.model(*args, **kwargs))
        yield slice(0, 1), tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, output)


def _own_step(asked: Asked, problem: Expectation | None) -> Callable[[], Tensor]:
    """The model's loss on the batch, in whichever mode it is."""
    if problem is None:
        return lambda: _bare_loss(asked)
    evaluate = replace(problem.plain((), proven=False), forward=_Trained(asked.model, problem.look.extract))  # type: ignore[arg-type]

    def call() -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=problem.weight.device)
        for batch in problem.look.data:
            rows = slice(batch.start, batch.start + len(batch))
            (losses,) = evaluate(batch, no_masks(batch.examples), with_error=False)
            total = total + (problem.weight[rows] * losses.loss[0]).sum()
        return total

    return call


def _bare_loss(asked: Asked) -> Tensor:
    """The mean loss without a look at the model, which could not be had."""
    x = tree_map_only(Tensor, torch.clone, asked.x)
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple | list) else (x,), {})
    output = asked.model(*args, **kwargs)
    if not asked.loss.whole_output:
        output = extract_output(output)
    target = asked.y if asked.loss.whole_output else asked.loss.check(output, asked.y)
    return asked.loss.per_example(output, target).mean()


def _prepared(asked: Asked, autocast: tuple[str, torch.dtype] | None, notes: list[Note]) -> Expectation | None:
    under = nullcontext() if autocast is None else torch.autocast(autocast[0], dtype=autocast[1])
    try:
        with under:
            problem = prepare(asked.model, asked.x, asked.y, asked.loss, leave_off=asked.leave_off)
            problem.look.refuse_stuck(problem.look.random_sites)
        return problem
    except UncontrolledRandomness as refused:
        notes.append(
            Note(
                "The tests against E_m[L] were left out, since it cannot be had of this model: {why}",
                why=str(refused),
            )
        )
        return None


def _look_at_sites(asked: Asked, problem: Expectation | None) -> tuple[DropoutSite, ...]:
    if problem is not None:
        return problem.look.sites
    x = asked.x
    args, kwargs = ((), x) if isinstance(x, dict) else (x if isinstance(x, tuple | list) else (x,), {})
    try:
        return tuple(find_dropout(asked.model, *args, leave_off=asked.leave_off, **kwargs))
    except ValueError:
        return ()


def check(asked: Asked, modules: list[nn.Module]) -> Run:
    """All passes and tests; to be called where everything is kept."""
    notes: list[Note] = []
    own = asked.step is not None
    step = Step(asked.model, asked.step or (lambda: _bare_loss(asked)), own, modules)
    if asked.alone:
        _seed(asked.seed)
    try:
        return _checked(asked, step, modules, notes)
    finally:
        for generator, state in step.generators.values():
            generator.set_state(state)


@dataclass(frozen=True)
class _Begun:
    """What is known after the first pass."""

    first: Seen
    problem: Expectation | None
    sites: tuple[DropoutSite, ...]
    law: Law | None
    buffers: list[tuple[Tensor, Tensor]]
    """What E_m[L] and the loss of eval mode were computed with."""

    @property
    def random_sites(self) -> tuple[DropoutSite, ...]:
        return tuple(site for site in self.sites if site.p != 0)


def _checked(asked: Asked, step: Step, modules: list[nn.Module], notes: list[Note]) -> Run:
    # Ranks speak to each other between two pieces of work, never within: one that raises leaves no other waiting.
    ranks = asked.ranks
    begun = ranks.run(lambda: _begin(asked, step, notes))
    problem, law, random_sites = begun.problem, begun.law, begun.random_sites
    plan = ranks.of_first(ranks.run(lambda: _planned(asked, step, begun)))
    notes += plan.notes
    parameters = list(step.parameters) if law is not None and problem is not None and problem.look.leaves() else []

    def directed() -> list[list[Tensor | None]]:
        if law is None or not (random_sites and parameters and begun.first.backward and step.has_gradient):
            return []
        at_mean = _at_mean(step, asked, problem)
        return directions_of(law, parameters, asked.seed, at_mean, plan.directions_from)

    directions = ranks.of_first(ranks.run(directed))
    times = ranks.of_first(_times(asked, begun.first, random_sites, plan.passes))
    gradients = plan.gradients if directions else 0

    def made() -> tuple[list[Seen], Passes, list[float], Lawful | None]:
        # From here on nothing of the core runs between two passes: whatever the step keeps from one to the next stays.
        if asked.alone:
            _seed(asked.seed)
        seen = _look_inside(asked, step, begun.first, random_sites, times)
        passes = step.run(plan.passes, gradients, directions, asked.tick)
        give_back(begun.buffers)  # statistics that moved from pass to pass are not those of eval mode's reference
        losses, modes_kept = step.in_eval(3)
        if not modes_kept:
            losses, _ = Step(asked.model, _own_step(asked, problem), False, modules).in_eval(3)
        lawful = None
        if law is not None and random_sites:
            blocks = gradients // plan.each if directions and passes.along else 0
            lawful = law.draws(plan.draws, blocks, plan.each, directions, parameters)
        elif law is not None:
            lawful = _constant(problem, len(passes.losses))
        return seen, passes, losses, lawful

    seen, passes, losses, lawful = ranks.run(made)
    if lawful is not None and random_sites:
        lawful = replace(lawful, along=averaged_over_ranks(ranks, passes.along, lawful.along))
    return _compared(asked, problem, law, lawful, begun.sites, seen, passes, losses, plan, step, notes)


def _begin(asked: Asked, step: Step, notes: list[Note]) -> _Begun:
    step.in_train_mode()
    running = [
        (buffer, buffer.clone())
        for module in step.modules
        if isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in module.buffers(recurse=False)
    ]
    first = _witness(step, frozenset(), True)
    step.look_for_traces()
    give_back(running)
    buffers = step.buffers()
    problem = _prepared(asked, first.autocast, notes)
    sites = _look_at_sites(asked, problem)
    if not step.own:
        step.call = _own_step(asked, problem)
    statistics = sorted(set(first.trained))
    if statistics:
        notes.append(
            Note(
                "{where} normalizes by statistics of the batch, so that the step's mean loss differs from E_m[L] "
                "for a right "
                "reason: the tests against E_m[L] were left out. If dropout comes before it, its statistics at "
                "training time "
                "are not those of eval mode.",
                where=", ".join(statistics[:3]),
            )
        )
    left_off = problem is not None and bool(problem.look.leave_off)
    if left_off:
        notes.append(
            Note(
                "What leave_off names is random in the step and not averaged over in E_m[L]: the tests against E_m[L] "
                "were left out."
            )
        )
    apart = bool(statistics) or left_off
    law = Law(problem, asked.seed, first.autocast) if problem is not None and not apart else None
    return _Begun(first, problem, sites, law, buffers)


def _planned(asked: Asked, step: Step, begun: _Begun) -> Effort:
    law = begun.law
    met = {mask.name for mask in begun.first.masks if mask.bits is not None}
    work = 0
    if law is not None and begun.random_sites:
        step.in_eval_mode()
        work = work_of(_own_step(asked, begun.problem))
    return planned(law, begun.random_sites, asked.passes, asked.level, work, met)


def _constant(problem: Expectation | None, n: int) -> Lawful:
    assert problem is not None
    value = float((problem.weight * problem.weight_scaling).sum())
    return Lawful(np.full(n, value), np.zeros(0), value, 0.0, 0.0)


def _seed(seed: int) -> None:
    torch.manual_seed(seed % 2**63)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the generator that models draw from
    random.seed(seed)


def _at_mean(step: Step, asked: Asked, problem: Expectation | None) -> list[Tensor | None] | None:
    """The gradient in eval mode."""
    step.in_eval_mode()
    with torch.enable_grad():
        loss = _own_step(asked, problem)()
    if not loss.requires_grad:
        return None
    return list(torch.autograd.grad(loss, step.parameters, allow_unused=True))


def _witness(step: Step, owners: frozenset[str], back: bool) -> Seen:
    with witnessed(step.model, owners) as seen:
        loss = step.loss()
        reaches = loss.requires_grad
        if back:
            seen.backward = True
            step.back(loss)
            seen.backward = reaches
    for generator, state in seen.generators.values():
        if generator is not torch.default_generator:
            step.generators.setdefault(id(generator), (generator, state))
    return seen


def _times(asked: Asked, first: Seen, sites: tuple[DropoutSite, ...], passes: int) -> int:
    """So many witnessed passes that every rate can be told to what is wanted, within bounds of time and memory."""
    sizes = [mask.bits.size for mask in first.masks if mask.bits is not None]
    factor = spread_factor(asked.level, GUESSED_TESTS)
    n = _n_examples(asked)
    rates = {path_of(site.name): site.p for site in sites} | {site.name: site.p for site in sites}
    needs = []
    for mask in first.masks:
        p = rates.get(mask.name, rates.get(mask.path, mask.p))
        if mask.bits is not None and 0 < p < 1:
            needs.append(math.ceil(bits_needed(p, factor) / max(mask.bits.size, 1)))
    wanted = max([_WITNESSED, *needs]) if n else _WITNESSED
    return max(2, min(wanted, passes, max(4, _BITS // max(sum(sizes), 1))))


def _look_inside(asked: Asked, step: Step, first: Seen, sites: tuple[DropoutSite, ...], times: int) -> list[Seen]:
    owners = frozenset(path_of(site.name) for site in sites) | {mask.path for mask in first.masks}
    seen = []
    for _ in range(times):
        step.in_train_mode()
        seen.append(_witness(step, owners, True))
        asked.tick(1)
    return seen


def _n_examples(asked: Asked) -> int:
    leaves = [t for t in torch.utils._pytree.tree_leaves(asked.x) if isinstance(t, Tensor) and t.ndim]
    return int(leaves[0].shape[0]) if leaves else 0


def _compared(
    asked: Asked,
    problem: Expectation | None,
    law: Law | None,
    lawful: Lawful | None,
    sites: tuple[DropoutSite, ...],
    seen: list[Seen],
    passes: Passes,
    eval_losses: list[float],
    plan: Effort,
    step: Step,
    notes: list[Note],
) -> Run:
    n = problem.look.n_examples if problem is not None else _n_examples(asked)
    found, unmet = site_masks(sites, seen, n)
    inside = again_in_backward(seen)
    inside += [trial for one in found for trial in mask_trials(one)]
    inside += across_sites(found)
    inside += rank_trials(asked.ranks, found, passes.losses, asked.same_masks)
    inside += called_twice(sites, found, seen)
    at_mean = None if problem is None else float((problem.weight * problem.weight_scaling).sum())
    reference = at_mean if at_mean is not None else eval_losses[0]
    tolerance = _tolerance(asked.model, seen[0].autocast, reference)
    resolution = tolerance / 8
    if at_mean is not None and abs(eval_losses[0] - at_mean) <= tolerance:
        resolution = max(resolution / 8, 2 * abs(eval_losses[0] - at_mean))
    evaluation = eval_trials(eval_losses, at_mean, tolerance, ", ".join(_on_in_eval(sites)) or "step")
    told: LawTrials = law_trials(passes, lawful, resolution, plan.each)
    against = [] if asked.meant is None else against_meant(asked.model, sites, asked.meant)
    if asked.meant is not None:
        against += never_ran(sites, unmet, asked.meant, against)
    if n == 1:
        notes.append(Note("The batch holds one example, so whether examples share their masks was not tested."))
    if plan.gradients and not passes.along:
        notes.append(Note("The step's loss reaches none of the model's parameters, so its gradients were not tested."))
    if unmet:
        notes.append(
            Note(
                "Sites of the model that the step was not seen to call, and that only the tests of the loss can "
                "judge: {sites}.",
                sites=", ".join(unmet),
            )
        )
    evidence = Evidence(
        inside, against, evaluation, told, unmet, np.asarray(passes.losses), reference, law, lawful, n, resolution
    )
    return Run(evidence, sites, found, passes, len(seen), plan.slopes, eval_losses[0], n, notes)


def _tolerance(model: nn.Module, autocast: tuple[str, torch.dtype] | None, loss: float) -> float:
    """What round-off may change in a loss."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} | ({autocast[1]} if autocast else set())
    eps = max((torch.finfo(kind).eps for kind in kinds), default=torch.finfo(torch.float32).eps)
    return (8 if eps > 1e-4 else 256) * eps * max(1.0, abs(loss))


def _on_in_eval(sites: tuple[DropoutSite, ...]) -> list[str]:
    return [site.name for site in sites if site.always_on]
