"""Looking at a model, its data and its loss once, before anything is averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.errors import UncontrolledRandomness
from allmasks.expect.arguments import settled
from allmasks.expect.expectation import INSPECTED_EXAMPLES, Expectation
from allmasks.expect.loss import ModelLoss
from allmasks.over_masks.data import Batch, Data
from allmasks.over_masks.forms import Form, sites_of_form
from allmasks.over_masks.forward import as_it_is, extract_output, extract_several
from allmasks.over_masks.sources import NoMask
from allmasks.ranks.agreement import agree_on_data, agree_on_sites
from allmasks.ranks.groups import Group, join, unwrapped
from allmasks.ranks.sharded import keep_in_step, same_batch
from allmasks.results import Note
from allmasks.sites import borrowed, inspect_model

__all__ = ["prepare"]


def prepare(
    model: nn.Module,
    x: Any,
    y: Any,
    loss: Any,
    *,
    sample_weight: Any = None,
    example_index: Any = None,
    batch_dim: int | None = None,
    batch_size: int | None = None,
    group: Any = None,
    paired: bool = False,
) -> Expectation:
    """Look at the model once, find its sites, and compute its loss in eval mode.

    Parameters
    ----------
    x, y, loss : see `settled`, also for `paired`.
    group : as in `expected_loss`.
    """
    ranks = join(group)
    keywords = {"example_index": example_index, "batch_dim": batch_dim, "batch_size": batch_size}
    x, y, the_loss = ranks.run(lambda: settled(x, y, loss, paired=paired))
    model, data, own = ranks.run(lambda: _read(model, x, y, the_loss, ranks, **keywords))
    agree_on_data(ranks, own.args, own.kwargs, own.target)
    first = same_batch(model, ranks, own, data)
    problem = ranks.run(lambda: _look(model, data, the_loss, first, batch_dim))
    problem.group, problem.buffers = ranks, ranks.buffers_of_first(model)
    problem.batched = keep_in_step(ranks, problem.forward(problem.random_sites), first)
    sizes = ranks.gather(problem.data.n_examples)
    problem.n_examples = sum(sizes)
    problem.data.number_from(sum(sizes[: ranks.rank]))
    agree_on_sites(ranks, problem.sites)
    weight = ranks.run(lambda: _evaluate_mean_mask(problem, sample_weight))
    problem.splits = all(ranks.gather(problem.splits))
    total = float(ranks.sum(weight.sum()))
    if not total > 0:
        raise ValueError("no example has positive weight; at least one is needed")
    problem.share = weight / total
    problem.weight = problem.share if the_loss.normalized else weight
    return problem


def _read(
    model: nn.Module,
    x: Any,
    y: Any,
    loss: ModelLoss,
    ranks: Group,
    *,
    example_index: Any,
    batch_dim: Any,
    batch_size: Any,
) -> tuple[nn.Module, Data, Batch]:
    """What was given, checked, and the examples to look at the model with."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model, ranks)
    with borrowed(model):
        device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), None)
        data = Data(
            x,
            y,
            batch_dim=batch_dim,
            batch_size=batch_size,
            example_index=example_index,
            device=device,
            targets=loss.needs_target,
        )
        first = data.first(INSPECTED_EXAMPLES)
        loss.check_inputs(first.kwargs, first.target)
        return model, data, first


