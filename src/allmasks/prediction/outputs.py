"""A model's outputs on its data as predictions: which task, where the examples lie, and what can be done here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from allmasks.methods import ClosedForm, Enumeration, Fourier, Method, MonteCarlo
from allmasks.methods.options import DEFAULT_BUDGET, Option, Sites, Treatment, dependent, over_budget
from allmasks.over_masks.data import Batch
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.look import Look, Purpose, look
from allmasks.over_masks.output import main_output
from allmasks.over_masks.plan import Plan, plan
from allmasks.over_masks.request import Request
from allmasks.over_masks.sources import MaskChunk, no_masks
from allmasks.prediction.held import HELD_BYTES, Digest
from allmasks.prediction.task import Task, settle_task
from allmasks.ranks.groups import Group
from allmasks.results import Guarantee
from allmasks.sites import DropoutSite, Inspection, LastLayer, n_parameters
from allmasks.sites.trace import output_tensors

__all__ = ["Asked", "Outputs", "inert_sites", "magnitudes", "outputs_of"]

_TRIES = 4
_INNER_MASKS = 8
_PASS = 1024
"""Evaluations (a mask and an example) that one pass of a model is counted as at least."""


@dataclass(frozen=True)
class Asked:
    """What is wanted of the predictions: the keywords of `predict` that say what, and not how.

    Parameters
    ----------
    likelihood : whether y is given. samples : whether the prediction under each mask is kept.
    consistent : whether all examples share each mask.
    digest : what is made of the predictions of each batch under each mask, where that is wanted.
    hold : bytes that replicates may take.
    """

    task: str | None = None
    class_dim: int | None = None
    precision: float | None = None
    likelihood: bool = False
    samples: bool = False
    consistent: bool = False
    digest: Digest | None = None
    hold: int = HELD_BYTES

    def __post_init__(self) -> None:
        if self.precision is not None and not self.precision > 0:
            raise ValueError(f"noise_precision must be positive, got {self.precision}")


@dataclass(frozen=True)
class Outputs:
    """A model's outputs as predictions, ready to be averaged over masks.

    Attributes
    ----------
    sites : the random ones, as they lie in the batch at hand.
    dims : example axis of each tensor of the output; None: that tensor depends on no single example.
    spec, leaves : the output's structure, and its tensors in eval mode.
    notes : what a reader should know of what was looked at.
    """

    look: Look
    asked: Asked
    sites: Sites
    task: Task
    dims: tuple[int | None, ...]
    spec: Any
    leaves: tuple[Any, ...]
    notes: tuple[str, ...]

    @property
    def each_mask(self) -> bool:
        """Whether the prediction under each mask is wanted, and not only means."""
        return self.asked.samples or (self.asked.digest is not None and self.asked.digest.each_mask)

    @property
    def shared(self) -> bool:
        """Whether a mask may serve several examples."""
        return self.asked.consistent or any(site.batch_dim is None for site in self.sites)

    @property
    def last(self) -> LastLayer | None:
        """The site before a final Linear, where the output is that Linear."""
        return self.look.last

    def keyed(self, batch: Batch) -> Batch:
        """The batch with the keys its masks are drawn by: each example's own, or one for all."""
        return replace(batch, examples=np.zeros_like(batch.examples)) if self.asked.consistent else batch

    def forward(self, sites: Sites, observe: str | None = None) -> Forward:
        """Outputs under masks of these sites, or with `observe` that site's input."""
        return self.look.forward(sites, observe)

    def in_eval(self, batch: Batch) -> list[Tensor]:
        """The outputs in eval mode."""
        ((_, outputs),) = self.forward(())(batch, no_masks(batch.examples))
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

    @property
    def last_site(self) -> tuple[DropoutSite, LastLayer]:
        """The random site before the last Linear, as it lies in the batch at hand, and that Linear."""
        last = self.last
        assert last is not None
        return next(site for site in self.sites if site.name == last.site), last

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

    def plan(self, request: Request) -> Plan:
        """How the masks of the random sites will be gone through."""
        if self.asked.likelihood and len([d for d in self.dims if d is not None]) > 1:
            raise ValueError("the likelihood of y needs a model that returns one tensor")
        if self.asked.likelihood and self.task.name == "regression" and self.asked.precision is None:
            raise ValueError("the likelihood of y in a regression needs noise_precision=τ, one over the noise variance")
        if self._may_list(request):
            # A list of all masks is one list for all batches: those of a loader may have several shapes.
            for batch in self.look.data:
                self.look.sites_in(batch)
        return plan(self, self.look.random_sites, request)

    def _may_list(self, request: Request) -> bool:
        """Whether a loader's batches might share a list of all masks."""
        bits = sum(site.law.random_units for site in self.look.random_sites)
        if self.look.data.given is not None or self.asked.samples or not bits:
            return False
        if isinstance(request.method, Enumeration):
            return 2**bits <= request.method.max_masks
        return request.method is None and 2**bits <= (request.budget or DEFAULT_BUDGET) // self.look.n_examples

    # -- what `Averaged` asks for: the options of a prediction ---------------------------------------------------------

    integrates_below = False

    @property
    def title(self) -> Mapping[str, Any]:
        return {"task": self.task.name}

    @property
    def keeps_samples(self) -> bool:
        return self.asked.samples

    def unvaried(self, method: Method | None) -> Option:
        how = "no mask varies: the prediction in eval mode is the answer"
        return Option(method or ClosedForm(), how, "exact", 1)

    def integrates(self, sites: Sites) -> bool:
        return self._no_formula(sites) is None

    def formula(self, method: Method, sites: Sites) -> tuple[Guarantee, str | None] | None:
        if not isinstance(method, ClosedForm | Fourier):
            guarantee = method.integrates("squared_error")
            return None if guarantee is None else (guarantee, "it is for losses")
        own = Fourier() if self.task.classifies else ClosedForm()
        refusal = self._no_formula(sites)
        if refusal is None and type(method) is not type(own):
            refusal = f"a {self.task.name} prediction is integrated by {own!r}"
        return "exact", refusal

    bounds_by_themselves = False

    def unbounded(self, sites: Sites) -> str | None:
        others, last = self.look.split(sites)
        if self.each_mask:
            return "what is asked of the predictions needs each mask's"
        if self.last is None or last is None:
            return "no random site feeds a Linear whose output is the model's output"
        if others:
            return f"other sites are random too: {', '.join(site.name for site in others)}"
        if self.task.name != "multiclass" or len(self.last.weight) < 3 or self.task.already:
            return "it is for the softmax of three or more outputs of a Linear"
        if self.asked.likelihood:
            return "the likelihood of y has no bounds"
        if not last.mean_preserving or last.batch_dim != 0:
            return f"{last.name} does not drop each example's units by themselves"
        return dependent((last,))

    def unlisted(self, sites: Sites) -> str | None:
        return "keep_samples=False: its masks are no sample" if self.asked.samples else None

    def too_many(self, n_masks: int, request: Request) -> str | None:
        """See `Averaged`: over the budget, or more than the masks asked for.

        One pass costs at least as much as `_PASS` evaluations, and where masks cannot be batched each takes one.
        """
        n, budget = self.look.n_examples, request.budget or DEFAULT_BUDGET
        at_most, asked = budget // n, request.sampling.n_masks
        if asked is not None:
            at_most = min(at_most, asked)
        one_by_one = budget // max(n, _PASS)
        if one_by_one < n_masks <= at_most and not self.forward(self.sites).can_be_batched(self.look.data.first(2)):
            at_most = one_by_one
        return over_budget(n_masks, at_most, n, request)

    def sampled(self, sites: Sites, method: MonteCarlo) -> Treatment | str:
        if method.control is not None:
            return 'control="quadratic" is for the cross-entropy of expected_loss'
        others, last = self.look.split(sites)
        if last is None or self.last is None:
            return Treatment(sites)
        if not others:
            return Treatment(sites, how=f"; what is below {last.name} runs once")
        if self.each_mask:
            return Treatment(sites)
        if self.integrates(sites) and (len(self.last.weight) == 1 or not self.task.classifies):
            return Treatment(others, True, how=f"; the masks of {last.name} integrated exactly for each")
        if self._cheap_last(self.last):
            return Treatment(others, inner=_INNER_MASKS, how=f"; masks of {last.name} of its own for each")
        return Treatment(sites)

    def instead(self, method: Method, options: tuple[Option, ...]) -> str:
        if isinstance(method, MonteCarlo):
            return "MonteCarlo() without it"
        if isinstance(method, Enumeration):
            return "MonteCarlo()" if self.asked.samples else "method=None or MonteCarlo()"
        return "method=None, Enumeration() or MonteCarlo()"

    def _no_formula(self, sites: Sites) -> str | None:
        """Why the last layer's masks cannot be integrated by formula, or None."""
        if self.each_mask and not self.asked.samples:
            return "what is asked of the predictions needs each mask's"
        if self.last is None or self.look.split(sites)[1] is None:
            return "no random site feeds a Linear whose output is the model's output"
        outputs = len(self.last.weight)
        if self.task.name == "multiclass" and outputs != 2:
            return f"the softmax of {outputs} classes has no formula; two classes have"
        if self.task.already:
            return "the model's output is no Linear's"
        if self.asked.likelihood and outputs > 1:
            return "the likelihood of y is integrated by formula for one output only"
        return None

    def _cheap_last(self, last: LastLayer) -> bool:
        """Whether eight masks of the last layer cost less than about one pass of what is below it.

        Counted in parameters, each used at least once a pass: a clock would make the answer depend on the machine.
        """
        outputs, width = last.weight.shape
        below = n_parameters(self.look.model) - last.weight.numel()
        return below >= _INNER_MASKS * width * (outputs + 16)


