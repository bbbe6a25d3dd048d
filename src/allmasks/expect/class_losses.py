"""Losses of class scores or log-probabilities: cross-entropy and negative log-likelihood, as torch has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from allmasks.expect.loss import ModelLoss
from allmasks.over_masks.last_layer import ScoreTerm

__all__ = ["ClassLoss", "CrossEntropy", "NegativeLogLikelihood", "Reduction"]

Reduction = Literal["example", "mean", "sum", "none"]
"""How tokens are put together: "example" averages them within an example; the others are torch's."""

_FAINT = 2.0**-100
"""Share of the largest class weight that a class of weight 0 has where labels are smoothed: no digit of any sum."""


@dataclass(frozen=True, eq=False)
class ClassLoss(ModelLoss):
    """A loss of class numbers, given outputs (n, C), (n, C, ...), or class-last (n, ..., C) as language models give.

    With class weights the mean is weighted by them, as torch's "mean" reduction is. With reduction "mean" an example
    weighs what its tokens do: the mean over all examples is then the one over all real tokens.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: Reduction = "example"
    units: str = "nats"

    @property
    def normalized(self) -> bool:
        return self.reduction != "sum"

    def check(self, output: Tensor, target: Any) -> Tensor:
        y = torch.as_tensor(target, device=output.device)
        if output.ndim < 2:
            raise ValueError(f"loss {self.name!r} needs outputs (n, classes, ...), got {tuple(output.shape)}")
        if y.is_floating_point():
            self._check_shares(output, y)
            return y
        if y.dtype == torch.bool:
            raise ValueError(f"loss {self.name!r} needs integer class numbers, got booleans; use y.long()")
        y = y.long()
        if y.ndim == output.ndim and y.shape[-1] == 1:
            y = y.squeeze(-1)
        classes = output.shape[_class_axis(output, y, self.name)]
        bad = ((y < 0) | (y >= classes)) & (y != self.ignore_index)
        if bool(bad.any()):
            raise ValueError(
                f"class numbers must lie in 0 … {classes - 1} (the model has {classes} outputs), "
                f"got {y[bad].flatten()[0].item()}"
            )
        if self.weight is not None and len(self.weight) != classes:
            raise ValueError(f"{len(self.weight)} class weights do not fit the model's {classes} outputs")
        return y

    def _check_shares(self, output: Tensor, y: Tensor) -> None:
        if y.shape != output.shape:
            raise ValueError(
                f"loss {self.name!r} with float targets needs class probabilities of shape "
                f"{tuple(output.shape)}, got {tuple(y.shape)}; class numbers must be integers"
            )
        if not bool(torch.isfinite(y).all()):
            raise ValueError("the targets contain NaN or infinite values; remove those examples")

    def check_inputs(self, inputs: Mapping[str, Any], target: Any) -> None:
        tokens = inputs.get("input_ids")
        if not isinstance(tokens, Tensor) or not isinstance(target, Tensor) or target.ndim < 2:
            return
        counted = target != self.ignore_index
        if target.shape == tokens.shape and bool(counted.any()) and bool((target == tokens)[counted].all()):
            raise ValueError(
                "the labels are the input tokens themselves. A causal language model's own loss compares each output "
                "with the next token, and a loss here compares what stands in the same place: shift the labels first, "
                f"labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value={self.ignore_index})"
            )

    def per_example(self, output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            losses = self._tokens(output.double(), target.double())
        else:
            losses = self._tokens(output.double().movedim(_class_axis(output, target, self.name), 1), target)
        losses = losses.reshape(len(output), -1)
        if self.reduction == "none" and losses.shape[1] != 1:
            raise ValueError(
                f'{self.name} with reduction="none" gives {losses.shape[1]} losses for each example; build it with '
                'reduction="mean" or "sum"'
            )
        if self.reduction in ("sum", "none"):
            return losses.sum(dim=1)
        total = self._mass(target, losses).sum(dim=1)
        # An example of which nothing counts has weight 0 in the mean; its own loss is 0, not 0/0.
        return losses.sum(dim=1) / torch.where(total > 0, total, torch.ones_like(total))

    def _tokens(self, scores: Tensor, target: Tensor) -> Tensor:
        """Losses (n, ...) of scores (n, C, ...), already multiplied by their class weights."""
        raise NotImplementedError

    def example_weight(self, output: Tensor, target: Tensor) -> Tensor | None:
        if self.reduction in ("sum", "none"):
            return None
        if target.is_floating_point():
            # Torch divides by the number of tokens here, whatever the weights.
            tokens = target[0].numel() // target.shape[1]
            return None if self.reduction == "example" else torch.full((len(target),), float(tokens))
        flat = target.reshape(len(target), -1)
        mass = self._mass(flat, flat).sum(dim=1)
        if self.reduction == "mean":
            return mass
        counted = (flat != self.ignore_index).sum(dim=1)
        return mass / counted.clamp(min=1)

    def _mass(self, target: Tensor, losses: Tensor) -> Tensor:
        if target.is_floating_point():
            return torch.ones_like(losses)
        counted = (target != self.ignore_index).reshape(losses.shape)
        if self.weight is None:
            return counted.double()
        weight = self.weight.to(target.device).double()
        return torch.where(counted, weight[target.clamp(min=0)].reshape(losses.shape), 0.0)

    def _weight_like(self, scores: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight.to(scores.device).double()

    def magnitude(self, output: Tensor, target: Tensor, losses: Tensor) -> Tensor:
        # A log-sum-exp less a score: both as large as the largest score, however small their difference.
        flat = output.detach().double().abs().reshape(len(output), -1)
        heaviest = 1.0 if self.weight is None else float(self.weight.detach().abs().max())
        tokens = 1.0 if self.reduction not in ("sum", "none") else flat.shape[1]
        shares = target.abs().sum(dim=1).reshape(len(target), -1).amax(dim=1) if target.is_floating_point() else 1.0
        return losses.detach().abs() + 2 * heaviest * tokens * shares * flat.amax(dim=1)

    def hits(self, output: Tensor, target: Tensor) -> Tensor | None:
        if target.is_floating_point() or output.ndim != 2:
            return None
        return output.argmax(dim=-1) == target


@dataclass(frozen=True, eq=False)
class CrossEntropy(ClassLoss):
    """Softmax cross-entropy as torch.nn.CrossEntropyLoss; targets are class numbers, or shares."""

    label_smoothing: float = 0.0

    @property
    def name(self) -> str:
        return "cross_entropy"

    def _tokens(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            scores,
            target,
            weight=self._weight_like(scores),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def _mass(self, target: Tensor, losses: Tensor) -> Tensor:
        mass = super()._mass(target, losses)
        if target.is_floating_point() or self.weight is None or not self.label_smoothing:
            return mass
        # Torch adds the smoothed part of such a target's loss, and divides by none of it: no mean has weight 0 for it.
        lost = (target != self.ignore_index).reshape(losses.shape) & (mass == 0)
        return torch.where(lost, _FAINT * float(self.weight.abs().max()), mass)

    def class_shares(self, target: Tensor, classes: int) -> Tensor | None:
        whole = target.is_floating_point()
        if target.ndim != (2 if whole else 1) or (whole and bool((target < 0).any())):
            return None
        counted = torch.ones(len(target), dtype=torch.bool, device=target.device)
        shares = target.double()
        if not whole:
            counted = target != self.ignore_index
            shares = F.one_hot(torch.where(counted, target, 0), classes).double()
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.weight is not None:
            weight = self.weight.to(target.device).double()
            if bool((weight < 0).any()):
                return None
            shares = shares * weight
        shares = shares * counted[:, None]
        if self.reduction in ("sum", "none"):
            return shares
        total = self._mass(target, shares[:, 0])
        return shares / torch.where(total > 0, total, 1.0)[:, None]

    def score_terms(self, weight: Tensor, bias: Tensor | None, target: Tensor) -> list[ScoreTerm] | None:
        # Two classes: (t0 + t1) log(e^{z0} + e^{z1}) − t·z is t0 + t1 times the logistic loss of z1 − z0 with target
        # t1 / (t0 + t1). Shares that were rounded, in float32 say, do not add up to 1.
        if len(weight) != 2 or self.weight is not None or bool((target == self.ignore_index).any()):
            return None
        if target.is_floating_point():
            if target.ndim != 2 or bool((target < 0).any()):
                return None
            shares = target.double()
        elif target.ndim == 1:
            shares = F.one_hot(target, 2).double()
        else:
            return None
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / 2
        mass = shares.sum(dim=1)
        share = torch.where(mass > 0, shares[:, 1] / torch.where(mass > 0, mass, 1.0), 0.0)
        w, b = weight.double(), None if bias is None else bias.double()
        difference, bias_size = (None, None) if b is None else (b[1] - b[0], b.detach().abs().sum())
        return [ScoreTerm(w[1] - w[0], difference, share, "logistic", mass, w.detach().abs().sum(dim=0), bias_size)]


@dataclass(frozen=True, eq=False)
class NegativeLogLikelihood(ClassLoss):
    """torch.nn.NLLLoss: minus the log-probability, which the model returns, of each target class."""

    @property
    def name(self) -> str:
        return "NLLLoss"

    def _check_shares(self, output: Tensor, y: Tensor) -> None:
        raise ValueError(f"loss {self.name!r} needs integer class numbers, got {y.dtype}")

    def _tokens(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(
            scores, target, weight=self._weight_like(scores), ignore_index=self.ignore_index, reduction="none"
        )


def _class_axis(output: Tensor, target: Tensor, name: str) -> int:
    """Axis of the classes: 1 as torch has it, or the last as language models have it."""
    if output.shape[:1] + output.shape[2:] == target.shape:
        return 1
    if output.shape[:-1] == target.shape:
        return -1
    raise ValueError(
        f"loss {name!r}: outputs {tuple(output.shape)} and targets {tuple(target.shape)} do not fit; for "
        f"outputs (n, C, ...) or (n, ..., C) the targets are class numbers of shape (n, ...)"
    )
