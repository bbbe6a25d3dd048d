"""Thinned networks: a model with one mask fixed, as a module of its own; many of them as an ensemble; smaller ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from allmasks.errors import UncontrolledRandomness
from allmasks.removal import check_same, without_dropped
from allmasks.samplers import LatinHypercube, Sampler
from allmasks.sampling import blocks_of
from allmasks.sites import (
    WHOLE,
    BatchDim,
    DropoutSite,
    by_reason,
    check_module,
    hold_masks,
    inspect_model,
    leaves_no_trace,
    narrowed,
)

__all__ = ["Thinned", "ThinnedEnsemble", "thinned"]


@leaves_no_trace
def thinned(
    model: nn.Module,
    x: Any,
    *,
    seed: int = 0,
    mask: int | Sequence[int] = 0,
    example_index: int = 0,
    sampler: Sampler | None = None,
    n_masks: int | None = None,
    batch_dim: BatchDim = None,
    leave_off: str | Sequence[str] = (),
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
    batch_dim : axis of the examples in the inputs; 0 by default. "whole": the mask covers all of these inputs, and
        `example_index` is the number of the input in a loader.
    leave_off : as in `expected_loss`: what stays as in eval mode.

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
    check_module(model)
    numbers = [mask] if isinstance(mask, int | np.integer) else list(mask)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < 2**62:
            raise ValueError(f"mask must be a whole number from 0 on, got {number!r}")
    args, kwargs = ((), dict(x)) if isinstance(x, dict) else (tuple(x) if isinstance(x, tuple | list) else (x,), {})
    seen = inspect_model(model, args, kwargs, batch_dim=batch_dim, leave_off=leave_off)
    sites = tuple(site for site in seen.sites if site.p != 0)
    stuck = [site for site in sites if not site.controllable]
    if stuck:
        raise UncontrolledRandomness(f"these dropout sites cannot be given a mask: {by_reason(stuck)}")
    base = _copied(model).eval()
    given = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    drawn = sampler or LatinHypercube()
    if n_masks is not None:
        drawn = blocks_of(drawn, n_masks).sampler
    members = []
    for number in numbers:
        kept = {}
        for site in sites:
            example = 0 if site.batch_dim is None and not site.joint else example_index
            bits = drawn.draw(seed, site.id, [number], [example], site.law.keep_prob)
            kept[site.name] = torch.from_numpy(bits[0, 0])
        axis = 0 if batch_dim is None or batch_dim == WHOLE else batch_dim
        members.append(Thinned(base, sites, kept, axis, given, seen.rest))
    return members[0] if isinstance(mask, int | np.integer) else ThinnedEnsemble(members)


def _copied(model: nn.Module) -> nn.Module:
    """A copy; tensors that a pass has left in an attribute are copied as they are, their graph is not."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in tree_leaves(list(vars(module).values())):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


class Thinned(nn.Module):
    """A model under one fixed mask. Dropped units stay dropped whichever mode it is in.

    Attributes
    ----------
    model : the network.
    kept : site name -> (units,) booleans, True = kept.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: tuple[DropoutSite, ...],
        kept: dict[str, Tensor],
        batch_dim: int,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        rest: Mapping[str, float | None],
    ) -> None:
        super().__init__()
        self._given = given
        self._rest = {name: number for name, number in rest.items() if name not in kept}
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
        # What a forward pass writes in its input, by dropout in place say, is not for the next call or member to see.
        args, kwargs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (args, kwargs))

        def provide(call: Any) -> Tensor | None:
            bits = placed.get(call.name)
            joint = bits is not None and self._sites[call.name].joint
            return narrowed(call.name, bits, call.mask_shape) if joint and bits is not None else bits

        with hold_masks(self.model, provide, rates, wake=wake, rest=self._rest):
            return self.model(*args, **kwargs)

    def smaller(self) -> nn.Sequential:
        """The same function as a network without the dropped units; its `state_dict` is the smaller network's.

        It is made and compared with this one in double precision, on the inputs that were given to `am.thinned`.

        Raises
        ------
        ValueError : unless the model is a chain (`nn.Sequential`) in which every mask lies between Linear layers,
            with nothing but functions of single units between them; names what is not.
        """
        whole = copy.deepcopy(self).double()
        small = without_dropped(whole.model, whole._sites, whole.kept)
        check_same(whole, small, *whole._given)
        dtype = next((p.dtype for p in self.model.parameters()), torch.get_default_dtype())
        return small.to(dtype)

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
