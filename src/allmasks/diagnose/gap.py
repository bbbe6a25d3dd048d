"""Training loss against validation loss: how much of what lies between them is dropout, and how much generalization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from allmasks.expect import Expectation, prepare
from allmasks.results import ExpectedLoss, Guarantee, Note, Result, with_error

__all__ = ["LossGap", "held_out", "loss_gap"]


@dataclass(frozen=True, repr=False)
class LossGap(Result):
    """What lies between the training loss in train mode and the validation loss in eval mode: two numbers that every
    log prints, and that differ in two ways at once.

    gap = training − validation = dropout − generalization.

    Attributes
    ----------
    training, training_error : E_m[L] over the training examples: the loss in train mode, averaged over all masks.
    training_eval : the loss of the same examples in eval mode.
    validation, validation_error : the loss of the validation examples in eval mode, and its standard error over them.
    gap, gap_error : training − validation; both kinds of error.
    dropout, dropout_error : training − training_eval, what masks add on the very same examples; the error over masks,
        in the sense of `guarantee`.
    generalization, generalization_error : validation − training_eval, both in eval mode; the standard error over
        validation examples (nan if there is one). The training examples are those the model was fitted to, no sample.
    n_training, n_validation : examples.
    guarantee : what the errors over masks are.
    explanation : the same in a few sentences.
    """

    training: float
    training_error: float
    training_eval: float
    validation: float
    validation_error: float
    gap: float
    gap_error: float
    dropout: float
    dropout_error: float
    generalization: float
    generalization_error: float
    n_training: int
    n_validation: int
    guarantee: Guarantee
    explanation: Note

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("training loss", f"{with_error(self.training, self.training_error)} (train mode, all masks)"),
            ("validation loss", f"{with_error(self.validation, self.validation_error)} (eval mode)"),
            ("gap", with_error(self.gap, self.gap_error)),
            ("dropout's share", with_error(self.dropout, self.dropout_error)),
            ("generalization", with_error(self.generalization, self.generalization_error)),
        ]


def held_out(model: nn.Module, validation: Any, loss: Any, **how: Any) -> Expectation:
    """The validation examples with their losses in eval mode.

    Parameters
    ----------
    validation : a pair (x, y) or a DataLoader. how : the keywords of `prepare`.

    Raises
    ------
    ValueError : a loss that is summed over examples, which grows with their number.
    """
    found = prepare(model, validation, None, loss, **how)
    if not found.loss.normalized:
        raise ValueError(
            f"loss {found.loss.name!r} is summed over examples and grows with their number, so training and validation "
            'losses cannot be compared: give a mean, such as reduction="mean"'
        )
    return found


def loss_gap(expected: ExpectedLoss, other: Expectation) -> LossGap:
    """The gap between the expected loss of the training examples and the loss of others in eval mode.

    Parameters
    ----------
    expected : E_m[L] over the training examples. other : see `held_out`, of the same model and loss.
    """
    group = other.look.group
    value = group.sum((other.weight * other.weight_scaling).sum())
    squares = float(group.sum((other.share * (other.weight_scaling - value)).square().sum()))
    n = other.look.n_examples
    error = math.sqrt(squares * n / (n - 1)) if n > 1 else math.nan
    training, dropout = float(expected.value), float(expected.penalty)
    training_error, at_mean = float(expected.error), float(expected.weight_scaling_loss)
    validation_loss = float(value)
    gap = training - validation_loss
    # Errors over masks and over examples have nothing to do with each other; a proven bound has no square.
    statistical = expected.guarantee == "statistical"
    gap_error = math.hypot(training_error, error) if statistical else training_error + error
    generalization = validation_loss - at_mean
    return LossGap(
        training,
        training_error,
        at_mean,
        validation_loss,
        error,
        gap,
        gap_error,
        dropout,
        float(expected.penalty_error),
        generalization,
        error,
        len(torch.as_tensor(expected.per_example)),
        n,
        expected.guarantee,
        _explained(
            training,
            validation_loss,
            at_mean,
            with_error(dropout, float(expected.penalty_error), most=4),
            with_error(generalization, error, most=4),
        ),
    )


def _explained(training: float, validation: float, at_mean: float, dropout: str, generalization: str) -> Note:
    """The gap in sentences."""
    told: dict[str, Any] = {
        "training": f"{training:.4g}",
        "validation": f"{validation:.4g}",
        "gap": f"{abs(training - validation):.3g}",
    }
    if training >= validation:
        first = Note("The training loss, {training}, is {gap} above the validation loss, {validation}.", **told)
    else:
        first = Note("The training loss, {training}, is {gap} below the validation loss, {validation}.", **told)
    second = Note(
        "Dropout's share is {dropout}: what its masks add on the very same training examples. Generalization is "
        "{generalization}: what validation examples lose more than training examples, both in eval mode.",
        dropout=dropout,
        generalization=generalization,
    )
    if training >= validation > at_mean:
        in_eval = {"at_mean": f"{at_mean:.4g}"}
        third = Note("In eval mode the training loss, {at_mean}, is below the validation loss.", **in_eval)
        return Note("{first} {second} {third}", first=first, second=second, third=third)
    return Note("{first} {second}", first=first, second=second)
