"""A thinned chain without its dropped units: columns and rows of its Linears cut out, scales and constants moved.

A unit that is dropped is a constant from there to the next Linear, and goes into that one's bias. A unit that is kept
is scaled by 1 / (1 − p): past functions f with f(s·x) = s·f(x) for s > 0 the factor moves on into the next Linear;
before any other it stays where it is, as a layer of its own.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from allmasks.sites import DropoutSite

__all__ = ["Scale", "Select", "check_same", "without_dropped"]


class Select(nn.Module):
    """Some of the inputs' features."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.index)


class Scale(nn.Module):
    """Features times fixed factors."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


_HOMOGENEOUS = (nn.Identity, nn.ReLU, nn.LeakyReLU)
_UNITWISE = (
    *_HOMOGENEOUS, nn.ReLU6, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Tanh,
    nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
)  # fmt: skip
"""Layers whose output unit j is a function of input unit j alone, without parameters of its own."""

_KNOWN = (nn.Linear, nn.BatchNorm1d, nn.Flatten, nn.modules.dropout._DropoutNd, *_UNITWISE)


_Item = tuple[str | None, nn.Module]
"""A layer, and the name of the site whose mask lies on it, if there is one."""


def without_dropped(model: nn.Module, sites: Mapping[str, DropoutSite], kept: Mapping[str, Tensor]) -> nn.Sequential:
    """The same function of the inputs as the chain under this mask.

    Raises
    ------
    ValueError : naming what is in the way.
    """
    items = list(_chain(model, sites))
    missed = sites.keys() - {name for name, _ in items}
    if missed:
        raise ValueError(f"the units dropped by {', '.join(sorted(missed))} are not those of a layer of the chain")
    made: list[nn.Module] = []
    rest: list[_Item] = []
    carried = _Carried()
    linear: nn.Linear | None = None
    for name, layer in items:
        if isinstance(layer, nn.Linear):
            carried = _segment(made, linear, rest, carried, sites, kept)
            linear, rest = layer, []
        else:
            rest.append((name, layer))
    for name, _ in rest:
        if name is not None:
            raise _cannot(sites[name])
    _segment(made, linear, rest, carried, sites, kept)
    return nn.Sequential(*made).eval()


@dataclass
class _Carried:
    """What a Linear is to know of what comes before it: which inputs are left, times what, and what the others add."""

    alive: Tensor | None = None
    scale: float = 1.0
    constants: Tensor | None = None


def _segment(
    made: list[nn.Module],
    linear: nn.Linear | None,
    rest: list[_Item],
    before: _Carried,
    sites: Mapping[str, DropoutSite],
    kept: Mapping[str, Tensor],
) -> _Carried:
    """Add a Linear (none at the chain's beginning) and what follows it up to the next one."""
    names = [name for name, _ in rest if name is not None]
    if linear is None:
        rest = _flattened(made, rest)
    alive = torch.stack([kept[name].bool() for name in names]).all(dim=0) if names else None
    if linear is not None:
        made.append(_sliced(linear, alive, before))
    elif alive is not None:
        made.append(Select(alive.nonzero()[:, 0]))
    scale, value = 1.0, None if alive is None else torch.zeros(len(alive), dtype=torch.float64)
    for name, layer in rest:
        if name is not None:
            p = sites[name].p
            scale /= 1.0 - p
            value = torch.where(kept[name].bool(), value / (1.0 - p), 0.0) if value is not None else None
            continue
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            continue  # its rate is 0
        if scale != 1.0 and not isinstance(layer, _HOMOGENEOUS):
            made.append(Scale(torch.tensor(scale, dtype=torch.float64)))
            scale = 1.0
        if value is not None:
            # Two rows: a normalisation without statistics of its own refuses one.
            value = copy.deepcopy(layer)(value.expand(2, -1).clone())[0]
        if isinstance(layer, nn.BatchNorm1d) and alive is not None:
            if bool(alive.any()):  # of no features it would make none, but refuses to
                made.append(_sliced_norm(layer, alive))
        else:
            made.append(copy.deepcopy(layer))
    return _Carried(alive, scale, value)


def _flattened(made: list[nn.Module], rest: list[_Item]) -> list[_Item]:
    """The layers before the first Linear from the last Flatten on; a mask of features before it makes it nothing."""
    last = max((i for i, (_, layer) in enumerate(rest) if isinstance(layer, nn.Flatten)), default=-1)
    if any(name is not None for name, _ in rest[: last + 1]):
        return [item for item in rest if not isinstance(item[1], nn.Flatten)]
    made += [copy.deepcopy(layer) for _, layer in rest[: last + 1]]
    return rest[last + 1 :]


# -- what a chain is -------------------------------------------------------------------------------------------------


def _chain(model: nn.Module, sites: Mapping[str, DropoutSite]) -> Iterator[_Item]:
    """The layers in the order of their calls, one that is used twice twice."""
    paths = {id(module): path for path, module in model.named_modules()}
    calls: Counter[str] = Counter()
    after_linear = False
    for layer in _layers(model, paths, ""):
        path = paths[id(layer)]
        after_linear |= isinstance(layer, nn.Linear)
        if not isinstance(layer, _KNOWN) or (isinstance(layer, nn.Flatten) and after_linear):
            raise ValueError(
                f"layer {path} ({type(layer).__name__}) may mix units, so dropped ones cannot be removed around it; "
                "Linear, dropout, BatchNorm1d and element-wise activations can"
            )
        _refuse_changed(layer, path)
        calls[path] += 1
        name = path if calls[path] == 1 else f"{path}#{calls[path]}"
        if name in sites:
            if sites[name].kind != "dropout" or len(sites[name].shape) != 1:
                raise _cannot(sites[name])
            yield name, layer
        else:
            yield None, layer


def _layers(model: nn.Module, paths: Mapping[int, str], path: str) -> Iterator[nn.Module]:
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            "units can be removed from a chain, nn.Sequential, of Linear, dropout and unit-wise layers; "
            f"{type(model).__name__} is none"
        )
    _refuse_changed(model, path or "the model")
    # Not `named_children()`, which tells of a module that is used twice once.
    for layer in model._modules.values():
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer, paths, paths[id(layer)])
        elif layer is not None:
            yield layer


