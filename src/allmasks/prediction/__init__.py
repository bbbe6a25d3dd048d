"""Predictions over all dropout masks: mean and spread, each with its error.

`setup` looks at the model once; `run` chooses how and goes through masks; `evaluate` turns masks into `features`, whose
means `tally` keeps by replicate and turns into values with errors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from allmasks.expect import progress_bar
from allmasks.expect.expectation import Request
from allmasks.methods import Method, MonteCarlo
from allmasks.over_masks.sources import SampledMasks
from allmasks.prediction.allotment import allotted
from allmasks.prediction.foreseen import foreseeable
from allmasks.prediction.result import Prediction
from allmasks.prediction.run import Results, Route, choose_route, over_ranks, run
from allmasks.prediction.setup import Setup, inert_sites, look, read
from allmasks.prediction.tolerance import drawn, masks_for_tolerance, unseen
from allmasks.ranks.agreement import agree_on_call, agree_on_data, agree_on_sites
from allmasks.ranks.groups import join, unwrapped
from allmasks.ranks.sharded import keep_in_step, same_batch
from allmasks.reliability import FEWEST_MASKS
from allmasks.replicates import grouped_sizes
from allmasks.sites import borrowed, leaves_no_trace

__all__ = ["Prediction", "predict"]


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
    batch_dim: int | None = None,
    batch_size: int | None = None,
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
    batch_dim : axis of the examples, where it is not 0.
    batch_size : examples in one pass; with it memory is bounded, whatever the number of masks.
    keep_samples : keep the prediction under each mask, for `quantile`; memory then grows with the masks.
    progress : show a progress bar.
    method : `MonteCarlo`, `Enumeration`, `ClosedForm` or `Fourier` of `am.methods`; None picks.
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
    asked: dict[str, Any] = {
        "method": method,
        "n_masks": n_masks,
        "atol": atol,
        "rtol": rtol,
        "budget": budget,
        "seed": seed,
    }
    output = {"task": task, "class_dim": class_dim, "noise_precision": noise_precision, "keep_samples": keep_samples}
    rows = {"y": y, "consistent": consistent, "example_index": example_index, "batch_dim": batch_dim}
    agree_on_call(ranks, "predict", model, None, **asked, **output, **rows)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    request = Request(**asked)
    if noise_precision is not None and not noise_precision > 0:
        raise ValueError(f"noise_precision must be positive, got {noise_precision}")
    if consistent and example_index is not None:
        raise ValueError("consistent=True gives all examples one key; leave example_index out")
    likelihood = y is not None
    model = ranks.run(lambda: unwrapped(model, ranks))
    buffers = ranks.buffers_of_first(model)
    with progress_bar(progress) as (start, tick), torch.no_grad(), borrowed(model, buffers):
        targets = None if y is True else y
        keywords = {"example_index": example_index, "batch_dim": batch_dim, "batch_size": batch_size}
        data, own_first = ranks.run(lambda: read(model, x, targets, **keywords))
        agree_on_data(ranks, own_first.args, own_first.kwargs, own_first.target)
        first = same_batch(model, ranks, own_first, data)
        setup = ranks.run(lambda: look(model, data, first, task=task, class_dim=class_dim, batch_dim=batch_dim))
        setup.consistent, setup.group = consistent, ranks
        setup.batched = keep_in_step(ranks, setup.forward(setup.sites), first)
        sizes = ranks.gather(setup.data.n_examples)
        setup.n_examples = sum(sizes)
        setup.data.number_from(sum(sizes[: ranks.rank]))
        agree_on_sites(ranks, setup.sites)
        ranks.agree({"the task": setup.task.name})

        def chosen() -> Route:
            _check_likelihood(setup, likelihood, noise_precision)
            return choose_route(setup, request, samples=keep_samples, likelihood=likelihood)

        route = allotted(setup, ranks.run(chosen), request.seed, ranks)
        masks, stopped = 0, tuple[str, ...]()
        if isinstance(route.method, MonteCarlo) and route.sites:
            settled = route.method
            if settled.atol is not None or settled.rtol is not None:
                masks, stopped = masks_for_tolerance(setup, route, request, tick, ranks)
            else:
                masks = drawn(route)
        source = route.source(masks, request.seed)
        start(source.n_masks * setup.data.n_examples)
        rare = ranks.run(lambda: foreseeable(setup, route, masks)) if isinstance(source, SampledMasks) else None
        own = ranks.run(
            lambda: run(
                setup,
                route,
                source,
                precision=noise_precision,
                likelihood=likelihood,
                samples=keep_samples,
                rare=rare,
                tick=tick,
            )
        )
        results = over_ranks(own, ranks)
        # Asked of the first examples, which the first rank has.
        inert = ranks.gather(ranks.run(lambda: inert_sites(setup)))[0]
    doubtful = unseen(route, masks) if route.guarantee == "statistical" and rare is None else ()
    notes = [*setup.notes, *stopped]
    if isinstance(source, SampledMasks):
        notes += [*source.blocks.notes, *_doubts(results, masks, doubtful)]
    return _assemble(
        setup,
        results,
        route,
        source.n_masks if route.sites else 0,
        notes,
        inert,
        bool(doubtful),
        {
            "noise_precision": noise_precision,
            "n_replicates": len(grouped_sizes(source.blocks.sizes)) if isinstance(source, SampledMasks) else 0,
        },
    )


def _doubts(results: Results, masks: int, seldom: tuple[str, ...]) -> list[str]:
    """What a reader should know of errors that cannot be trusted."""
    if masks < FEWEST_MASKS:
        return [f"{masks} masks cannot show what is rare, so no error here can be trusted; {FEWEST_MASKS} can."]
    if seldom:
        return [
            f"A unit of {', '.join(seldom)} is dropped in fewer than 20 of the {masks} masks: no error here can be "
            "trusted. More masks can."
        ]
    doubted = [
        name.replace("_", " ") for name, flags in results.reliable.items() if any(bool((~f).any()) for f in flags)
    ]
    if not doubted:
        return []
    return [
        f"For some outputs the error of {', '.join(doubted)} cannot be trusted (`reliable`): of {masks} masks too few "
        "decide, or would, were they drawn. More masks help."
    ]


def _check_likelihood(setup: Setup, likelihood: bool, noise_precision: float | None) -> None:
    if likelihood and len([d for d in setup.dims if d is not None]) > 1:
        raise ValueError("the likelihood of y needs a model that returns one tensor")
    if likelihood and setup.task.name == "regression" and noise_precision is None:
        raise ValueError("the likelihood of y in a regression needs noise_precision=τ, one over the noise variance")


def _assemble(
    setup: Setup,
    results: Results,
    route: Any,
    n_masks: int,
    notes: list[str],
    inert: tuple[str, ...],
    doubtful: bool,
    fields: dict[str, Any],
) -> Prediction:
    def built(tensors: list[Tensor] | None) -> Any:
        return None if tensors is None else setup.rebuild(tensors)

    reliable = {}
    if route.guarantee == "statistical":
        for name, flags in results.reliable.items():
            trusted = [flag & (not doubtful) for flag in flags]
            reliable[name] = built(trusted) if name != "log_likelihood" else trusted[0]
    for name in inert:
        notes.append(f"{name} is random, but its masks changed nothing.")
    gap = [mean - center for mean, center in zip(results.value["mean"], results.center, strict=True)]
    eps = torch.finfo(torch.float64).eps
    gap_error = [e + 8 * eps * c.abs() for e, c in zip(results.error["mean"], results.center, strict=True)]
    columns: dict[str, Any] = {}
    for name in ("entropy", "expected_entropy", "mutual_information"):
        columns[name] = built(results.value.get(name))
        columns[f"{name}_error"] = built(results.error.get(name))
    samples = None
    if results.samples:
        samples = setup.rebuild(results.samples, lead=1)
    return Prediction(
        task=setup.task.name,
        mean=built(results.value["mean"]),
        mean_error=built(results.error["mean"]),
        std=built(results.value["std"]),
        std_error=built(results.error["std"]),
        guarantee=route.guarantee,
        method=route.method,
        n_masks=n_masks,
        weight_scaling=built(results.center),
        gap=built(gap),
        gap_error=built(gap_error),
        **columns,
        log_likelihood=results.log_likelihood,
        log_likelihood_error=results.log_likelihood_error,
        reliable=reliable,
        samples=samples,
        inert=inert,
        notes=tuple(notes),
        **fields,
    )
