"""The loss that fits a model and its labels, where none is named; and what people call losses elsewhere."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LOSSES", "default_loss", "in_eval_mode", "named_loss"]

LOSSES = ("squared_error", "logistic", "cross_entropy", "poisson")

_ELSEWHERE = {
    "squared_error": ("mse", "mean_squared_error", "mse_loss", "mseloss"),
    "cross_entropy": ("ce", "crossentropy", "crossentropyloss", "categorical_crossentropy", "softmax"),
    "logistic": ("bce_with_logits", "bcewithlogits", "bcewithlogitsloss", "binary_cross_entropy_with_logits"),
}
"""What says the same under another name."""

_NEARLY = {
    "l2": "squared_error",
    "nll": "cross_entropy",
    "nllloss": "cross_entropy",
    "nll_loss": "cross_entropy",
    "bce": "logistic",
    "bceloss": "logistic",
    "binary_cross_entropy": "logistic",
}
"""What says something else in general, and what may have been meant."""


def named_loss(given: str, _: Callable[[str], str] = str) -> str:
    """The loss that a name means, also one that it has elsewhere; ValueError with what may have been meant.

    Parameters
    ----------
    _ : turns the message into another language.

    >>> named_loss("MSE")
    'squared_error'
    >>> named_loss("nll")
    Traceback (most recent call last):
    ...
    ValueError: --loss 'nll' is unknown: did you mean cross_entropy? It takes scores, and log-probabilities too
    """
    name = given.strip().lower().replace("-", "_").replace(" ", "_")
    if name in LOSSES:
        return name
    for loss, others in _ELSEWHERE.items():
        if name in others:
            return loss
    meant = _NEARLY.get(name) or next(iter(difflib.get_close_matches(name, LOSSES, 1)), None)
    if meant is None:
        raise ValueError(
            _("--loss must be one of {losses}, got {given!r}").format(losses=", ".join(LOSSES), given=given)
        )
    told = _("--loss {given!r} is unknown: did you mean {meant}?").format(given=given, meant=meant)
    if name.startswith("nll"):
        told += " " + _("It takes scores, and log-probabilities too")
    elif meant == "logistic":
        told += " " + _("It takes scores, not probabilities: leave the last sigmoid out")
    raise ValueError(told)


def in_eval_mode(model: nn.Module, x: Any) -> Any:
    """The output of a model that is borrowed for one pass in eval mode; x is a tensor, a tuple or a dict of them."""
    import torch

    from allmasks.sites import borrowed

    with borrowed(model), torch.no_grad(), torch.random.fork_rng():
        model.eval()
        return model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)


def default_loss(output: torch.Tensor, y: torch.Tensor) -> str:
    """The loss that fits a model's output (n, …) and labels (n, …); ValueError where it is unclear.

    Integer labels, one a position, and several classes (n, C, …): cross_entropy. 0/1 labels and one output: logistic.
    Floats: squared_error.

    >>> import torch
    >>> default_loss(torch.zeros(4, 3), torch.tensor([0, 2, 1, 0]))
    'cross_entropy'
    >>> default_loss(torch.zeros(4, 1), torch.tensor([0, 1, 1, 0]))
    'logistic'
    >>> default_loss(torch.zeros(4, 1), torch.tensor([0.5, 1.0, 2.0, 0.0]))
    'squared_error'
    """
    whole = not y.is_floating_point()
    outputs = output[0].numel() if output.ndim > 1 else 1
    classes = output.ndim > 1 and output.shape[1] > 1
    if outputs > 1 and whole and classes and y.shape[1:] == output.shape[2:]:
        return "cross_entropy"
    if outputs == 1 and bool(((y == 0) | (y == 1)).all()):
        return "logistic"
    if not whole and y[0].numel() == outputs:
        return "squared_error"
    raise ValueError(
        f"the loss cannot be told from an output of shape {tuple(output.shape)} and labels of shape {tuple(y.shape)} "
        f"and type {str(y.dtype).removeprefix('torch.')}: give --loss squared_error, logistic, cross_entropy or poisson"
    )
