"""Thinned networks: a model with one mask fixed, as a module of its own; many of them as an ensemble; smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from allmasks.errors import UncontrolledRandomness
from allmasks.samplers import LatinHypercube, Sampler
from allmasks.sampling import blocks_of
from allmasks.sites import DropoutSite, hold_masks, inspect_model

__all__ = ["Select", "Thinned", "ThinnedEnsemble", "thinned"]


def thinned(
    model: nn.Module,
    x: Any,
    *,
    seed: int = 0,
    mask: int | Sequence[int] = 0,
    example_index: int = 0,
    sampler: Sampler | None = None,
    n_masks: int | None = None,
    batch_dim: int | None = None,
) -> Thinned | ThinnedEnsemble:
    """The model with one dropout mask fixed for all inputs: one thinned network (Srivastava et al. 2014).

    It is the network that `predict` and `expected_loss` run for example `example_index` under mask number `mask` of
    the same seed and sampler; so it replays what they report.

    Parameters
    ----------
    model : any module; it is copied, so that the thinned one has a life of its own.
    x : what the model is called with: a tensor, a tuple of positional or a dict of keyword inputs. A few rows do.
    seed, mask, example_index : the key of the mask; several mask numbers give an ensemble of as many networks.
    sampler : how masks are drawn; `LatinHypercube()`, as everywhere.
    n_masks : the number of masks of the run that is replayed, where it drew fewer than 256: those come in other blocks.
    batch_dim : axis of the examples in the inputs; 0 by default.

    Returns
    -------
    Thinned, whose `forward` takes what the model's takes, `kept` are the masks by site, and `smaller()` is the network
    with the dropped units really removed; or, for several masks, ThinnedEnsemble.

    Raises
    ------
    UncontrolledRandomness : if a site cannot be given masks.
    ValueError : for a mask number or seed that does not exist.

    Example
    -------
    >>> import torch, allmasks as am
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    >>> one = am.thinned(net, torch.ones(4, 3), mask=5)
    >>> small = one.smaller()
    >>> small[0].out_features == int(one.kept["2"].sum())
    True
    >>> torch.allclose(small(torch.ones(4, 3)), one(torch.ones(4, 3)))
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    numbers = [mask] if isinstance(mask, int | np.integer) else list(mask)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < 2**62:
            raise ValueError(f"mask must be a whole number from 0 on, got {number!r}")
    args, kwargs = ((), dict(x)) if isinstance(x, dict) else (tuple(x) if isinstance(x, tuple | list) else (x,), {})
    seen = inspect_model(model, args, kwargs, batch_dim=batch_dim)
    sites = tuple(site for site in seen.sites if site.p != 0)
    stuck = [site for site in sites if not site.controllable]
    if stuck:
        listed = "; ".join(f"{site.name} ({site.reason})" for site in stuck)
        raise UncontrolledRandomness(f"these dropout sites cannot be given a mask: {listed}")
    base = copy.deepcopy(model).eval()
    drawn = sampler or LatinHypercube()
    if n_masks is not None:
        drawn = blocks_of(drawn, n_masks).sampler
    members = []
    for number in numbers:
        kept = {}
        for site in sites:
            example = 0 if site.batch_dim is None else example_index
            bits = drawn.draw(seed, site.id, [number], [example], site.law.keep_prob)
            kept[site.name] = torch.from_numpy(bits[0, 0])
        members.append(Thinned(base, sites, kept, batch_dim or 0))
    return members[0] if isinstance(mask, int | np.integer) else ThinnedEnsemble(members)