def _refuse_changed(layer: nn.Module, path: str) -> None:
    """Refuse a layer that computes something else than its class in torch does."""
    kind = type(layer)
    own = kind.forward.__module__.startswith(("torch.nn.", "allmasks.nn.")) and "forward" not in vars(layer)
    if not own or kind.__call__ is not nn.Module.__call__:
        raise ValueError(
            f"{path} ({kind.__name__}) has a forward of its own, which need not treat its units one by one; units "
            "can be removed around torch's own layers only"
        )
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError(
            f"{path} ({kind.__name__}) has forward hooks, which may change what it computes (weight_norm and "
            "spectral_norm of the old kind are hooks too); remove them first"
        )


def _cannot(site: DropoutSite) -> ValueError:
    return ValueError(
        f"the units dropped by {site.name} ({site.kind}, mask {site.shape}) cannot be removed: only masks of "
        "whole features between Linear layers can"
    )


# -- cutting ---------------------------------------------------------------------------------------------------------


def _sliced(layer: nn.Linear, rows: Tensor | None, before: _Carried) -> nn.Linear:
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    if before.alive is not None and before.constants is not None:
        dead = ~before.alive
        constant = weight[:, dead] @ before.constants[dead].to(weight)
        if bias is not None or bool(constant.any()):
            bias = constant if bias is None else bias + constant
        weight = weight[:, before.alive]
    weight = weight * before.scale
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    # Not initialised as Linears are: that would draw from the global generator, and warn where nothing is left.
    small = cast(nn.Linear, nn.utils.skip_init(nn.Linear, 1, 1, bias=bias is not None))
    small.out_features, small.in_features = weight.shape
    small.weight = nn.Parameter(weight.clone())
    if bias is not None:
        small.bias = nn.Parameter(bias.clone())
    return small


def _sliced_norm(layer: nn.Module, alive: Tensor) -> nn.Module:
    small: Any = copy.deepcopy(layer)
    small.num_features = int(alive.sum())
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(small, name, nn.Parameter(getattr(layer, name).detach()[alive].clone()))
    for name in ("running_mean", "running_var"):
        if getattr(layer, name) is not None:
            setattr(small, name, getattr(layer, name)[alive].clone())
    return small


# -- the check -------------------------------------------------------------------------------------------------------


def check_same(whole: nn.Module, small: nn.Sequential, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a smaller network that is not the thinned one on these inputs; both in double precision.

    The bound is relative to the terms that the last Linear adds up, since they may cancel.
    """
    with torch.no_grad():
        args, kwargs = tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
        wanted = whole(*(arg.clone() for arg in args), **{name: leaf.clone() for name, leaf in kwargs.items()})
        h = next(iter((*args, *kwargs.values()))).clone()
        terms = torch.ones((), dtype=torch.float64)
        for layer in small:
            if isinstance(layer, nn.Linear):
                bias = 0.0 if layer.bias is None else layer.bias.abs()
                added = h.abs() @ layer.weight.abs().T + bias
                terms = added.max() if added.numel() else terms
            h = layer(h)
    off = (h - wanted).abs().nan_to_num(0.0, 0.0)
    if h.shape != wanted.shape or not bool((off <= 1e-9 * terms).all()):
        raise ValueError(
            f"the smaller network is not the thinned one: on the inputs given they differ by {float(off.max()):.3g}. "
            "Something in the model does more than its layers say; keep the thinned network"
        )