def outputs_of(model: Any, x: Any, y: Any, asked: Asked, ranks: Group, **keywords: Any) -> Outputs:
    """Look at a model and its data, and settle what its outputs are.

    Parameters
    ----------
    y : targets, True for those of a loader, or None.
    keywords : example_index, batch_dim, batch_size and leave_off, as in `predict`.
    """
    purpose = Purpose(_predicted, _extraction, "Its predictions are no function of masks", targets=False)
    seen = look(model, x, None if y is True else y, purpose, ranks, **keywords)
    outputs = ranks.run(lambda: _settled(seen, asked))
    ranks.agree({"the task": outputs.task.name})
    return outputs


def _predicted(output: Any) -> Any:
    found = main_output(output)
    if not output_tensors(found):
        raise TypeError(f"the model must return a tensor, or something that holds tensors; got {type(found).__name__}")
    return found


def _extraction(seen: Inspection) -> Callable[[Any], Any]:
    return partial(_by_example, dims=tuple(seen.output_batch_dims))


def _by_example(output: Any, dims: tuple[int | None, ...]) -> list[Tensor]:
    """The output's tensors that depend on examples, their axis first."""
    found = output_tensors(main_output(output))
    if len(found) != len(dims):
        raise ValueError(
            f"the model returned {len(found)} tensors where it returned {len(dims)} in eval mode; its output must "
            "keep one structure"
        )
    return [leaf.movedim(dim, 0) for leaf, dim in zip(found, dims, strict=True) if dim is not None]


