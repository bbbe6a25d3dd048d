"""The audit of a model: its expected loss, the penalty that dropout adds, and which site pays it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from allmasks.diagnose.gap import LossGap, held_out, loss_gap
from allmasks.diagnose.instruments import SiteInstruments, measure_sites
from allmasks.expect import Expectation, Request, prepare, progress_bar
from allmasks.expect.arguments import given_loss
from allmasks.methods import Method, MonteCarlo
from allmasks.methods.options import DEFAULT_BUDGET
from allmasks.ranks.agreement import agree_on_call
from allmasks.ranks.groups import join
from allmasks.replicates import mean_and_error
from allmasks.results import ExpectedLoss, Guarantee, Note, Reported, weakest, with_error
from allmasks.samplers import Independent
from allmasks.sites import BatchDim, DropoutSite, class_name, leaves_no_trace

__all__ = ["Audit", "ConvergencePoint", "SitePenalty", "all_and_alone", "audit", "combine", "explain"]

_CONVERGENCE_MASKS = 256


@dataclass(frozen=True)
class SitePenalty:
    """What one site costs.

    Attributes
    ----------
    site : the dropout site.
    alone, alone_error : E[L | only this site random] − weight-scaling loss.
    saved, saved_error : E[L | all random] − E[L | all but this one random].
    guarantee : the weaker of the two numbers' guarantees.
    reliable : whether both errors can be trusted, as in `ExpectedLoss`.
    """

    site: DropoutSite
    alone: float
    alone_error: float
    saved: float
    saved_error: float
    guarantee: Guarantee
    reliable: bool = True


@dataclass(frozen=True)
class ConvergencePoint:
    """The mean over the first `n_masks` independent masks, and the standard error such a mean has."""

    n_masks: int
    value: float
    error: float


@dataclass(frozen=True, repr=False)
class Audit(Reported):
    """Everything an audit found; every number with its error. See `audit`."""

    model_name: str
    n_examples: int
    loss: str
    units: str
    seed: int
    sites: tuple[DropoutSite, ...]
    expected: ExpectedLoss
    per_site: tuple[SitePenalty, ...]
    interaction: float
    interaction_error: float
    convergence: tuple[ConvergencePoint, ...]
    exact: float | None
    reference: float
    train_mode_loss: float
    train_mode_error: float
    eval_mode_loss: float
    explanation: str
    penalty_share: float
    penalty_share_error: float
    seconds: float
    notes: tuple[str, ...] = ()
    instruments: tuple[SiteInstruments, ...] = ()
    reliable: bool = True
    """Whether the errors of the expected loss, of every site's penalty and of the interaction can be trusted."""
    gap: LossGap | None = None
    """Between this training loss and a validation loss, where validation data were given."""