def _look(model: nn.Module, data: Data, the_loss: ModelLoss, batch: Batch, batch_dim: int | None) -> Expectation:
    extract = _extraction(the_loss)
    with borrowed(model):
        # A callable takes outputs of any kind; where the examples lie in them is its own affair.
        seen = inspect_model(
            model,
            batch.args,
            batch.kwargs,
            batch_dim=batch_dim,
            extract=_tensor_output if the_loss.whole_output else extract,
        )
        if seen.unaccounted:
            raise UncontrolledRandomness(
                f"{type(model).__name__} is random beyond its dropout: {'; '.join(seen.unaccounted)}. Its loss is not "
                "one number; make these deterministic in eval mode, or register them with am.register_dropout"
            )
        notes = [*data.notes, *seen.notes]
        if not seen.sites:
            notes.append(
                Note(
                    "No dropout was found, so E_m[L] is the loss in eval mode. Hand-written dropout is seen once it is "
                    "registered with am.register_dropout."
                )
            )
        for site in seen.sites:
            if not site.mean_preserving and site.p > 0:
                notes.append(
                    Note(
                        "{site} ({kind}) does not keep the mean: eval mode is not the loss at its mean mask.",
                        site=site.name,
                        kind=site.kind,
                    )
                )
        return Expectation(
            model=model,
            data=data,
            loss=the_loss,
            sites=seen.sites,
            last=seen.last_linear,
            output_dims=tuple(dim or 0 for dim in seen.output_batch_dims),
            extract=extract,
            batched=not seen.convolves_after_site,
            notes=tuple(notes),
        )


def _extraction(loss: ModelLoss) -> Callable[[Any], Any]:
    if loss.whole_output:
        return as_it_is
    if loss.n_outputs == 1:
        return extract_output
    return lambda output: extract_several(output, loss.n_outputs, loss.name)


def _tensor_output(output: Any) -> Tensor | None:
    try:
        return extract_output(output)
    except TypeError:
        return None


def _evaluate_mean_mask(problem: Expectation, sample_weight: Any) -> Tensor:
    """The eval-mode loss of each example, kept; returns what each weighs in the mean."""
    n = problem.data.n_examples
    rows, weights = [], []
    with torch.no_grad(), problem.lent():
        evaluate, errors = problem.plain(()), []
        own_forms = {problem.data.first(INSPECTED_EXAMPLES).form}
        problem.splits = problem.last is not None and not problem.loss.whole_output
        for batch in problem.data:
            problem.splits = problem.splits and problem.splits_into_scores(batch)
            _notice_form(problem, batch, own_forms)
            chunk = next(NoMask().chunks(batch.examples, 1, torch.device("cpu")))
            (losses,) = evaluate(batch, chunk)
            if not bool(torch.isfinite(losses.loss).all()):
                i = int((~torch.isfinite(losses.loss[0])).nonzero()[0])
                raise ValueError(
                    f"the loss in eval mode is not finite for example {batch.start + i}; look at that example's "
                    "inputs and targets, or at the model's weights"
                )
            rows.append(losses.loss[0])
            errors.append(losses.error[0])
            own = losses.weight
            weights.append(torch.ones_like(losses.loss[0]) if own is None else own.to(losses.loss[0]))
    problem.weight_scaling, problem.weight_scaling_error = torch.cat(rows), torch.cat(errors)
    if len(problem.weight_scaling) != n:
        raise ValueError(f"the data gave {len(problem.weight_scaling)} examples in all, {n} were announced")
    weight = torch.cat(weights) * _sample_weight(sample_weight, n).to(problem.weight_scaling.device)
    return weight


def _notice_form(problem: Expectation, batch: Batch, known: set[Form]) -> None:
    """Look at the model again where a batch's inputs have another shape, and so perhaps its masks."""
    if batch.form in known or not problem.sites:
        return
    known.add(batch.form)
    few = problem.data.part(batch, INSPECTED_EXAMPLES)
    extract = _tensor_output if problem.loss.whole_output else problem.extract
    dim = problem.data.batch_dim or None
    sites = sites_of_form(problem.model, few, problem.sites, batch_dim=dim, extract=extract)
    if any(sites[site.name] != site for site in problem.sites):
        problem.forms[batch.form] = sites


def _sample_weight(sample_weight: Any, n: int) -> Tensor:
    if sample_weight is None:
        return torch.ones(n, dtype=torch.float64)
    weight = torch.as_tensor(np.asarray(sample_weight, np.float64))
    if weight.shape != (n,):
        raise ValueError(
            f"sample_weight must have one weight for each of {n} examples, got shape {tuple(weight.shape)}"
        )
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise ValueError("sample_weight must be finite and 0 or more")
    return weight
