"""Predictions over all dropout masks: mean and spread, each with its error.

`outputs` says what a model's outputs are, `pieces` turns masks into `features`, `averages` goes through all masks and
keeps the features' means by replicate (`tally`), which become values with errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allmasks.methods import Method, MonteCarlo
from allmasks.over_masks.plan import Plan
from allmasks.over_masks.progress import progress_bar
from allmasks.over_masks.request import Request
from allmasks.over_masks.sources import SampledMasks, source_of
from allmasks.prediction.allotment import allotted
from allmasks.prediction.averages import Averages, Route, average, over_ranks, route_of
from allmasks.prediction.enough import doubts, enough, unseen
from allmasks.prediction.foreseen import foreseeable
from allmasks.prediction.held import held_of
from allmasks.prediction.outputs import Asked, Outputs, inert_sites, outputs_of
from allmasks.prediction.result import Prediction
from allmasks.ranks.agreement import agree_on_call
from allmasks.ranks.groups import ALONE, Group, join
from allmasks.replicates import grouped_sizes
from allmasks.sites import BatchDim, leaves_no_trace

__all__ = ["Prediction", "plan_prediction", "predict", "predicted"]


@leaves_no_trace
def plan_prediction(
    model: nn.Module,
    x: Any,
    *,
    task: str | None = None,
    n_masks: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
    keep_samples: bool = False,
    method: Method | None = None,
    budget: int | None = None,
    y: Any = None,
    noise_precision: float | None = None,
    class_dim: int | None = None,
) -> Plan:
    """What `predict` would do with these arguments, and why; draws no mask. Print it.

    Raises
    ------
    ValueError, TypeError, MethodNotApplicable, UncontrolledRandomness : as `predict`.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    >>> plan = plan_prediction(net, torch.ones(4, 3), task="regression")
    >>> plan.method, plan.guarantee, plan.n_masks
    (ClosedForm(), 'exact', 0)
    """
    request = Request(method, n_masks, atol, rtol, budget)
    asked = Asked(task, class_dim, noise_precision, y is not None, keep_samples)
    with torch.no_grad():
        rows = {"batch_dim": batch_dim, "batch_size": batch_size}
        outputs = outputs_of(model, x, y, asked, ALONE, **rows, leave_off=leave_off)
        with outputs.look.lent():
            return outputs.plan(request)


@leaves_no_trace
def predict(
    model: nn.Module,
    x: Any,
    *,
    task: str | None = None,
    n_masks: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    example_index: Any = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
    keep_samples: bool = False,
    progress: bool = False,
    method: Method | None = None,
    budget: int | None = None,
    y: Any = None,
    noise_precision: float | None = None,
    class_dim: int | None = None,
    consistent: bool = False,
    group: Any = None,
) -> Prediction:
    """Mean and spread of a model's predictions over all its dropout masks, each with its error.

    Every dropout site is active, whichever mode the model is in; everything else behaves as in `model.eval()`, and the
    model comes back as it was. Where the only site feeds a last Linear, and the output is that score, its sigmoid or
    the softmax of two, the answer is exact; where all masks can be listed within the budget they are; otherwise masks
    are sampled, and every number carries its standard error.

    Parameters
    ----------
    model : any module; `find_dropout` lists its sites.
    x : a tensor, a tuple of positional inputs, a dict of keyword inputs, or a DataLoader, with targets or without.
    task : "regression" (the output itself), "binary" (its sigmoid), "multiclass" (its softmax); None infers it, and
        says so in `notes`. Models that end in a sigmoid or softmax are taken at their word.
    n_masks : masks an example, any number from 1 on; 256 by default. No more are listed one by one either, and beside
        a tolerance it is the cap.
    atol, rtol : the standard error wanted of every mean: absolute, or relative to it. A pilot of fixed size fixes the
        number of masks once; there is no peeking.
    seed : masks are a pure function of (seed, site, mask, example_index, element).
    example_index : (n,) integers that key each example's masks; default: position in the data.
    batch_dim : axis of the examples, where it is not 0. "whole": rows depend on one another (nodes of a graph, a
        contrastive loss), and masks are drawn for the whole input at once; so with graphs of PyTorch Geometric. y and
        `per_example` then have one row a node, or a graph where the model pools, whose errors are not independent;
        `error` is that of their mean, from replicates of the joint draw. A loader gives one joint draw a batch.
    batch_size : examples in one pass; with it memory is bounded, whatever the number of masks.
    leave_off : names of sites or modules, or what a refusal names, with `*` and `?`: randomness of training that is
        deliberately not averaged over. It stays as in eval mode, and `notes` say so.
    keep_samples : keep the prediction under each mask, for `quantile`; memory then grows with the masks.
    progress : show a progress bar.
    method : `MonteCarlo`, `Enumeration`, `ClosedForm` or `Fourier` of `am.methods`; None picks. `SoftmaxBounds`, where
        the only site feeds a last Linear of three or more classes: everything between proven bounds.
    budget : evaluations (masks times examples) that listing every mask may cost; default 2**20.
    y : targets; then also log p(y), the log of the mean likelihood. True takes those of a data loader.
    noise_precision : τ; a regression's y has variance 1/τ about the prediction (Gal & Ghahramani 2016).
    class_dim : axis of the classes; by default 1, and the last one of `.logits`.
    consistent : whether all examples share each mask, so that each kept sample is one thinned network's prediction for
        all of them; each example's errors are as good, but they are no longer independent between examples.
    group : None for this process alone; "world" or a torch.distributed ProcessGroup, whose ranks all make this call,
        each with its own shard of x and y (`am.shard` gives one). Every rank gets the prediction of all examples, in
        order of rank; masks are keyed by position in all shards together.

    Returns
    -------
    Prediction

    Raises
    ------
    ValueError, TypeError : bad values; outputs without a tensor, or that change shape or stop being finite under some
        mask, which is named so that it can be replayed with `am.thinned`.
    MethodNotApplicable : the method asked for does not apply here.
    UncontrolledRandomness : some randomness of the model cannot be keyed.
    RankFailed : another rank of the group raised; the message says which and what.

    References
    ----------
    Gal & Ghahramani 2016, "Dropout as a Bayesian approximation".

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, -1.0, 2.0]]))
    >>> result = predict(net, torch.tensor([[1.0, 2.0, -1.0]]).double(), task="regression")
    >>> result.mean.item(), result.std.item(), result.guarantee
    (-3.0, 3.0, 'exact')
    """
    ranks = join(group)
    how: dict[str, Any] = {
        "method": method,
        "n_masks": n_masks,
        "atol": atol,
        "rtol": rtol,
        "budget": budget,
        "seed": seed,
    }
    output = {"task": task, "class_dim": class_dim, "noise_precision": noise_precision, "keep_samples": keep_samples}
    rows = {"example_index": example_index, "batch_dim": batch_dim, "leave_off": leave_off}
    agree_on_call(ranks, "predict", model, None, **how, **output, y=y, consistent=consistent, **rows)
    request = Request(**how)
    asked = Asked(task, class_dim, noise_precision, y is not None, keep_samples, consistent)
    if consistent and example_index is not None:
        raise ValueError("consistent=True gives all examples one key; leave example_index out")
    keywords = {**rows, "batch_size": batch_size}
    return predicted(model, x, y, asked, request, ranks, progress=progress, **keywords)


def predicted(
    model: nn.Module, x: Any, y: Any, asked: Asked, request: Request, ranks: Group, *, progress: bool, **rows: Any
) -> Prediction:
    """The prediction that is asked for; the call is known to be the same on all ranks.

    Parameters
    ----------
    rows : example_index, batch_dim and batch_size, as in `predict`.
    """
    seed = request.seed
    with progress_bar(progress) as (start, tick), torch.no_grad():
        outputs = outputs_of(model, x, y, asked, ranks, **rows)
        with outputs.look.lent():
            plan = ranks.run(lambda: outputs.plan(request))
            ranks.agree({"the method that its batches' shapes allow (pass method=)": repr(plan.method)})
            route = allotted(outputs, route_of(outputs, plan.chosen, seed), seed)
            masks, stopped = plan.n_masks, tuple[str, ...]()
            if isinstance(plan.method, MonteCarlo) and plan.chosen.sites and not masks:
                masks, stopped = enough(outputs, route, request, tick)
            source = source_of(route.option, masks, seed)
            start(source.n_masks * outputs.look.data.n_examples)
            sampled = isinstance(source, SampledMasks)
            rare = ranks.run(lambda: foreseeable(outputs, route, masks)) if sampled else None
            own = ranks.run(lambda: average(outputs, route, source, rare=rare, tick=tick))
            results = over_ranks(own, ranks)
            # Asked of the first examples, which the first rank has.
            inert = ranks.gather(ranks.run(lambda: inert_sites(outputs)))[0]
    doubtful = unseen(outputs, route, masks) if sampled and rare is None else ()
    notes = [*outputs.notes, *stopped]
    n_replicates = 0
    if isinstance(source, SampledMasks):
        notes += [*source.blocks.notes, *doubts(results, masks, doubtful)]
        n_replicates = len(grouped_sizes(source.blocks.sizes))
    found = _assembled(outputs, results, route, masks, n_replicates, notes, inert, bool(doubtful))
    sizes = source.blocks.sizes if isinstance(source, SampledMasks) else None
    return replace(found, held=held_of(outputs, results.held, sizes, source.block))


def _assembled(
    outputs: Outputs,
    results: Averages,
    route: Route,
    n_masks: int,
    n_replicates: int,
    notes: list[str],
    inert: tuple[str, ...],
    doubtful: bool,
) -> Prediction:
    def built(tensors: list[Tensor] | None) -> Any:
        return None if tensors is None else outputs.rebuild(tensors)

    reliable = {}
    if route.option.guarantee == "statistical":
        for name, flags in results.reliable.items():
            trusted = [flag & (not doubtful) for flag in flags]
            reliable[name] = built(trusted) if name != "log_likelihood" else trusted[0]
    for name in inert:
        notes.append(f"{name} is random, but its masks changed nothing.")
    gap = [mean - center for mean, center in zip(results.value["mean"], results.center, strict=True)]
    eps = torch.finfo(torch.float64).eps
    gap_error = [e + 8 * eps * c.abs() for e, c in zip(results.error["mean"], results.center, strict=True)]
    columns: dict[str, Any] = {}
    for name in ("mean", "std", "entropy", "expected_entropy", "mutual_information"):
        columns[name] = built(results.value.get(name))
        columns[f"{name}_error"] = built(results.error.get(name))
    return Prediction(
        task=outputs.task.name,
        guarantee=route.option.guarantee,
        method=route.option.method,
        n_masks=n_masks,
        weight_scaling=built(results.center),
        gap=built(gap),
        gap_error=built(gap_error),
        **columns,
        log_likelihood=results.value.get("log_likelihood", [None])[0],
        log_likelihood_error=results.error.get("log_likelihood", [None])[0],
        noise_precision=outputs.asked.precision,
        reliable=reliable,
        samples=outputs.rebuild([rows.movedim(0, 1) for rows in results.samples], lead=1) if results.samples else None,
        n_replicates=n_replicates,
        inert=inert,
        notes=tuple(notes),
    )
