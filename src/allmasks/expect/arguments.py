"""What was meant by the data and the loss of a call: (model, x, y, loss), or (model, (x, y), loss)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from allmasks.expect.loss import ModelLoss
from allmasks.expect.model_losses import is_loss, model_loss
from allmasks.over_masks.data import targets_name
from allmasks.over_masks.loaders import is_loader
from allmasks.over_masks.wholes import graph_targets
from allmasks.sites import is_graph, one_graph

__all__ = ["data_and_loss", "given_loss", "settled"]

_LOSSES = '"squared_error", "logistic", "cross_entropy", "poisson"'


def settled(x: Any, y: Any, loss: Any, *, paired: bool = False) -> tuple[Any, Any, ModelLoss]:
    """Inputs, targets and loss, from either way of giving them.

    Parameters
    ----------
    paired : whether x is a pair (x, y) wherever y is None, and not only where a loss stands in y's place.

    >>> x, y, loss = settled((1, 2), "squared_error", None)
    >>> x, y, loss.name
    (1, 2, 'squared_error')

    Raises
    ------
    TypeError : no loss, no targets where the loss needs some, or data of neither form.
    """
    if loss is None and is_loss(y):
        loss, y, paired = y, None, True
    if loss is None:
        raise TypeError(_no_loss(x))
    the_loss = model_loss(loss)
    if is_graph(one_graph(x)):
        x, y, paired = one_graph(x), graph_targets(x, y), False
    elif is_loader(x):
        if y is not None:
            raise ValueError("a DataLoader carries its own targets: pass y=None")
        return x, None, the_loss
    if isinstance(x, Mapping) and y is None and the_loss.needs_target and (name := targets_name(x)) is not None:
        return {key: value for key, value in x.items() if key != name}, x[name], the_loss
    if isinstance(x, Mapping) and y is None and "labels" in x:
        return {key: value for key, value in x.items() if key != "labels"}, x["labels"], the_loss
    if y is None and the_loss.needs_target and _is_a_list_of_examples(x):
        raise TypeError(
            f"the data are a list of {len(x)} examples or batches, each a {type(x[0]).__name__} of {len(x[0])}: pass a "
            "DataLoader of pairs (DataLoader(examples, batch_size=…) stacks them), or the stacked pair (x, y)"
        )
    if y is None and paired and isinstance(x, Sequence) and not isinstance(x, str | bytes):
        if len(x) != 2:
            raise TypeError(f"data must be a pair (x, y) or a DataLoader, got {type(x).__name__} of {len(x)}")
        x, y = x
    if y is None and the_loss.needs_target and paired and not isinstance(x, Mapping):
        raise TypeError(f"data must be a pair (x, y) or a DataLoader, got {type(x).__name__}: y is missing")
    if y is None and the_loss.needs_target:
        raise TypeError(
            f"y is missing: loss {the_loss.name!r} compares outputs with targets. Pass (model, x, y, loss), "
            '(model, (x, y), loss), a DataLoader of pairs, or a dict of inputs with "labels" or "label"'
        )
    return x, y, the_loss


def data_and_loss(data: Any, y: Any, loss: Any) -> tuple[Any, Any]:
    """The same as a pair (x, y) or a loader, and the loss."""
    x, targets, _ = settled(data, y, loss, paired=True)
    return (x if is_loader(x) and not is_graph(x) else (x, targets)), given_loss(y, loss)


def _is_a_list_of_examples(x: Any) -> bool:
    """Whether it is a list of tuples, and no pair of two such (inputs, targets)."""
    if not isinstance(x, list) or len(x) in (0, 2):  # two may be the inputs and the targets
        return False
    return all(isinstance(one, tuple | list) and len(one) > 1 and len(one) == len(x[0]) for one in x)


def _no_loss(x: Any) -> str:
    if isinstance(x, Mapping) and targets_name(x) is not None:
        return (
            'loss is missing: a model\'s own loss is one number for a whole batch. Pass loss="cross_entropy" (examples '
            "count alike), nn.CrossEntropyLoss() (tokens count alike; a causal language model's labels must be shifted "
            "first), or a callable (output, labels) -> (n,) losses"
        )
    return f"loss is missing: pass {_LOSSES}, a torch.nn loss module, or a callable that returns one loss per example"


def given_loss(y: Any, loss: Any) -> Any:
    """The loss as it was given, in its own place or in that of y."""
    return y if loss is None and is_loss(y) else loss