class Thinned(nn.Module):
    """A model under one fixed mask. Dropped units stay dropped whichever mode it is in.

    Attributes
    ----------
    model : the network.
    kept : site name -> (units,) booleans, True = kept.
    """

    def __init__(
        self, model: nn.Module, sites: tuple[DropoutSite, ...], kept: dict[str, Tensor], batch_dim: int
    ) -> None:
        super().__init__()
        self.model = model
        self._sites = {site.name: site for site in sites}
        self._batch_dim = batch_dim
        self._buffer_names = {name: f"kept_{i}" for i, name in enumerate(kept)}
        for name, bits in kept.items():
            self.register_buffer(self._buffer_names[name], bits.reshape(self._sites[name].shape))
        self.eval()

    @property
    def kept(self) -> dict[str, Tensor]:
        """Site name -> which units are kept, in the shape of one example's mask."""
        return {name: getattr(self, buffer) for name, buffer in self._buffer_names.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns under the mask."""
        leaf = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim)
        n = leaf.shape[self._batch_dim]
        placed = {
            name: self._sites[name].place(bits.reshape(1, -1), n).to(leaf.device) for name, bits in self.kept.items()
        }
        rates = {name: site.call_rate for name, site in self._sites.items()}
        wake = frozenset(site.wakes for site in self._sites.values() if site.wakes is not None)
        with hold_masks(self.model, lambda call: placed.get(call.name), rates, wake=wake):
            return self.model(*args, **kwargs)

    def smaller(self) -> nn.Sequential:
        """The same function as a network without the dropped units; its `state_dict` is the smaller network's.

        Raises
        ------
        ValueError : unless the model is a chain (`nn.Sequential`) in which every mask lies between Linear layers,
            with nothing but functions of single units between them.
        """
        return _removed(self.model, self._sites, self.kept)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: {int(bits.sum())} of {bits.numel()} kept" for name, bits in self.kept.items())


class ThinnedEnsemble(nn.ModuleList):
    """Thinned networks of one model, which share its parameters; called, it gives the mean of their outputs."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Mean over the members of every floating-point tensor of the output."""
        outputs = [member(*args, **kwargs) for member in self]
        return tree_map(
            lambda *leaves: torch.stack(leaves).mean(dim=0) if isinstance(leaves[0], Tensor) else leaves[0], *outputs
        )


class Select(nn.Module):
    """Some of the inputs' features."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.index)


_UNITWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign,
    nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink, nn.Identity,
)  # fmt: skip
"""Layers whose output unit j is a function of input unit j alone, without parameters of its own."""


def _removed(model: nn.Module, sites: dict[str, DropoutSite], kept: dict[str, Tensor]) -> nn.Sequential:
    layers = _chain(model)
    # Going backwards: which of its outputs a Linear need not compute, because everything after drops them.
    last = max((i for i, (_, layer) in enumerate(layers) if isinstance(layer, nn.Linear)), default=-1)
    noise: dict[int, Tensor] = {}
    current: Tensor | None = None
    owner = -1
    for i, (path, layer) in enumerate(layers):
        if isinstance(layer, nn.Linear):
            if current is not None:
                noise[owner] = current
            owner, current = i, None
        elif path in kept:
            site = sites[path]
            if site.kind != "dropout" or len(site.shape) != 1 or i > last:
                raise ValueError(
                    f"the units dropped by {path} ({site.kind}, mask {site.shape}) cannot be removed: only masks of "
                    "whole features between Linear layers can"
                )
            bits = kept[path].to(torch.float64) / (1.0 - site.p)
            current = bits if current is None else current * bits
    if current is not None and owner != last:
        noise[owner] = current
    made: list[nn.Module] = []
    alive: Tensor | None = None
    scale: Tensor | None = None
    if -1 in noise:
        alive = noise[-1].nonzero()[:, 0]
        scale = noise[-1][alive]
        made.append(Select(alive))
    for i, (path, layer) in enumerate(layers):
        if path in kept or isinstance(layer, nn.modules.dropout._DropoutNd):
            continue
        if isinstance(layer, nn.Linear):
            rows = noise[i].nonzero()[:, 0] if i in noise else torch.arange(layer.out_features)
            made.append(_sliced(layer, rows, alive, scale))
            alive, scale = (rows, noise[i][rows]) if i in noise else (None, None)
        elif isinstance(layer, nn.BatchNorm1d) and alive is not None:
            made.append(_sliced_norm(layer, alive))
        else:
            made.append(copy.deepcopy(layer))
    return nn.Sequential(*made).eval()


def _chain(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of nested Sequentials in order, with their paths."""
    if not isinstance(model, nn.Sequential):
        raise ValueError(
            f"units can be removed from a chain, nn.Sequential, of Linear, dropout and unit-wise layers; "
            f"{type(model).__name__} is none"
        )
    layers: list[tuple[str, nn.Module]] = []
    for name, layer in model.named_children():
        if isinstance(layer, nn.Sequential):
            layers += [(f"{name}.{inner}", sub) for inner, sub in _chain(layer)]
        else:
            layers.append((name, layer))
    allowed = (nn.Linear, nn.BatchNorm1d, nn.Flatten, nn.modules.dropout._DropoutNd, *_UNITWISE)
    after_linear = False
    for name, layer in layers:
        after_linear |= isinstance(layer, nn.Linear)
        if not isinstance(layer, allowed) or (isinstance(layer, nn.Flatten) and after_linear):
            raise ValueError(
                f"layer {name} ({type(layer).__name__}) may mix units, so dropped ones cannot be removed around it; "
                "Linear, dropout, BatchNorm1d and element-wise activations can"
            )
    return layers


def _sliced(layer: nn.Linear, rows: Tensor, columns: Tensor | None, scale: Tensor | None) -> nn.Linear:
    weight = layer.weight.detach()[rows.to(layer.weight.device)]
    if columns is not None and scale is not None:
        weight = weight[:, columns.to(weight.device)] * scale.to(weight)
    small = nn.Linear(weight.shape[1], weight.shape[0], layer.bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        small.weight.copy_(weight)
        if layer.bias is not None:
            small.bias.copy_(layer.bias[rows.to(layer.bias.device)])
    return small


def _sliced_norm(layer: nn.BatchNorm1d, alive: Tensor) -> nn.BatchNorm1d:
    small = copy.deepcopy(layer)
    small.num_features = len(alive)
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(small, name, nn.Parameter(getattr(layer, name).detach()[alive].clone()))
    for name in ("running_mean", "running_var"):
        if getattr(layer, name) is not None:
            setattr(small, name, getattr(layer, name)[alive].clone())
    return small
