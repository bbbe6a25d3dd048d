"""From a model's output to what is averaged: the output itself, its sigmoid, or its softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

__all__ = ["TASKS", "Task", "main_output", "settle_task"]

TASKS = ("regression", "binary", "multiclass")


def main_output(output: Any) -> Any:
    """What predictions are made of: `.logits` or "logits" where there are some, else the output as it is."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Mapping) and isinstance(output.get("logits"), Tensor):
        return output["logits"]
    return output


@dataclass(frozen=True)
class Task:
    """How an output becomes a prediction.

    Attributes
    ----------
    class_dim : for multiclass, the axis of the classes, counted from the end of an output whose example axis comes
        first.
    already : whether the model returns probabilities itself.
    """

    name: str
    class_dim: int = -1
    already: bool = False

    @property
    def classifies(self) -> bool:
        return self.name != "regression"

    def value(self, output: Tensor) -> Tensor:
        """The prediction in float64; examples and everything before keep their axes."""
        z = output.double()
        if self.name == "regression" or self.already:
            return z
        return torch.sigmoid(z) if self.name == "binary" else torch.softmax(z, dim=self.class_dim)

    def entropy(self, value: Tensor) -> Tensor:
        """Entropy in nats of probabilities: for multiclass over the class axis, for binary of each output."""
        if self.name == "binary":
            # 1 − p is rounded; log(1 − p) of a small p is not.
            return torch.special.entr(value) - torch.special.xlog1py(1 - value, -value)
        return torch.special.entr(value).sum(dim=self.class_dim)

    def value_and_entropy(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction, and its entropy from the output itself: from probabilities that round to 1 it would be 0."""
        if not self.classifies:
            return self.value(output), None
        if self.already:
            value = self.value(output)
            return value, self.entropy(value)
        z = output.double()
        if self.name == "binary":
            tail = torch.exp(-z.abs())
            return torch.sigmoid(z), tail.log1p() + z.abs() * tail / (1 + tail)
        gap, log_rest = self._below_largest(z)
        value = (gap - log_rest).exp()
        return value, log_rest.squeeze(self.class_dim) - (value * gap).sum(dim=self.class_dim)

    def _below_largest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits less the largest, and log Σ e^gap to its own digits where the others' sum is far below 1."""
        largest, where = z.max(dim=self.class_dim, keepdim=True)
        gap = z - largest
        rest = gap.exp().scatter(self.class_dim, where, 0.0).sum(dim=self.class_dim, keepdim=True)
        return gap, rest.log1p()

    def of_target(self, values: Tensor, y: Tensor) -> Tensor:
        """Multiclass: each target's own entry along the class axis of (…, n, *rest)."""
        classes_last = values.movedim(self.class_dim, -1)
        return classes_last.gather(-1, y.long().expand(classes_last.shape[:-1])[..., None])[..., 0]

    def log_likelihoods(self, output: Tensor, y: Tensor, precision: float | None) -> Tensor:
        """log p(y | output) of each entry of outputs (…, n, *rest); multiclass: without the class axis."""
        z = output.double()
        if self.name == "regression":
            assert precision is not None
            return 0.5 * (math.log(precision) - _LOG_TWO_PI) - 0.5 * precision * (z - y.double()) ** 2
        if self.name == "binary":
            if self.already:
                return torch.where(y.bool(), z, 1 - z).clamp(0.0, 1.0).log()
            # log σ(±z), finite however large z is.
            return F.logsigmoid(torch.where(y.bool(), z, -z))
        if self.already:
            return self.of_target(z, y).clamp(0.0, 1.0).log()
        gap, log_rest = self._below_largest(z)
        return self.of_target(gap, y) - log_rest.squeeze(self.class_dim)

    def check_target(self, y: Any, output: Tensor) -> Tensor:
        """y as a tensor that fits the outputs (n, *rest), or a ValueError that says what is needed."""
        target = torch.as_tensor(y, device=output.device)
        if self.name == "multiclass":
            shape = list(output.shape)
            classes = shape.pop(self.class_dim)
            if target.shape != torch.Size(shape) or target.is_floating_point():
                raise ValueError(
                    f"y must be class numbers of shape {tuple(shape)}, got {target.dtype} of shape "
                    f"{tuple(target.shape)}"
                )
            if bool(((target < 0) | (target >= classes)).any()):
                raise ValueError(f"class numbers must lie in 0 … {classes - 1} (the model has {classes} outputs)")
            return target
        if target.numel() != output.numel() or len(target) != len(output):
            raise ValueError(f"y must have the output's shape {tuple(output.shape)}, got {tuple(target.shape)}")
        target = target.reshape(output.shape)
        if self.name == "binary" and bool(((target != 0) & (target != 1)).any()):
            raise ValueError("y must be 0 or 1 for binary predictions")
        return target


_LOG_TWO_PI = 1.8378770664093453


def settle_task(
    task: str | None, output: Any, *, link: str | None, from_logits: bool, class_dim: int | None
) -> tuple[Task, tuple[str, ...]]:
    """The task given, or inferred from one output (its example axis first); and what was inferred, as a note."""
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(map(repr, TASKS))} or None, got {task!r}")
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    if not leaves:
        raise TypeError(f"the model must return a tensor, or something that holds tensors; got {type(output).__name__}")
    for leaf in leaves:
        if not leaf.is_floating_point():
            raise TypeError(
                f"the model returns {leaf.dtype} of shape {tuple(leaf.shape)}, whose mean over masks says nothing; "
                "return scores or logits, not decisions"
            )
    note: tuple[str, ...] = ()
    first = leaves[0]
    if task is None:
        task = _infer(leaves, link, from_logits)
        note = (f"Taken as {task} from the output of shape {tuple(first.shape)}; pass task= to say otherwise.",)
    if task == "regression":
        return Task("regression"), note
    already = link == ("sigmoid" if task == "binary" else "softmax")
    if task == "binary":
        return Task("binary", already=already), note
    if len(leaves) > 1:
        raise ValueError(
            f"a multiclass prediction needs one tensor of scores, the model returns {len(leaves)}; wrap it so that it "
            'returns that tensor, or pass task="regression" to average all of them as they are'
        )
    if first.ndim < 2:
        raise ValueError(f"a multiclass prediction needs outputs (n, classes, …), got {tuple(first.shape)}")
    # As torch's losses have it, except that language models put the vocabulary last.
    dim = (-1 if from_logits else 1) if class_dim is None else class_dim
    if not -first.ndim <= dim < first.ndim or dim % first.ndim == 0:
        raise ValueError(f"class_dim={class_dim} is no class axis of an output of shape {tuple(first.shape)}")
    return Task("multiclass", dim % first.ndim - first.ndim, already), note


def _infer(leaves: list[Tensor], link: str | None, from_logits: bool) -> str:
    if len(leaves) > 1:
        return "regression"
    if link == "sigmoid":
        return "binary"
    first = leaves[0]
    wide = first.ndim > 1 and first.shape[-1 if from_logits else 1] > 1
    return "multiclass" if wide or link in ("softmax", "log_softmax") else "regression"
