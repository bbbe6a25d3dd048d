"""Loss modules of torch.nn, meant as torch means them: options, weights and reduction.

The module is run in float64 with reduction="none", so that each example has its own losses; what its "mean" divides by
becomes the examples' weights. So the value is the number torch would give for the whole data set in one batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from allmasks.expect.class_losses import CrossEntropy, NegativeLogLikelihood
from allmasks.expect.loss import ModelLoss, log_one_plus_exp
from allmasks.over_masks.last_layer import ScoreTerm

__all__ = ["TorchLoss", "torch_loss"]


@dataclass(frozen=True, eq=False)
class TorchLoss(ModelLoss):
    """A loss module of torch.nn: `module` has reduction="none" and float64 weights, `reduction` is what it came with.

    "mean" divides by the number of losses, of which an example may have several; "batchmean" by that of examples.
    """

    broadcasts: ClassVar[bool] = False
    module: nn.Module = field(default_factory=nn.MSELoss)
    reduction: str = "mean"
    outputs: int = 1

    @property
    def name(self) -> str:
        return type(self.module).__name__

    @property
    def n_outputs(self) -> int:  # type: ignore[override]
        return self.outputs

    @property
    def needs_target(self) -> bool:  # type: ignore[override]
        return self.outputs != 3

    @property
    def normalized(self) -> bool:
        return self.reduction != "sum"

    def check(self, output: Any, target: Any) -> Any:
        if self.outputs == 3:
            if target is not None:
                raise ValueError(f"{self.name} compares the model's three outputs; pass y=None")
            return None
        if isinstance(self.module, nn.CTCLoss):
            return _ctc_target(output, target)
        like = output if isinstance(output, Tensor) else output[0]
        y = torch.as_tensor(target, device=like.device)
        needed = _target_shape(self.module, like)
        if y.shape != needed:
            raise ValueError(
                f"{self.name} of outputs {tuple(like.shape)} needs targets of shape {tuple(needed)}, got "
                f"{tuple(y.shape)}; another shape would be broadcast"
            )
        if y.is_floating_point() and not bool(torch.isfinite(y).all()):
            raise ValueError("the targets contain NaN or infinite values; remove those examples")
        self._check_weights(like)
        integers = isinstance(self.module, nn.MultiLabelMarginLoss | nn.MultiMarginLoss)
        if integers and y.is_floating_point():
            raise ValueError(f"{self.name} needs integer targets, got {y.dtype}")
        return y.long() if integers else y.double()

    def _check_weights(self, like: Tensor) -> None:
        for name, weight in self.module.named_buffers():
            if weight.ndim >= like.ndim and weight.shape[0] != 1:
                raise ValueError(
                    f"{self.name} has a {name} of shape {tuple(weight.shape)}, one for each place in a batch, which "
                    "says nothing of a data set; pass sample_weight="
                )

    def per_example(self, output: Any, target: Any) -> Tensor:
        losses = self._losses(output, target)
        each = losses[0].numel()
        if self.reduction == "none" and each != 1:
            raise ValueError(
                f'{self.name} with reduction="none" gives {each} losses for each example; build it with '
                'reduction="mean" or "sum"'
            )
        total = losses.reshape(len(losses), -1).sum(dim=1)
        if self.reduction != "mean":
            return total
        if isinstance(self.module, nn.CTCLoss):
            return total / target[2].clamp(min=1)
        return total / max(each, 1)

    def example_weight(self, output: Any, target: Any) -> Tensor | None:
        """Losses an example has: all the same where batches are of one shape, else what torch's mean is over."""
        if self.reduction != "mean" or isinstance(self.module, nn.CTCLoss):
            return None
        losses = self._losses(output, target)
        return torch.full((len(losses),), float(losses[0].numel()), dtype=torch.float64, device=losses.device)

    def magnitude(self, output: Any, target: Any, losses: Tensor) -> Tensor:
        # For whichever of these losses: products of outputs and targets, and t log t of targets.
        parts = [z.detach().double() for z in (output if isinstance(output, tuple) else (output,))]
        size = sum(1 + z.abs().reshape(len(z), -1).amax(dim=1) for z in parts)
        if isinstance(target, Tensor):
            y = target.double().abs().reshape(len(target), -1).amax(dim=1)
            size = size * (1 + y) * (1 + torch.log1p(y))
        heaviest = max((float(w.abs().max()) for w in self.module.buffers()), default=1.0)
        each = self._losses(output, target)[0].numel() if self.reduction != "mean" else 1
        return losses.detach().abs() + max(heaviest, 1.0) * each * size

    def _losses(self, output: Any, target: Any) -> Tensor:
        """(n, ...) float64 losses of a batch."""
        output = tree_map_only(Tensor, torch.Tensor.double, output)
        losses = _call(self.module, output, target)
        n = len(output if isinstance(output, Tensor) else output[0])
        if losses.ndim == 0 or len(losses) != n:
            raise ValueError(
                f"{self.name} of outputs {_shapes(output)} gives losses of shape {tuple(losses.shape)}, not some for "
                f"each of {n} examples; it needs outputs of shape (n, …)"
            )
        return losses

    def score_terms(self, weight: Tensor, bias: Tensor | None, target: Any) -> list[ScoreTerm] | None:
        found = _scores(self.module, target)
        if found is None:
            return None
        loss, shares, mass = found
        k = len(weight)
        each = 1.0 / k if self.reduction == "mean" else 1.0
        shares, mass = shares.reshape(-1, k), (mass * each).expand_as(target).reshape(-1, k)
        return [
            ScoreTerm(weight[i], None if bias is None else bias[i], shares[:, i], loss, mass[:, i]) for i in range(k)
        ]

    def hits(self, output: Tensor, target: Tensor) -> Tensor | None:
        if not isinstance(self.module, nn.BCEWithLogitsLoss) or bool(((target != 0) & (target != 1)).any()):
            return None
        return (output > 0) == (target > 0.5)


