"""Looking at a model and its data once, before any mask is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from allmasks.errors import UncontrolledRandomness
from allmasks.over_masks.data import Batch, Data
from allmasks.over_masks.forms import Form, SitesByName, sites_of_form
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.sources import MaskChunk, NoMask
from allmasks.prediction.task import Task, main_output, settle_task
from allmasks.ranks.groups import ALONE, Group
from allmasks.sites import DropoutSite, LastLayer, borrowed, inspect_model
from allmasks.sites.trace import output_tensors

__all__ = ["Setup", "look", "magnitudes", "read"]

_INSPECTED_EXAMPLES = 8
_TRIES = 4


@dataclass
class Setup:
    """A model, its inputs and its random sites, ready to be run under masks.

    Attributes
    ----------
    sites : the random ones.
    dims : example axis of each tensor of the output; None: that tensor depends on no single example.
    n_examples : of all ranks together.
    last : the site before a final Linear, where the output is that Linear's; else None.
    consistent : whether all examples share each mask.
    """

    model: nn.Module
    data: Data
    sites: tuple[DropoutSite, ...]
    task: Task
    dims: tuple[int | None, ...]
    last: LastLayer | None
    batched: bool
    spec: Any
    leaves: list[Any]
    notes: tuple[str, ...]
    n_examples: int
    consistent: bool = False
    group: Group = ALONE
    batch_dim: int | None = None
    forms: dict[Form, SitesByName | None] = field(default_factory=dict)
    """Sites of batches whose inputs have another shape than the first one's, where their masks do too."""

    def sites_in(self, batch: Batch) -> SitesByName | None:
        """The sites as they lie in this batch, or None where they do so as in the first."""
        if batch.form not in self.forms and self.sites:
            few = self.data.part(batch, _INSPECTED_EXAMPLES)
            sites = sites_of_form(self.model, few, self.sites, batch_dim=self.batch_dim, extract=main_output)
            self.forms[batch.form] = sites if any(sites[site.name] != site for site in self.sites) else None
        return self.forms.get(batch.form)

    def keyed(self, batch: Batch) -> Batch:
        """The batch with the keys its masks are drawn by: each example's own, or one for all."""
        return replace(batch, examples=np.zeros_like(batch.examples)) if self.consistent else batch

    def outputs(self, output: Any) -> list[Tensor]:
        """The output's tensors that depend on examples, their axis first."""
        found = output_tensors(main_output(output))
        if len(found) != len(self.dims):
            raise ValueError(
                f"the model returned {len(found)} tensors where it returned {len(self.dims)} in eval mode; its output "
                "must keep one structure"
            )
        return [leaf.movedim(dim, 0) for leaf, dim in zip(found, self.dims, strict=True) if dim is not None]

    def forward(self, sites: tuple[DropoutSite, ...], observe: str | None = None) -> Forward:
        """Outputs under masks of these sites, or with `observe` that site's input."""
        return Forward(self.model, sites, self.outputs, observe, self.batched, self.group)

    def in_eval(self, batch: Batch) -> list[Tensor]:
        """The outputs in eval mode."""
        ((_, outputs),) = self.forward(())(batch, _no_masks(batch))
        leaves = [leaf[0] for leaf in outputs]
        for leaf in leaves:
            if len(leaf) != len(batch):
                raise ValueError(
                    f"the output has {len(leaf)} entries along its example axis for a batch of {len(batch)} examples; "
                    "the model must treat each example on its own"
                )
            bad = ~torch.isfinite(self.task.value(leaf)).reshape(len(leaf), -1).all(dim=1)
            if bool(bad.any()):
                raise ValueError(
                    f"the prediction in eval mode is not finite for example {batch.start + int(bad.nonzero()[0])}; "
                    "look at that example's inputs, or at the model's weights"
                )
        return leaves

    def site(self, name: str) -> DropoutSite:
        """The random site of this name."""
        return next(site for site in self.sites if site.name == name)

    def rebuild(self, tensors: list[Tensor], *, lead: int = 0) -> Any:
        """The output's structure with these tensors in it, example axes where the model has them.

        Parameters
        ----------
        lead : axes before the example axis that the output does not have: 1 for samples (masks, n, …).
        """
        mine: Iterator[Tensor] = iter(tensors)
        dims = iter(self.dims)
        filled = []
        for leaf in self.leaves:
            dim = next(dims) if isinstance(leaf, Tensor) else None
            filled.append(None if dim is None else _back(next(mine), dim, lead))
        return tree_unflatten(filled, self.spec)


def _back(tensor: Tensor, dim: int, lead: int) -> Tensor:
    # Entropies have one axis less than the output; the example's place among what is left is the same or the last.
    return tensor.movedim(lead, min(dim + lead, tensor.ndim - 1))


def _no_masks(batch: Batch) -> MaskChunk:
    return next(NoMask().chunks(batch.examples, 1, torch.device("cpu")))


