"""One look at a model and its data: its sites, its example axes, its last Linear, and what its ranks hold alike.

A `Look` is complete when it is made; the loss (`expect`) and the prediction (`prediction`) stand on the same one. What
differs between them, which of the output matters and how a refusal is worded, is a `Purpose`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from allmasks.errors import UncontrolledRandomness
from allmasks.over_masks.data import Batch, Data
from allmasks.over_masks.forms import Form, SitesByName, sites_of_form
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.output import rows_of_first
from allmasks.over_masks.sources import no_masks
from allmasks.over_masks.wholes import Wholes, is_whole
from allmasks.ranks.agreement import agree_on_data, agree_on_sites
from allmasks.ranks.groups import Group, unwrapped
from allmasks.ranks.sharded import keep_in_step, same_batch
from allmasks.sampling import chunk_masks
from allmasks.sites import (
    WAY_ON_IN_EVAL_MODE,
    WHOLE,
    BatchDim,
    DropoutSite,
    Inspection,
    LastLayer,
    borrowed,
    by_reason,
    check_module,
    inspect_model,
    is_sharded,
    patterns_of,
    sites_again,
)
from allmasks.sites.probe import Inputs
from allmasks.sites.trace import trace

__all__ = ["INSPECTED_EXAMPLES", "Look", "Purpose", "look"]

INSPECTED_EXAMPLES = 8
"""Examples with which the model is looked at; enough to tell the example axis from others by its length."""


@dataclass(frozen=True)
class Purpose:
    """What a model is looked at for.

    Parameters
    ----------
    output : what of the model's output matters: a tensor, something that holds some, or None.
    extract : what the look has seen -> what a pass makes of an output.
    beyond : the rest of the refusal of a model that is random beyond its dropout.
    targets : whether a loader must yield targets.
    check : raises where the first examples cannot be meant.
    rows : (what `extract` makes of a whole input's output, the batch) -> how many rows it has.
    """

    output: Callable[[Any], Any]
    extract: Callable[[Inspection], Callable[[Any], Any]]
    beyond: str
    targets: bool = True
    check: Callable[[Batch], None] = lambda batch: None
    rows: Callable[[Any, Batch], int] = rows_of_first


@dataclass(frozen=True)
class Look:
    """What `look` has seen.

    Attributes
    ----------
    seen : the model as `inspect_model` saw it.
    purpose, extract : what of its outputs matters, and what passes make of them.
    batched : whether all masks of a chunk may run in one pass.
    n_examples : of all ranks together.
    batch_dim : as it was given.
    leave_off : patterns of what is left off.
    buffers : values that the model's buffers have while it is borrowed; its own where there are none.
    """

    model: nn.Module
    data: Data
    seen: Inspection
    purpose: Purpose
    extract: Callable[[Any], Any]
    batched: bool
    n_examples: int
    batch_dim: BatchDim
    buffers: tuple[Tensor, ...]
    group: Group
    leave_off: tuple[str, ...] = ()
    _forms: dict[Form, SitesByName | None] = field(default_factory=dict, repr=False)
    """What is known of batches whose inputs have another shape than the first one's."""

    @property
    def sites(self) -> tuple[DropoutSite, ...]:
        """All dropout sites."""
        return self.seen.sites

    @property
    def random_sites(self) -> tuple[DropoutSite, ...]:
        """Sites whose masks vary: p > 0."""
        return tuple(site for site in self.sites if site.p != 0)

    @property
    def last(self) -> LastLayer | None:
        """The site before the last Linear, where the output is that Linear's."""
        return self.seen.last_linear

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the data and of what could not be looked at."""
        return (*self.data.notes, *self.seen.notes)

    def lent(self) -> AbstractContextManager[None]:
        """The model borrowed, in the state that is meant."""
        return borrowed(self.model, self.buffers)

    def forward(self, sites: tuple[DropoutSite, ...], observe: str | None = None, along: str | None = None) -> Forward:
        """Outputs under masks of these sites; or that site's input with `observe`, or both with `along`."""
        return Forward(self.model, sites, self.extract, observe, self.batched, self.group, along, self.seen.rest)

    def split(self, sites: tuple[DropoutSite, ...]) -> tuple[tuple[DropoutSite, ...], DropoutSite | None]:
        """These sites without the one before the last Linear, and that one if it is among them."""
        name = None if self.last is None else self.last.site
        others = tuple(site for site in sites if site.name != name)
        return others, next((site for site in sites if site.name == name), None)

    def sites_in(self, batch: Batch) -> SitesByName | None:
        """The sites as they lie in this batch, None where they do so as in the first; call it inside `lent`."""
        known = self.random_sites
        if batch.form not in self._forms and known:
            few = self.data.part(batch, INSPECTED_EXAMPLES)
            if self.batch_dim == WHOLE:
                call = (few.args, few.kwargs)
                found = sites_again(self.model, call, self.sites, self.seen.rest, self.leave_off)
                sites: SitesByName = {site.name: site for site in found}
            else:
                how = {"batch_dim": self.batch_dim, "extract": self.purpose.output, "leave_off": self.leave_off}
                sites = sites_of_form(self.model, few, known, **how)
            self._forms[batch.form] = sites if any(sites[site.name] != site for site in known) else None
        return self._forms.get(batch.form)

    @property
    def forms(self) -> tuple[SitesByName, ...]:
        """Sites of the batches met so far in which they lie otherwise than in the first."""
        return tuple(sites for sites in self._forms.values() if sites is not None)

    def varies_in_form(self, site: DropoutSite) -> bool:
        """Whether the site's mask has another shape in some batches than in the first."""
        return any(form[site.name].shape != site.shape for form in self.forms)

    @property
    def chunk_masks(self) -> int:
        """Most masks of one batch held at once, whatever the batch's form."""
        forms = (self.sites, *(tuple(form.values()) for form in self.forms))
        return min(self.at_once(self.data.largest_batch, sites) for sites in forms)

    def at_once(self, examples: int, sites: tuple[DropoutSite, ...]) -> int:
        """Most masks that so many examples are to go through at once."""
        examples = min(self.data.n_examples, examples)
        units = sum(site.units for site in sites)
        return chunk_masks(examples, -(-units // examples) if self.batch_dim == WHOLE else units)

    def leaves(self) -> tuple[Tensor, ...]:
        """Tensors that gradients flow to: the model's parameters and any inputs that ask for it; none if sharded."""
        if is_sharded(self.model):
            return ()
        inputs = tree_flatten(self.data.given)[0] if self.data.given is not None else []
        wanted = [t for t in (*self.model.parameters(), *inputs) if isinstance(t, Tensor) and _takes_gradient(t)]
        return tuple(dict.fromkeys(wanted))

    def refuse_stuck(self, sites: tuple[DropoutSite, ...]) -> None:
        """Raise UncontrolledRandomness if one of these sites cannot be given masks."""
        if stuck := [site for site in sites if not site.controllable]:
            raise UncontrolledRandomness(
                "these dropout sites cannot be given masks, and leaving them off unsaid would answer another question: "
                f"{by_reason(stuck)}"
            )


def look(
    model: nn.Module,
    x: Any,
    y: Any,
    purpose: Purpose,
    ranks: Group,
    *,
    example_index: Any = None,
    batch_dim: BatchDim = None,
    batch_size: int | None = None,
    leave_off: str | Sequence[str] = (),
) -> Look:
    """Look at a model and its data once; all ranks look at what must be alike, and settle who makes which pass."""
    model = ranks.run(lambda: _module(model, ranks))
    patterns = ranks.run(lambda: patterns_of(leave_off))
    batch_dim = WHOLE if ranks.run(lambda: is_whole(x, batch_dim)) else batch_dim
    buffers = tuple(ranks.buffers_of_first(model))
    keywords: dict[str, Any] = {"example_index": example_index, "batch_dim": batch_dim, "batch_size": batch_size}
    with torch.no_grad(), borrowed(model, buffers):
        data, own = ranks.run(lambda: _read(model, x, y, purpose, **keywords))
        agree_on_data(ranks, own.args, own.kwargs, own.target)
        first = same_batch(model, ranks, own, data)
        first, seen = ranks.run(lambda: _seen(model, data, first, purpose, batch_dim, patterns))
        extract = purpose.extract(seen)
        random = tuple(site for site in seen.sites if site.p != 0)
        forward = Forward(model, random, extract, batched=not seen.convolves_after_site, group=ranks, rest=seen.rest)
        batched = keep_in_step(ranks, forward, first)
        if isinstance(data, Wholes):
            _count_rows(data, Forward(model, (), extract, group=ranks, rest=seen.rest), purpose)
    sizes = ranks.gather(data.n_examples)
    data.number_from(sum(ranks.gather(data.n_keys)[: ranks.rank]))
    agree_on_sites(ranks, seen.sites)
    known: dict[Form, SitesByName | None] = {first.form: None}
    return Look(model, data, seen, purpose, extract, batched, sum(sizes), batch_dim, buffers, ranks, patterns, known)


def _module(model: Any, ranks: Group) -> nn.Module:
    check_module(model)
    return unwrapped(model, ranks)


def _read(model: nn.Module, x: Any, y: Any, purpose: Purpose, **keywords: Any) -> tuple[Data, Batch]:
    """The data, checked, and the examples to look at the model with."""
    device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), None)
    whole = keywords["batch_dim"] == WHOLE
    keywords |= {"device": device, "targets": purpose.targets}
    data = Wholes(model, x, y, **keywords) if whole else Data(x, y, **keywords)
    first = data.first(INSPECTED_EXAMPLES)
    purpose.check(first)
    return data, first


def _seen(
    model: nn.Module, data: Data, first: Batch, purpose: Purpose, batch_dim: BatchDim, leave_off: tuple[str, ...]
) -> tuple[Batch, Inspection]:
    """The examples that the model was looked at with, and what was seen: a whole batch where it takes nothing less."""
    try:
        return first, _inspected(model, first, purpose, batch_dim, leave_off)
    except Exception:
        more = min(data.n_examples, data.largest_batch) > len(first) and not is_sharded(model)
        if isinstance(data, Wholes) or not more or _runs(model, first):
            raise
    data.uncut = True
    first = data.first(INSPECTED_EXAMPLES)
    return first, _inspected(model, first, purpose, batch_dim, leave_off)


def _runs(model: nn.Module, batch: Batch) -> bool:
    """Whether a few examples will do: some models have their batch size built in."""
    try:
        with borrowed(model):
            trace(model, Inputs(batch.args, batch.kwargs, 0, len(batch)), train=False)
    except Exception:
        return False
    return True


def _count_rows(data: Wholes, forward: Forward, purpose: Purpose) -> None:
    """How many rows each input gives is what the model makes of it."""

    def rows(batch: Batch) -> int:
        ((_, outputs),) = forward(batch, no_masks(batch.examples))
        return purpose.rows(tree_map_only(Tensor, lambda t: t[0], outputs), batch)

    data.count(rows)


def _inspected(
    model: nn.Module, batch: Batch, purpose: Purpose, batch_dim: BatchDim, leave_off: tuple[str, ...]
) -> Inspection:
    how: dict[str, Any] = {"batch_dim": batch_dim, "extract": purpose.output, "leave_off": leave_off}
    seen = inspect_model(model, batch.args, batch.kwargs, **how)
    if seen.unaccounted:
        raise UncontrolledRandomness(
            f"{type(model).__name__} is random beyond its dropout: {'; '.join(seen.unaccounted)}. {purpose.beyond}; "
            f"make these deterministic in eval mode, or {WAY_ON_IN_EVAL_MODE}"
        )
    return seen


def _takes_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and not tensor.is_inference()