def _call(module: nn.Module, output: Any, target: Any) -> Tensor:
    result: Tensor
    if isinstance(module, nn.GaussianNLLLoss):
        result = module(output[0], target, output[1])
    elif isinstance(module, nn.CTCLoss):
        result = module(output.movedim(1, 0), *target)
    elif isinstance(module, nn.SoftMarginLoss):
        return log_one_plus_exp(-target * output)  # torch's own overflows
    elif isinstance(output, tuple):
        result = module(*output) if target is None else module(*output, target)
    else:
        result = module(output, target)
    return result


def _shapes(output: Any) -> str:
    parts = output if isinstance(output, tuple) else (output,)
    return ", ".join(str(tuple(part.shape)) for part in parts)


def _target_shape(module: nn.Module, like: Tensor) -> torch.Size:
    rows = isinstance(module, nn.MultiMarginLoss | nn.CosineEmbeddingLoss)
    wide = isinstance(module, nn.MultiLabelMarginLoss | nn.MultiMarginLoss | nn.MultiLabelSoftMarginLoss)
    if (wide or isinstance(module, nn.CosineEmbeddingLoss)) and like.ndim < 2:
        raise ValueError(f"{type(module).__name__} needs outputs (n, classes), got {tuple(like.shape)}")
    return like.shape[:1] if rows else like.shape


def _ctc_target(output: Tensor, target: Any) -> tuple[Tensor, Tensor, Tensor]:
    if output.ndim != 3 or not isinstance(target, tuple | list) or len(target) != 3:
        raise ValueError(
            "CTCLoss needs log-probabilities of three axes with the examples along one of them, and "
            f"y=(targets (n, S), input_lengths (n,), target_lengths (n,)); got outputs {_shapes(output)}"
        )
    texts, lengths, own = (torch.as_tensor(part, device=output.device).long() for part in target)
    if texts.ndim != 2:
        raise ValueError(
            f"CTCLoss needs padded targets (n, S), got {tuple(texts.shape)}: concatenated ones have no rows"
        )
    return texts, lengths, own