def read(
    model: nn.Module, x: Any, y: Any, *, example_index: Any, batch_dim: int | None, batch_size: int | None
) -> tuple[Data, Batch]:
    """The data, checked, and the examples to look at the model with."""
    device = next((t.device for t in itertools.chain(model.parameters(), model.buffers())), None)
    data = Data(
        x,
        y,
        batch_dim=batch_dim,
        batch_size=batch_size,
        example_index=example_index,
        device=device,
        targets=False,
    )
    return data, data.first(_INSPECTED_EXAMPLES)


def look(
    model: nn.Module,
    data: Data,
    batch: Batch,
    *,
    task: str | None,
    class_dim: int | None,
    batch_dim: int | None,
) -> Setup:
    """Find the sites, the example axes of inputs and outputs, and the task. Call it inside `borrowed`."""
    _check_output(model, batch)
    seen = inspect_model(model, batch.args, batch.kwargs, batch_dim=batch_dim, extract=main_output)
    if seen.unaccounted:
        raise UncontrolledRandomness(
            f"{type(model).__name__} is random beyond its dropout: {'; '.join(seen.unaccounted)}. Its predictions are "
            "no function of masks; make these deterministic in eval mode, or register them with am.register_dropout"
        )
    sites = tuple(site for site in seen.sites if site.p != 0)
    stuck = [site for site in sites if not site.controllable]
    if stuck:
        listed = "; ".join(f"{site.name} ({site.reason})" for site in stuck)
        raise UncontrolledRandomness(
            f"these dropout sites cannot be given masks, and leaving them off would answer another question: {listed}"
        )
    output = main_output(seen.output)
    leaves, spec = tree_flatten(output)
    dims = tuple(seen.output_batch_dims)
    front = [
        leaf.movedim(dim, 0)
        for leaf, dim in zip((v for v in leaves if isinstance(v, Tensor)), dims, strict=True)
        if dim is not None
    ]
    settled, inferred = settle_task(
        task,
        front if len(front) != 1 else front[0],
        link=seen.output_link,
        from_logits=output is not seen.output,
        class_dim=class_dim,
    )
    notes = [*data.notes, *seen.notes, *inferred]
    if not sites:
        notes.append(
            "No dropout was found, so the prediction is that of eval mode. Hand-written dropout is seen once it is "
            "registered with am.register_dropout."
        )
    if None in dims:
        notes.append("Some tensors of the output depend on no single example; they are left out.")
    return Setup(
        model=model,
        data=data,
        sites=sites,
        task=settled,
        dims=dims,
        last=seen.last_linear if len(front) == 1 else None,
        batched=not seen.convolves_after_site,
        spec=spec,
        leaves=leaves,
        notes=tuple(notes),
        n_examples=data.n_examples,
        batch_dim=batch_dim,
        forms={batch.form: None},
    )


def _check_output(model: nn.Module, batch: Batch) -> None:
    """Refuse, in the first pass and in plain words, what has no prediction in it."""
    with torch.no_grad(), borrowed(model):
        args, kwargs = torch.utils._pytree.tree_map_only(Tensor, torch.clone, (batch.args, batch.kwargs))
        output = main_output(model(*args, **kwargs))
    if not output_tensors(output):
        raise TypeError(f"the model must return a tensor, or something that holds tensors; got {type(output).__name__}")


def magnitudes(setup: Setup, batch: Batch, outputs: list[Tensor], *, rough: bool) -> tuple[Tensor, ...]:
    """Size of each output in eval mode, float64: its own, or of all that a last Linear adds up there."""
    last = setup.last
    if rough or last is None or len(outputs) != 1:
        return tuple(leaf.double().abs() for leaf in outputs)
    ((_, hidden),) = setup.forward((), observe=last.site)(batch, _no_masks(batch))
    size = hidden[0].double().abs() @ last.weight.detach().double().abs().t()
    if last.bias is not None:
        size = size + last.bias.detach().double().abs()
    return (size.reshape(outputs[0].shape),)


def inert_sites(setup: Setup) -> tuple[str, ...]:
    """Names of sites whose masks change nothing, on two examples: with every unit dropped, and under a few masks."""
    batch = setup.data.first(2)
    base = setup.in_eval(batch)
    generator = torch.Generator().manual_seed(0)
    inert = []
    for site in setup.sites:
        forward = setup.forward((site,))
        rows = 1 if site.batch_dim is None else len(batch)
        if not any(_changes(forward, batch, site, base, rows, generator, k) for k in range(_TRIES)):
            inert.append(site.name)
    return tuple(inert)


def _changes(
    forward: Forward,
    batch: Batch,
    site: DropoutSite,
    base: list[Tensor],
    rows: int,
    generator: torch.Generator,
    k: int,
) -> bool:
    shape = (1, rows, site.units)
    kept = torch.zeros(shape, dtype=torch.bool) if k == 0 else torch.rand(shape, generator=generator) < 0.5
    chunk = MaskChunk({site.name: kept.to(base[0].device)}, torch.ones(1), 0)
    ((_, outputs),) = forward(batch, chunk)
    return any(
        not torch.allclose(a[0].double(), b.double(), rtol=1e-6, atol=1e-9, equal_nan=True)
        for a, b in zip(outputs, base, strict=True)
    )
