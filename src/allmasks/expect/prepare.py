"""Looking at a model, its data and its loss once, before anything is averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from allmasks.expect.arguments import settled
from allmasks.expect.expectation import Expectation
from allmasks.expect.loss import ModelLoss
from allmasks.expect.model_losses import CallableLoss
from allmasks.expect.under_masks import plain, softmax_of, terms_of
from allmasks.over_masks.data import Batch
from allmasks.over_masks.look import Look, Purpose, look
from allmasks.over_masks.output import as_it_is, extract_output, extract_several, rows_of_first
from allmasks.over_masks.sources import no_masks
from allmasks.over_masks.wholes import is_whole
from allmasks.ranks.groups import join
from allmasks.sites import BatchDim

__all__ = ["prepare"]


def prepare(
    model: nn.Module,
    x: Any,
    y: Any,
    loss: Any,
    *,
    sample_weight: Any = None,
    example_index: Any = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
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
    x, y, the_loss = ranks.run(lambda: settled(x, y, loss, paired=paired))
    if isinstance(the_loss, CallableLoss) and ranks.run(lambda: is_whole(x, batch_dim)):
        the_loss = replace(the_loss, one_will_do=True)
    rows: dict[str, Any] = {"example_index": example_index, "batch_dim": batch_dim, "batch_size": batch_size}
    seen = look(model, x, y, _purpose(the_loss), ranks, **rows, leave_off=leave_off)
    found = ranks.run(lambda: _at_mean_mask(seen, the_loss, sample_weight))
    splits, classed = all(ranks.gather(found.splits)), all(ranks.gather(found.classed))
    total = float(ranks.sum(found.weight.sum()))
    if not total > 0:
        raise ValueError("no example has positive weight; at least one is needed")
    share = found.weight / total
    weight = share if the_loss.normalized else found.weight
    return Expectation(seen, the_loss, weight, share, found.loss, found.error, splits, classed)


def _purpose(loss: ModelLoss) -> Purpose:
    extract: Callable[[Any], Any] = as_it_is
    if not loss.whole_output:
        several = partial(extract_several, n=loss.n_outputs, loss=loss.name)
        extract = extract_output if loss.n_outputs == 1 else several
    return Purpose(
        # A callable takes outputs of any kind; where the examples lie in them is its own affair.
        output=_tensor_output if loss.whole_output else extract,
        extract=lambda seen: extract,
        beyond="Its loss is not one number",
        targets=loss.needs_target,
        check=lambda batch: loss.check_inputs(batch.kwargs, batch.target),
        rows=_rows_of_loss(loss) if loss.whole_output else rows_of_first,
    )


def _rows_of_loss(loss: ModelLoss) -> Callable[[Any, Batch], int]:
    return lambda output, batch: len(loss.per_example(output, batch.target))


def _tensor_output(output: Any) -> Tensor | None:
    try:
        return extract_output(output)
    except TypeError:
        return None


class _AtMeanMask(NamedTuple):
    """(n,) losses in eval mode, round-off, what each weighs; whether all split into scores, or are a softmax."""

    loss: Tensor
    error: Tensor
    weight: Tensor
    splits: bool
    classed: bool


def _at_mean_mask(seen: Look, loss: ModelLoss, sample_weight: Any) -> _AtMeanMask:
    n = seen.data.n_examples
    rows, errors, weights = [], [], []
    splits = classed = True
    with torch.no_grad(), seen.lent():
        evaluate = plain(seen, loss, ())
        for batch in seen.data:
            splits = splits and terms_of(loss, seen.last, batch) is not None
            classed = classed and softmax_of(loss, seen.last, batch) is not None
            seen.sites_in(batch)
            (losses,) = evaluate(batch, no_masks(batch.examples))
            if not bool(torch.isfinite(losses.loss).all()):
                i = int((~torch.isfinite(losses.loss[0])).nonzero()[0])
                raise ValueError(
                    f"the loss in eval mode is not finite for example {batch.start + i}; look at that example's "
                    "inputs and targets, or at the model's weights"
                )
            rows.append(losses.loss[0])
            errors.append(losses.error[0])
            weights.append(torch.ones_like(rows[-1]) if losses.weight is None else losses.weight.to(rows[-1]))
    at_mean = torch.cat(rows)
    if len(at_mean) != n:
        raise ValueError(f"the data gave {len(at_mean)} examples in all, {n} were announced")
    weight = torch.cat(weights) * _sample_weight(sample_weight, n).to(at_mean.device)
    return _AtMeanMask(at_mean, torch.cat(errors), weight, splits, classed)


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
