"""Models sharded by FSDP: every pass gathers parameters from all ranks, so all ranks make the same passes together.

While a model is looked at, all ranks look at the first rank's examples, and so do the same by themselves. Afterwards
`Group.turn` counts every rank into each pass, and whoever has none to make runs the first rank's examples idly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from allmasks.ranks.groups import Group
from allmasks.sites import borrowed, hold_masks, is_sharded
from allmasks.sites.sharding import reshard

if TYPE_CHECKING:
    from allmasks.over_masks.data import Batch, Data
    from allmasks.over_masks.forward import Forward

__all__ = ["keep_in_step", "same_batch", "without_gradient"]


def same_batch(model: nn.Module, group: Group, batch: Batch, data: Data) -> Batch:
    """This rank's batch; the first rank's, for a sharded model."""
    if not is_sharded(model):
        return batch
    on_cpu = tree_map_only(Tensor, lambda t: t.detach().cpu(), (batch.args, batch.kwargs, batch.target))
    args, kwargs, target = group.of_first(on_cpu)
    examples = group.of_first(batch.examples)
    args, kwargs, target = tree_map_only(Tensor, lambda t: t.to(data.device), (args, kwargs, target))
    return replace(batch, args=args, kwargs=kwargs, target=target, examples=examples)


def keep_in_step(group: Group, forward: Forward, batch: Batch) -> bool:
    """Have all ranks make their passes together, if the model is sharded; returns whether masks may be batched.

    Parameters
    ----------
    forward : under masks of all random sites.
    batch : what idle ranks run, the same on every rank.
    """
    model = forward.model
    if not is_sharded(model):
        return forward.batched

    def idle() -> None:
        args, kwargs = tree_map_only(Tensor, torch.clone, (batch.args, batch.kwargs))
        with torch.no_grad(), borrowed(model), hold_masks(model, lambda call: None):
            model(*args, **kwargs)

    batched = forward.batched and group.run(lambda: forward.can_be_batched(batch))
    device = next((t.device for t in model.parameters()), None)
    # The outermost part would stay gathered, and so not be gathered again, on the ranks that go on but not on others.
    group.keep_in_step(idle, lambda: reshard(model), device)
    return batched


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, None]:
        raise RuntimeError(
            "gradients do not flow through a model that is sharded by FSDP: its backward pass would have to gather "
            "parameters once for each chunk of masks. Use DistributedDataParallel, or a plain copy of the model"
        )


def without_gradient(values: Tensor) -> Tensor:
    """The values, whose backward says why there is none; as they are where gradients are off anyway."""
    return _WithoutGradient.apply(values, torch.ones((), requires_grad=True)) if torch.is_grad_enabled() else values