def _settled(seen: Look, asked: Asked) -> Outputs:
    seen.refuse_stuck(seen.random_sites)
    output = main_output(seen.seen.output)
    leaves, spec = tree_flatten(output)
    front = seen.extract(output)
    task, inferred = settle_task(
        asked.task,
        front if len(front) != 1 else front[0],
        link=seen.seen.output_link,
        from_logits=output is not seen.seen.output,
        class_dim=asked.class_dim,
    )
    dims = tuple(seen.seen.output_batch_dims)
    notes = [*seen.notes, *inferred]
    if not (seen.random_sites or seen.leave_off):
        notes.append(
            "No dropout was found, so the prediction is that of eval mode. Hand-written dropout is seen once it is "
            "registered with am.register_dropout (how-to/my-model-was-refused)."
        )
    if None in dims:
        notes.append("Some tensors of the output depend on no single example; they are left out.")
    return Outputs(seen, asked, seen.random_sites, task, dims, spec, tuple(leaves), tuple(notes))


def _back(tensor: Tensor, dim: int, lead: int) -> Tensor:
    # Entropies have one axis less than the output; the example's place among what is left is the same or the last.
    return tensor.movedim(lead, min(dim + lead, tensor.ndim - 1))


def magnitudes(outputs: Outputs, batch: Batch, in_eval: list[Tensor], *, rough: bool) -> tuple[Tensor, ...]:
    """Size of each output in eval mode, float64: its own, or of all that a last Linear adds up there."""
    last = outputs.last
    if rough or last is None or len(in_eval) != 1:
        return tuple(leaf.double().abs() for leaf in in_eval)
    ((_, hidden),) = outputs.forward((), observe=last.site)(batch, no_masks(batch.examples))
    size = hidden[0].double().abs() @ last.weight.detach().double().abs().t()
    if last.bias is not None:
        size = size + last.bias.detach().double().abs()
    return (size.reshape(in_eval[0].shape),)


def inert_sites(outputs: Outputs) -> tuple[str, ...]:
    """Names of sites whose masks change nothing, on two examples: with every unit dropped, and under a few masks."""
    batch = outputs.look.data.first(2)
    base = outputs.in_eval(batch)
    generator = torch.Generator().manual_seed(0)

    def changes(site: DropoutSite, k: int) -> bool:
        shape = (1, 1 if site.batch_dim is None else len(batch), site.units)
        kept = torch.zeros(shape, dtype=torch.bool) if k == 0 else torch.rand(shape, generator=generator) < 0.5
        chunk = MaskChunk({site.name: kept.to(base[0].device)}, torch.ones(1), 0)
        ((_, found),) = outputs.forward((site,))(batch, chunk)
        return any(
            not torch.allclose(a[0].double(), b.double(), rtol=1e-6, atol=1e-9, equal_nan=True)
            for a, b in zip(found, base, strict=True)
        )

    return tuple(site.name for site in outputs.sites if not any(changes(site, k) for k in range(_TRIES)))