@leaves_no_trace
def audit(
    model: nn.Module,
    data: Any,
    y: Any = None,
    loss: Any = None,
    *,
    validation: Any = None,
    method: Method | None = None,
    n_masks: int | None = None,
    atol: float | None = None,
    seed: int = 0,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
    instruments: bool = True,
    progress: bool = True,
    group: Any = None,
) -> Audit:
    """The loss that dropout really minimises on these data, the penalty in it, and which site pays.

    Parameters
    ----------
    model : any module, in any mode; it is only borrowed.
    data, y : a pair (x, y) as one argument or as two, or a DataLoader.
    loss, method, n_masks, atol, seed, batch_dim, batch_size, leave_off : as in `expected_loss`. Comparisons between
        sites use the same masks, so their errors are those of paired differences.
    validation : a pair (x, y) or a DataLoader of other examples. `data` are then the training examples, and `.gap` says
        how much of what lies between training and validation loss is dropout, and how much generalization.
    instruments : look at each site unit by unit too: penalty, co-adaptation, concentration, robustness, on the
        first 128 examples, at sites of up to 512 units, of which the 32 that add most.
    progress : show a progress bar.
    group : as in `expected_loss`: each rank passes its own shard. Instruments look at each rank's own examples.

    Raises
    ------
    ValueError, MethodNotApplicable, UncontrolledRandomness : as `expected_loss`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    >>> found = audit(net, (torch.ones(4, 3), torch.zeros(4, 1)), "squared_error", progress=False)
    >>> found.expected.guarantee, len(found.per_site)
    ('exact', 1)
    """
    began = time.perf_counter()
    ranks = join(group)
    the_loss = given_loss(y, loss)
    asked: dict[str, Any] = {"method": method, "n_masks": n_masks, "atol": atol, "seed": seed}
    agree_on_call(
        ranks,
        "audit",
        model,
        the_loss,
        **asked,
        batch_dim=batch_dim,
        leave_off=leave_off,
        instruments=instruments,
        validation=validation is not None,
    )
    request = Request(**asked)
    how: dict[str, Any] = {"batch_dim": batch_dim, "batch_size": batch_size, "leave_off": leave_off}
    how |= {"group": ranks, "paired": True}
    problem = prepare(model, data, y, loss, **how)
    other = None if validation is None else held_out(model, validation, the_loss, **how)
    names = [site.name for site in problem.look.random_sites]
    with torch.no_grad(), progress_bar(progress, "audit") as (start, tick):
        expected, fixed, alone = all_and_alone(problem, request, start, tick)
        without = _all_but_one(problem, fixed, alone, tick)
        convergence = _convergence(problem, seed, tick) if names else ()
        measured: tuple[SiteInstruments, ...] = ()
        remarks: tuple[str, ...] = ()
        if names and instruments:
            dearest = sorted(names, key=lambda name: -abs(float(alone[name].penalty)))
            measured, remarks = problem.look.group.run(lambda: measure_sites(problem, dearest, seed, tick))
    per_site = tuple(
        _site_penalty(site, expected, alone[site.name], without.get(site.name)) for site in problem.look.random_sites
    )
    interaction, interaction_error = _interaction(expected, list(alone.values()))
    at_mean, penalty = float(expected.weight_scaling_loss), float(expected.penalty)
    value, error = float(expected.value), float(expected.error)
    return Audit(
        model_name=class_name(problem.look.model),
        n_examples=problem.look.n_examples,
        loss=problem.loss.name,
        units=problem.loss.units,
        seed=seed,
        sites=problem.look.sites,
        expected=expected,
        per_site=per_site,
        interaction=interaction,
        interaction_error=interaction_error,
        convergence=convergence,
        exact=value if expected.guarantee in ("exact", "bounded") else None,
        reference=value,
        train_mode_loss=value,
        train_mode_error=error,
        eval_mode_loss=at_mean,
        explanation=explain(value, error, at_mean, penalty, bool(names)),
        penalty_share=penalty / value if value else math.nan,
        penalty_share_error=_share_error(at_mean, value, float(expected.penalty_error)),
        seconds=time.perf_counter() - began,
        notes=(*expected.notes, *remarks),
        instruments=measured,
        reliable=expected.reliable and all(site.reliable for site in per_site),
        gap=None if other is None else loss_gap(expected, other),
    )


def _site_penalty(
    site: DropoutSite, expected: ExpectedLoss, alone: ExpectedLoss, without: ExpectedLoss | None
) -> SitePenalty:
    """`without`: E[L] with this site alone switched off; None where it is the only one."""
    penalty, error = float(alone.penalty), float(alone.penalty_error)
    if without is None:
        return SitePenalty(site, penalty, error, penalty, error, alone.guarantee, alone.reliable)
    saved, saved_error = combine([(1.0, expected), (-1.0, without)])
    parts = (alone, expected, without)
    guarantee = weakest(*(part.guarantee for part in parts))
    return SitePenalty(site, penalty, error, saved, saved_error, guarantee, all(part.reliable for part in parts))


def _interaction(expected: ExpectedLoss, alone: Sequence[ExpectedLoss]) -> tuple[float, float]:
    """The penalty minus the sum of each site's alone, and its error."""
    if len(alone) < 2:
        return 0.0, 0.0
    total, error = combine([(1.0, expected), *((-1.0, one) for one in alone)])
    # Each penalty subtracts the weight-scaling loss once.
    return total + float(expected.weight_scaling_loss) * (len(alone) - 1), error


def _share_error(at_mean: float, value: float, penalty_error: float) -> float:
    """Of 1 − at_mean / value, whose slope is at_mean / value²; nan where there is nothing to share."""
    if value == 0:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.abs(at_mean / np.float64(value)) * (penalty_error / np.abs(np.float64(value))))


