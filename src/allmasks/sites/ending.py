"""What a model ends with: a Linear straight after a site, or a link that makes probabilities of scores."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from allmasks.sites.probe import Inputs
from allmasks.sites.sharding import is_sharded
from allmasks.sites.site import DropoutSite
from allmasks.sites.state import version_of
from allmasks.sites.trace import Trace, linear_arguments, output_tensors, trace

__all__ = ["LastLayer", "last_linear_of", "link_of"]


@dataclass(frozen=True)
class LastLayer:
    """The site whose output goes straight into a Linear that is the model's output."""

    site: str
    weight: Tensor
    bias: Tensor | None


def link_of(seen: Trace, extract: Callable[[Any], Any]) -> str | None:
    """What the output comes straight from, by the identity of the tensor."""
    leaves = output_tensors(extract(seen.output))
    return next((name for name, value in seen.links if leaves and value is leaves[0]), None)


def last_linear_of(
    model: nn.Module,
    given: Inputs,
    seen: Trace,
    sites: tuple[DropoutSite, ...],
    extract: Callable[[Any], Any],
    awake: frozenset[str],
    written: list[Tensor],
) -> LastLayer | None:
    """The site and Linear that the model ends with, by the identity of the objects that passed through.

    The same object came out of the site and went into the Linear, and what came out of that is the output, none of
    them overwritten in between (tensors count their writes). So the output is that Linear of that site: no guess.
    """
    outputs = output_tensors(extract(seen.output))
    if len(outputs) != 1:
        return None
    output, sharded = outputs[0], is_sharded(model)
    for k, use in enumerate(seen.linears):
        same = output is use.result or (
            output.data_ptr() == use.result.data_ptr()
            and output.numel() == use.result.numel() > 0
            and output.is_contiguous()
            and use.result.is_contiguous()
            and output.shape in (use.result.shape, use.result.shape[:-1])
        )
        if not same or version_of(output) != use.result_version or use.input.ndim != 2:
            continue
        if any(use.weight is tensor or use.bias is tensor for tensor in written):
            return None  # outside a pass it is not what the pass made of it
        if not (use.owned if sharded else any(use.weight is parameter for parameter in model.parameters())):
            continue
        for site in sites:
            past = seen.seen[site.name]
            if past.result is use.input and past.version == use.input_version:
                plain = site.kind == "dropout" and not site.merged and site.wakes is None and site.controllable
                # Each row has bits of its own, whether rows are examples or one mask covers them all.
                by_row = site.shape == tuple(use.input.shape) and len(output) == len(use.input)
                if site.batch_dim == 0:
                    by_row = site.shape == (use.weight.shape[1],)
                if not (plain and by_row and (site.joint or site.batch_dim == 0)):
                    return None
                weight, bias = _gathered(model, given, awake, k) if sharded else (use.weight, use.bias)
                return LastLayer(site.name, weight, bias)
    return None


def _gathered(model: nn.Module, given: Inputs, awake: frozenset[str], k: int) -> tuple[Tensor, Tensor | None]:
    """Copies of the weight and bias of call k of F.linear, taken in a pass, since they are whole only then."""
    found: list[tuple[Tensor, Tensor | None]] = []
    calls = itertools.count()

    def copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
        if func is F.linear and next(calls) == k:
            _, weight, bias = linear_arguments(args, kwargs)
            found.append((weight.detach().clone(), None if bias is None else bias.detach().clone()))
        return value

    trace(model, given, train=False, wake=awake, watch=copy)
    return found[0]
