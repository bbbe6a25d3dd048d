"""Running a borrowed model under a chunk of masks: batched by vmap where that works, else one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from allmasks.over_masks.data import Batch
from allmasks.over_masks.output import extract_output
from allmasks.over_masks.sources import MaskChunk
from allmasks.ranks.groups import ALONE, Group
from allmasks.sites import DropoutSite, begin_pass, borrowed, hold_masks, narrowed

__all__ = ["Forward"]


@dataclass
class Forward:
    """Outputs of `model` under masks, for sites that are random; every other site stays at its mean mask.

    Parameters
    ----------
    observe : name of a site whose input is returned instead of the output (the exact last layer needs it); that
        site itself stays at its mean mask.
    batched : try all masks of a chunk in one pass. Falls back to a loop, for good, at the first refusal.
    group : the ranks that may have to make each pass together.
    along : name of a site whose input is returned beside the output, as a pair.
    rest : what the draws of woken modules give that get no mask, see `hold_masks`.
    """

    model: nn.Module
    sites: tuple[DropoutSite, ...]
    extract: Callable[[Any], Any] = extract_output
    observe: str | None = None
    batched: bool = True
    group: Group = ALONE
    along: str | None = None
    rest: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        masked = {site.name for site in self.sites}
        self._rest = {name: number for name, number in self.rest.items() if name not in masked}
        self._rates = {site.name: site.call_rate for site in self.sites}
        self._joint = frozenset(site.name for site in self.sites if site.joint)
        self._wake = frozenset(site.wakes for site in self.sites if site.wakes is not None)

    def __call__(self, batch: Batch, chunk: MaskChunk) -> Iterator[tuple[slice, Any]]:
        """Yields (which masks of the chunk, outputs with a leading mask axis)."""
        placed = {site.name: site.place(chunk.kept[site.name], len(batch)) for site in self.sites}
        begin_pass(self.model)
        if not placed:
            yield slice(0, 1), _stack([self._once(batch, {})])
            return
        if self.batched and len(chunk) > 1:
            try:
                outputs = torch.func.vmap(lambda masks: self._once(batch, masks), randomness="error")(placed)
            except Exception:
                if self.group.in_step:
                    raise  # the other ranks are in the middle of this pass; that it can be batched has been tried
                # vmap has no rule for something in this model (recurrent layers, data-dependent control flow).
                # Whatever went wrong, the loop either runs or raises the error that really is the model's.
                self.batched = False
            else:
                yield slice(0, len(chunk)), outputs
                return
        for m in range(len(chunk)):
            begin_pass(self.model)
            yield slice(m, m + 1), _stack([self._once(batch, {k: v[m] for k, v in placed.items()})])

    def can_be_batched(self, batch: Batch) -> bool:
        """Whether vmap has a rule for everything in the model: tried, by all ranks of a sharded model at once."""
        sites = tuple(site for site in self.sites if site.controllable)
        if not sites:
            return False
        tried = replace(self, sites=sites)
        kept = {site.name: _all_kept(site, batch) for site in sites}
        with torch.no_grad(), borrowed(self.model):
            list(tried(batch, MaskChunk(kept, torch.ones(2), 0)))
        return tried.batched

    def _once(self, batch: Batch, masks: Mapping[str, Tensor]) -> Any:
        seen: list[Tensor] = []

        def provide(call: Any) -> Tensor | None:
            if call.name in (self.observe, self.along):
                seen.append(call.input)
            mask = masks.get(call.name)
            return narrowed(call.name, mask, call.mask_shape) if mask is not None and call.name in self._joint else mask

        # Dropout, an activation or x -= 1 in place may write in the inputs, which every pass is to find as given.
        args, kwargs = tree_map_only(Tensor, torch.clone, (batch.args, batch.kwargs))
        wake = self._wake if masks else frozenset()
        with self.group.turn(), hold_masks(self.model, provide, self._rates, wake=wake, rest=self._rest):
            output = self.model(*args, **kwargs)
        watched = self.observe or self.along
        if watched is not None and len(seen) != 1:
            raise RuntimeError(f"site {watched!r} was reached {len(seen)} times in one pass, not once")
        if self.observe is not None:
            return seen[0]
        # What inference_mode made inside forward cannot be saved for a derivative: a copy can.
        output = self.extract(tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, output))
        return output if self.along is None else (output, seen[0])


def _all_kept(site: DropoutSite, batch: Batch) -> Tensor:
    return torch.ones(2, 1 if site.batch_dim is None else len(batch), site.units, dtype=torch.bool)


def _stack(outputs: list[Any]) -> Any:
    if isinstance(outputs[0], Tensor):
        return outputs[0][None]
    return tree_map(lambda leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, outputs[0])