def all_and_alone(
    problem: Expectation, request: Request, start: Any = None, tick: Any = None
) -> tuple[ExpectedLoss, Request, dict[str, ExpectedLoss]]:
    """E_m[L] over all sites, the request with its number of masks fixed, and E[L] with each random site alone.

    One number of masks for every comparison, so that their blocks can be paired.
    """
    expected = problem.expected(request, grad=False, start=start, tick=tick)
    fixed = _with_masks(request, expected)
    return expected, fixed, {site.name: _only(problem, fixed, {site.name}, tick) for site in problem.look.random_sites}


def combine(terms: Sequence[tuple[float, ExpectedLoss]]) -> tuple[float, float]:
    """A weighted sum of expected losses and its error; those drawn from the same masks are paired block by block.

    Statistical errors of unpaired parts add in quadrature; round-off and proven bounds add up.
    """
    value = sum(factor * float(result.value) for factor, result in terms)
    proven = sum(abs(factor) * float(result.error) for factor, result in terms if result.replicates is None)
    groups: dict[tuple[int, int], torch.Tensor] = {}
    sizes = {}
    for factor, result in terms:
        if result.replicates is not None:
            part, key = factor * result.replicates.double(), (result.n_masks, len(result.replicates))
            groups[key] = groups[key] + part if key in groups else part
            sizes[key] = result.replicate_masks
    squared = sum(float(mean_and_error(part, sizes[key])[1]) ** 2 for key, part in groups.items())
    return value, proven + math.sqrt(squared)


def _only(problem: Expectation, request: Request, names: set[str], tick: Any) -> ExpectedLoss:
    return problem.expected(request, frozenset(names), grad=False, tick=tick)


def _all_but_one(
    problem: Expectation, request: Request, alone: dict[str, ExpectedLoss], tick: Any
) -> dict[str, ExpectedLoss]:
    """E[L] with each of several sites switched off; of two, that is the other one alone."""
    names = list(alone)
    if len(names) < 2:
        return {}
    if len(names) == 2:
        return dict(zip(names, reversed(alone.values()), strict=True))
    return {name: _only(problem, request, set(names) - {name}, tick) for name in names}


def _with_masks(request: Request, expected: ExpectedLoss) -> Request:
    if not isinstance(expected.method, MonteCarlo):
        return request
    method = (
        None if request.method is None else replace(expected.method, n_masks=expected.n_masks, atol=None, rtol=None)
    )
    # Masks of a site that can be listed within the budget are, whatever number the run of all sites came to.
    budget = DEFAULT_BUDGET if request.n_masks is None else request.budget
    return replace(request, method=method, n_masks=expected.n_masks, atol=None, rtol=None, budget=budget)


def _convergence(problem: Expectation, seed: int, tick: Any) -> tuple[ConvergencePoint, ...]:
    method = MonteCarlo(n_masks=_CONVERGENCE_MASKS, sampler=Independent())
    run = problem.expected(Request(method, seed=seed), grad=False, tick=tick)
    assert run.replicates is not None
    spread = float(run.replicates.std())
    points, k = [], 1
    while k <= _CONVERGENCE_MASKS:
        points.append(ConvergencePoint(k, float(run.replicates[:k].mean()), spread / math.sqrt(k)))
        k *= 2
    return tuple(points)


def explain(value: float, error: float, at_mean: float, penalty: float, random: bool) -> Note:
    """Train-mode loss against eval-mode loss in one sentence."""
    if not random:
        return Note("No mask varies, so the loss in train mode and in eval mode is the same.")
    told = {
        "train": with_error(value, error) if error > 1e-6 * abs(value) else f"{value:.4g}",
        "eval": f"{at_mean:.4g}",
        "gap": f"{abs(penalty):.2g}",
    }
    if penalty >= 0:
        return Note(
            "On the very same examples this model loses {train} in train mode (the mean over masks) and {eval} in "
            "eval mode. The {gap} between them is what dropout costs, and it is part of every difference between a "
            "training loss in train mode and a validation loss in eval mode.",
            **told,
        )
    return Note(
        "On the very same examples this model loses {train} in train mode (the mean over masks) and {eval} in "
        "eval mode: here the masks lower the loss by {gap}, which happens where the model is confident and wrong.",
        **told,
    )