def _scores(module: nn.Module, y: Any) -> tuple[str, Tensor, Tensor] | None:
    """The score loss that each output obeys by itself, its target, and what it is multiplied by; None for another."""
    if isinstance(module, nn.MSELoss):
        return "squared_error", y, torch.ones_like(y)
    if isinstance(module, nn.PoissonNLLLoss) and module.log_input and not module.full and not bool((y < 0).any()):
        return "poisson", y, torch.ones_like(y)
    if isinstance(module, nn.SoftMarginLoss) and bool((y.abs() == 1).all()):
        return "logistic", (y + 1) / 2, torch.ones_like(y)
    if isinstance(module, nn.BCEWithLogitsLoss) and bool(((y >= 0) & (y <= 1)).all()):
        # c y log(1 + e^-z) + (1 - y) log(1 + e^z) is c y + 1 - y times the logistic loss with target
        # c y / (c y + 1 - y).
        positive = y if module.pos_weight is None else module.pos_weight.to(y) * y
        mass = positive + 1 - y
        weight = torch.ones(()) if module.weight is None else module.weight
        if bool((mass <= 0).any()) or bool((weight < 0).any()):
            return None
        return "logistic", positive / mass, mass * weight.to(y)
    return None


_OF_ONE: tuple[type[nn.Module], ...] = (
    nn.L1Loss,
    nn.MSELoss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.KLDivLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
    nn.MultiLabelSoftMarginLoss,
    nn.HingeEmbeddingLoss,
    nn.MultiLabelMarginLoss,
    nn.MultiMarginLoss,
    nn.CTCLoss,
)
_OF_TWO: tuple[type[nn.Module], ...] = (nn.GaussianNLLLoss, nn.CosineEmbeddingLoss, nn.MarginRankingLoss)
_OF_THREE: tuple[type[nn.Module], ...] = (nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss)
_IN_NATS = (
    nn.KLDivLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
    nn.GaussianNLLLoss,
    nn.CTCLoss,
)


def torch_loss(loss: Any) -> ModelLoss | None:
    """A loss module of torch.nn as a value; None for anything else.

    A subclass that computes something else in a forward of its own is no loss of torch's.

    >>> torch_loss(nn.MSELoss(reduction="sum")).normalized, torch_loss(len)
    (False, None)

    Raises
    ------
    ValueError : a loss with parameters of its own, which is a layer of the model too.
    """
    layers = (nn.LinearCrossEntropyLoss, nn.AdaptiveLogSoftmaxWithLoss)
    if isinstance(loss, layers):
        raise ValueError(
            f"{type(loss).__name__} has weights of its own, which are no part of the model; end the model with that "
            'layer, and pass "cross_entropy" or a callable (output, y) -> (n,) losses'
        )
    if not isinstance(loss, nn.Module):
        return None
    own: Any = loss
    if _is(loss, nn.CrossEntropyLoss):
        return CrossEntropy(
            weight=own.weight,
            ignore_index=own.ignore_index,
            reduction=own.reduction,
            label_smoothing=float(own.label_smoothing),
        )
    if _is(loss, nn.NLLLoss):
        return NegativeLogLikelihood(weight=own.weight, ignore_index=own.ignore_index, reduction=own.reduction)
    kind = next((kind for kind in (*_OF_ONE, *_OF_TWO, *_OF_THREE) if _is(loss, kind)), None)
    if kind is None:
        return None
    units = "target units squared" if kind is nn.MSELoss else "nats" if kind in _IN_NATS else "loss"
    outputs = 3 if kind in _OF_THREE else 2 if kind in _OF_TWO else 1
    return TorchLoss(units=units, module=_elementwise(loss), reduction=str(loss.reduction), outputs=outputs)


def _is(loss: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(loss, kind) and type(loss).forward is kind.forward and type(loss).__call__ is kind.__call__


def _elementwise(loss: nn.Module) -> nn.Module:
    """A copy in float64 that gives every loss by itself."""
    own = copy.copy(loss)
    own._buffers = {k: v if v is None else v.detach().double() for k, v in loss._buffers.items()}
    own.reduction = "none"  # type: ignore[assignment]
    return own
