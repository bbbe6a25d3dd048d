"""E_m[L] of a model: plan it, then compute it.

`prepare` looks at the model once and makes an `Expectation`, which plans and computes; `under_masks` gives losses under
masks, `over_masks` the masks and their means with errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from allmasks.expect.arguments import given_loss
from allmasks.expect.expectation import Expectation
from allmasks.expect.prepare import prepare
from allmasks.methods import Method
from allmasks.over_masks.plan import Plan
from allmasks.over_masks.progress import progress_bar
from allmasks.over_masks.request import Request
from allmasks.ranks.agreement import agree_on_call
from allmasks.ranks.groups import join
from allmasks.results import ExpectedLoss
from allmasks.sites import BatchDim, leaves_no_trace

__all__ = ["Expectation", "Plan", "Request", "expected_loss", "plan_expected_loss", "prepare"]


@leaves_no_trace
def plan_expected_loss(
    model: nn.Module,
    x: Any,
    y: Any = None,
    loss: Any = None,
    *,
    method: Method | None = None,
    n_masks: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    budget: int | None = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
) -> Plan:
    """What `expected_loss` would do with these arguments, and why; draws no mask. Print it.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    >>> plan = plan_expected_loss(net, torch.ones(4, 3), torch.zeros(4, 1), "squared_error")
    >>> plan.method, plan.guarantee
    (ClosedForm(), 'exact')
    """
    request = Request(method, n_masks, atol, rtol, budget)
    problem = prepare(model, x, y, loss, batch_dim=batch_dim, batch_size=batch_size, leave_off=leave_off)
    return problem.plan(request)


@leaves_no_trace
def expected_loss(
    model: nn.Module,
    x: Any,
    y: Any = None,
    loss: Any = None,
    *,
    method: Method | None = None,
    n_masks: int | None = None,
    atol: float | None = None,
    rtol: float | None = None,
    budget: int | None = None,
    seed: int = 0,
    sample_weight: Any = None,
    example_index: Any = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
    progress: bool = False,
    group: Any = None,
) -> ExpectedLoss:
    """E_m[L]: the model's loss averaged over all dropout masks, with its error and what kind of error that is.

    The model is only borrowed: whichever mode it is in, everything but dropout behaves as in `model.eval()`, and
    afterwards parameters, buffers, flags and every generator are as before.

    Parameters
    ----------
    model : any module; its dropout sites are found by running it (`find_dropout` lists them).
    x : a tensor, a tuple of positional inputs, a dict of keyword inputs (its "labels" or "label" are y where that is
        None), or a DataLoader (then y is None), which decides which examples there are, and how often.
        `(model, (x, y), loss)` and `(model, loader, loss)` are meant where the third argument is a loss and there is no
        fourth.
    y : targets, example axis first.
    loss : "squared_error", "logistic", "cross_entropy", "poisson"; a loss module of torch.nn, with what its weights,
        options and reduction mean for all examples in one batch; or a callable (output, y) -> (n,) losses, which gets
        the model's whole output, whatever that is.
    method : a value of `am.methods`; None takes the strongest guarantee that fits the budget, then the cheapest.
    n_masks : masks for Monte Carlo, any number from 1 on; 256 by default.
    atol, rtol : instead of n_masks, the standard error wanted, fixed by an independent pilot.
    budget : evaluations (masks times examples) that listing every mask may cost; default 2**20.
    seed : masks are a pure function of (seed, site, mask, example_index, element).
    sample_weight : (n,) weights of the examples in the mean and its error.
    example_index : (n,) integers that key each example's masks; default: position in the data.
    batch_dim : axis of the examples, where it is not 0. "whole": rows depend on one another (nodes of a graph, a
        contrastive loss), and masks are drawn for the whole input at once; so with graphs of PyTorch Geometric. y and
        `per_example` then have one row a node, or a graph where the model pools, whose errors are not independent;
        `error` is that of their mean, from replicates of the joint draw. A loader gives one joint draw a batch.
    batch_size : examples in one pass; changes memory and speed, not the answer.
    leave_off : names of sites or modules, or what a refusal names, with `*` and `?`: randomness of training that is
        deliberately not averaged over. It stays as in eval mode, and `notes` say so.
    progress : show a progress bar.
    group : None for this process alone; "world", or a torch.distributed ProcessGroup, whose ranks all make this call,
        each with its own shard of the data (`am.shard` gives one). Sums run over all shards, every rank gets the whole
        result, and masks are keyed by position in all shards together. Gradients flow to a rank's own shard: add
        them up over ranks.

    Returns
    -------
    ExpectedLoss
        Tensors; gradients flow through `value` and `per_example`, recomputed chunk by chunk in backward.

    Raises
    ------
    ValueError : bad values, shapes or targets; the message says what is needed.
    MethodNotApplicable : the method asked for does not apply here; the message names those that do.
    UncontrolledRandomness : the model is random in a way that cannot be keyed.
    RankFailed : another rank of the group raised; the message says which and what. Ranks that hold other weights,
        seeds, losses, data types or requests all raise one ValueError, which names the field and the ranks.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1, bias=False)).double()
    >>> with torch.no_grad():
    ...     _ = net[1].weight.copy_(torch.tensor([[1.0, -1.0, 2.0]]))
    >>> x, y = torch.tensor([[1.0, 2.0, -1.0]]).double(), torch.zeros(1, 1).double()
    >>> result = expected_loss(net, x, y, "squared_error")
    >>> result.weight_scaling_loss.item(), result.penalty.item(), result.guarantee
    (9.0, 9.0, 'exact')
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
    rows = {"sample_weight": sample_weight, "example_index": example_index, "batch_dim": batch_dim}
    agree_on_call(ranks, "expected_loss", model, given_loss(y, loss), **asked, **rows, leave_off=leave_off)
    request = Request(**asked)
    problem = prepare(
        model,
        x,
        y,
        loss,
        sample_weight=sample_weight,
        example_index=example_index,
        batch_dim=batch_dim,
        batch_size=batch_size,
        leave_off=leave_off,
        group=ranks,
    )
    with progress_bar(progress) as (start, tick):
        return problem.expected(request, start=start, tick=tick)
