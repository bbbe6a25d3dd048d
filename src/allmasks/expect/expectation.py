"""A model, its data, its loss and its dropout sites, looked at once and ready to be averaged over masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from allmasks.errors import MethodNotApplicable, UncontrolledRandomness
from allmasks.expect.class_losses import CrossEntropy
from allmasks.expect.loss import ModelLoss, score_terms
from allmasks.expect.monte_carlo import masks_for_tolerance
from allmasks.expect.under_masks import Integrated, Plain
from allmasks.methods import ClosedForm, Delta, Enumeration, Fourier, GaussianMoments, Method, MonteCarlo
from allmasks.methods.monte_carlo import asked_for
from allmasks.over_masks.data import Batch, Data
from allmasks.over_masks.forms import Form, SitesByName
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.passes import Evaluator, Job, Solution, solve
from allmasks.over_masks.plan import Option, Plan, choose
from allmasks.over_masks.seldom import seldom_changes
from allmasks.over_masks.sources import EveryMask, MaskSource, NoMask, SampledMasks
from allmasks.ranks.groups import ALONE, Group
from allmasks.ranks.sharded import without_gradient
from allmasks.reliability import Unseen, judge
from allmasks.replicates import block_means, mean_and_error
from allmasks.results import ExpectedLoss
from allmasks.sampling import blocks_of, masks_drawn, pilot_masks
from allmasks.sites import DropoutSite, LastLayer, borrowed, is_sharded

__all__ = ["INSPECTED_EXAMPLES", "Expectation", "Request"]

_CHUNK_BYTES = 64 * 2**20
"""Activations of one chunk of masks are kept near this, about what a core's share of the cache can feed."""

_CONTROL_FIRST = 2**41
"""First mask of the pilot that fits a control variate's coefficient: beyond every run's and every other pilot's."""

INSPECTED_EXAMPLES = 8
"""Examples with which the model is looked at; enough to tell the example axis from others by its length."""


@dataclass(frozen=True)
class Request:
    """How an expectation is asked for: the keywords of `expected_loss`."""

    method: Method | None = None
    n_masks: int | None = None
    atol: float | None = None
    rtol: float | None = None
    budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, Method):
            raise TypeError(
                f"method must be a value of am.methods, such as am.methods.MonteCarlo(), got {self.method!r}"
            )
        asked_for(self.method, self.n_masks, self.atol, self.rtol)
        if self.budget is not None and not self.budget >= 1:
            raise ValueError(f"budget must be at least 1 evaluation, got {self.budget}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {self.seed}")

    @property
    def sampling(self) -> MonteCarlo:
        """The Monte Carlo method meant by the method and the call's keywords together."""
        return asked_for(self.method, self.n_masks, self.atol, self.rtol)


@dataclass
class Expectation:
    """See `prepare`. `weight_scaling` is the loss of each example in eval mode.

    `share` is what each example is of all, and sums to 1; `weight` what its loss is multiplied by: its share, or, for a
    loss that is summed over examples, its sample weight.
    """

    model: nn.Module
    data: Data
    loss: ModelLoss
    sites: tuple[DropoutSite, ...]
    last: LastLayer | None
    output_dims: tuple[int, ...]
    extract: Callable[[Any], Any]
    batched: bool
    weight: Tensor = field(init=False)
    share: Tensor = field(init=False)
    weight_scaling: Tensor = field(init=False)
    weight_scaling_error: Tensor = field(init=False)
    splits: bool = field(init=False, default=False)
    """Whether the loss of the last Linear's outputs is a sum of score losses for every example."""
    notes: tuple[str, ...] = ()
    group: Group = ALONE
    n_examples: int = field(init=False)
    forms: dict[Form, SitesByName] = field(default_factory=dict)
    """Sites of batches whose inputs have another shape than the first one's, where their masks do too."""
    buffers: list[Tensor] = field(default_factory=list)
    """Values that the model's buffers have while it is borrowed; its own where there are none."""

    def lent(self) -> AbstractContextManager[None]:
        """The model borrowed, in the state that is meant."""
        return borrowed(self.model, self.buffers)

    @property
    def random_sites(self) -> tuple[DropoutSite, ...]:
        """Sites whose masks vary: p > 0."""
        return tuple(site for site in self.sites if site.p != 0)

    def inputs(self) -> tuple[Tensor, ...]:
        """Tensors that gradients flow to: the model's parameters and any inputs that ask for it; none if sharded."""
        if is_sharded(self.model):
            return ()
        leaves = tree_flatten(self.data.given)[0] if self.data.given is not None else []
        wanted = [t for t in (*self.model.parameters(), *leaves) if isinstance(t, Tensor) and _takes_gradient(t)]
        return tuple(dict.fromkeys(wanted))

    def job(
        self, source: MaskSource, evaluate: Evaluator, *, grad: bool = True, tick: Callable[[int], None] | None = None
    ) -> Job:
        """A mean over these masks, chunked to a bounded amount of memory."""
        n = min(self.data.n_examples, self.data.largest_batch)
        units = (
            max(sum(s.units for s in sites) for sites in (self.sites, *(f.values() for f in self.forms.values()))) + 64
        )
        at_most = max(1, min(1024, _CHUNK_BYTES // (4 * n * units)))
        return Job(
            data=self.data,
            source=source,
            evaluate=evaluate,
            weight=self.weight,
            chunk_masks=at_most,
            inputs=self.inputs() if grad else (),
            prepare=self.lent,
            tick=tick or (lambda done: None),
            group=self.group,
            forms=self.forms,
        )

    def varies_in_form(self, site: DropoutSite) -> bool:
        """Whether the site's mask has another shape in some batches than in the first."""
        return any(sites[site.name].shape != site.shape for sites in self.forms.values())

    def plain(self, sites: tuple[DropoutSite, ...], *, proven: bool = True) -> Plain:
        """The loss under masks of these sites, all others at their mean mask.

        Parameters
        ----------
        proven : whether the round-off stands for a guarantee; beside a standard error an estimate of it will do.
        """
        last = self.last if proven and self.loss.n_outputs == 1 and not self.loss.whole_output else None
        forward = replace(self.forward(sites), along=None if last is None else last.site)
        return Plain(forward, self.loss, self.output_dims, last, steep=proven)

    def forward(self, sites: tuple[DropoutSite, ...], observe: str | None = None) -> Forward:
        """Outputs under masks of these sites; or, with `observe`, that site's input."""
        return Forward(self.model, sites, self.extract, observe, self.batched, self.group)

    def integrated(self, sites: tuple[DropoutSite, ...], method: Method | None) -> Integrated:
        """The same, the last layer's site among them integrated by formula."""
        assert self.last is not None
        last = self.last
        before = tuple(site for site in sites if site.name != last.site)
        site = next(site for site in sites if site.name == last.site)
        forward = self.forward(before, observe=last.site)
        return Integrated(forward, self.loss, site, last.weight, last.bias, method)

    def controlled(self, sites: tuple[DropoutSite, ...], method: MonteCarlo, seed: int) -> Evaluator:
        """The loss with the last layer's quadratic form as control variate, its coefficient from a pilot."""
        from allmasks.expect.controlled import Controlled, best_coefficient, pilot_blocks

        last, loss = self.last, self.loss
        plain = isinstance(loss, CrossEntropy) and loss.weight is None
        if last is None or last.site not in {site.name for site in sites} or not plain:
            raise MethodNotApplicable(
                "MonteCarlo",
                'control="quadratic" needs the cross-entropy, without class weights, of a Linear fed by a dropout site',
                "MonteCarlo() without it",
            )
        assert isinstance(loss, CrossEntropy)
        if self.forms:
            raise MethodNotApplicable("MonteCarlo", "the control needs batches of one shape", "MonteCarlo()")
        if any(
            bool((torch.as_tensor(batch.target) == loss.ignore_index).any())
            for batch in self.data
            if not torch.as_tensor(batch.target).is_floating_point()
        ):
            raise MethodNotApplicable("MonteCarlo", "the control needs targets without ignore_index", "MonteCarlo()")
        before = tuple(site for site in sites if site.name != last.site)
        site = next(site for site in sites if site.name == last.site)
        evaluate = Controlled(self.forward(before, observe=last.site), loss, site, last.weight, last.bias)
        pilot = SampledMasks(sites, method.sampler, pilot_masks(method.sampler), seed, first=_CONTROL_FIRST)
        job = self.job(pilot, evaluate, grad=False)

        def blocks() -> Tensor:
            with self.lent():
                return pilot_blocks(evaluate, self.data, pilot, self.weight, job.chunk_masks)

        evaluate.coefficient = best_coefficient(self.group.sum(self.group.run(blocks)))
        return evaluate

    def integrates_last(self, sites: tuple[DropoutSite, ...]) -> bool:
        """Whether the last of these sites feeds a Linear whose loss splits into scores."""
        if self.last is None or self.last.site not in {site.name for site in sites}:
            return False
        site = next(site for site in sites if site.name == self.last.site)
        return site.mean_preserving and site.batch_dim == 0 and self.splits

    def splits_into_scores(self, batch: Batch) -> bool:
        """Whether the loss of the last Linear's outputs is a sum of score losses for these examples."""
        return self._terms_loss(batch) is not None

    def _terms_loss(self, probe: Batch) -> str | None:
        assert self.last is not None
        terms = score_terms(self.loss, self.last.weight, self.last.bias, probe.target, len(probe))
        return None if terms is None else terms[0].loss

    def options(self, sites: tuple[DropoutSite, ...], request: Request) -> tuple[Option, ...]:
        """Every way to average over the masks of these sites."""
        if not sites:
            return (Option(ClosedForm(), "no mask varies: the loss in eval mode is the answer", "exact", 1),)
        integrates = self.integrates_last(sites)
        options = [*self._formula_options(sites, integrates), *self._enumeration_options(sites, request, integrates)]
        sampling = request.sampling
        drawn = 0 if sampling.atol or sampling.rtol else masks_drawn(sampling)
        block = blocks_of(sampling.sampler, drawn).block if drawn else sampling.sampler.block
        how = f"{type(sampling.sampler).__name__} masks in blocks of {block}"
        if integrates and len(sites) > 1 and self.last is not None:
            how += f"; the masks of {self.last.site} integrated exactly for each"
        options.append(Option(sampling, how, "statistical", drawn, integrates_last=integrates and len(sites) > 1))
        return tuple(options)

    def _formula_options(self, sites: tuple[DropoutSite, ...], integrates: bool) -> list[Option]:
        exact: Method = (
            Fourier()
            if integrates and self._terms_loss(self.data.first(INSPECTED_EXAMPLES)) == "logistic"
            else ClosedForm()
        )
        refusal = _dependent(sites)
        if refusal is not None:
            pass
        elif self.last is None:
            refusal = "no site feeds a Linear whose output is the model's output"
        elif not integrates:
            refusal = (
                f"the loss {self.loss.name} is no sum of squared, logistic or Poisson losses of single outputs"
                if self.last.site in {s.name for s in sites}
                else f"{self.last.site}, the site before the last Linear, is not random"
            )
        elif len(sites) > 1:
            others = ", ".join(site.name for site in sites if self.last and site.name != self.last.site)
            refusal = f"other sites are random too: {others}"
        how = f"the only random site feeds the last Linear: {exact.name} over all its masks"
        rows = [Option(exact, how, "exact", 1, refusal, integrates_last=True)]
        for method in (GaussianMoments(), Delta()):
            rows.append(Option(method, how, "uncontrolled", 1, refusal, integrates_last=True))
        return rows

    def _enumeration_options(self, sites: tuple[DropoutSite, ...], request: Request, integrates: bool) -> list[Option]:
        method = request.method if isinstance(request.method, Enumeration) else Enumeration()
        bits = sum(site.law.random_units for site in sites)
        refusal = _dependent(sites)
        if refusal is None and any(map(self.varies_in_form, sites)):
            refusal = "batches are of several shapes, and each has masks of its own"
        if refusal is None and 2**bits > method.max_masks:
            refusal = f"{bits} random bits are 2^{bits} masks, more than max_masks={method.max_masks}"
        rows = [Option(method, "every mask, weighted by its probability", "exact", 2 ** min(bits, 1000), refusal)]
        if integrates and len(sites) > 1 and self.last is not None:
            last = self.last.site
            rest = bits - next(site.law.random_units for site in sites if site.name == last)
            refusal = refusal if self.forms else _dependent(sites)
            if refusal is None and 2**rest > method.max_masks:
                refusal = f"{rest} random bits are 2^{rest} masks, more than max_masks={method.max_masks}"
            how = f"every mask of the sites before {last}, whose own masks are integrated exactly for each"
            rows.append(Option(method, how, "exact", 2 ** min(rest, 1000), refusal, integrates_last=True))
        return rows

    def plan(self, request: Request, only: frozenset[str] | None = None) -> Plan:
        """The plan for these sites (all random ones by default)."""
        sites = self._active(only)
        self._refuse_uncontrolled(sites)
        options = self.options(sites, request)
        n = self.n_examples
        if request.method is None or not sites:
            chosen, reasons = choose(options, n, request.budget, request.n_masks)
        else:
            candidates = tuple(o for o in options if type(o.method) is type(request.method))
            if not candidates:
                raise self._not_applicable(request.method, options, "a loss it has a formula for")
            runnable = [o for o in candidates if o.applies]
            if not runnable:
                raise self._not_applicable(request.method, options, str(candidates[0].refusal))
            chosen = runnable[0]
            if not isinstance(request.method, MonteCarlo):
                chosen = Option(
                    request.method, chosen.how, chosen.guarantee, chosen.n_masks, None, chosen.integrates_last
                )
                options = tuple(chosen if o is runnable[0] else o for o in options)
            reasons = tuple(o.refusal or "another method was asked for" for o in options)
        return Plan(
            sites=self.sites,
            n_examples=n,
            loss=self.loss.name,
            mask_bits=sum(site.law.random_units for site in sites),
            chosen=chosen,
            options=options,
            reasons=reasons,
            evaluations=None if chosen.n_masks == 0 else chosen.n_masks * n,
            notes=self.notes,
        )

    def expected(
        self,
        request: Request,
        only: frozenset[str] | None = None,
        *,
        plan: Plan | None = None,
        grad: bool = True,
        tick: Callable[[int], None] | None = None,
        start: Callable[[int], None] | None = None,
    ) -> ExpectedLoss:
        """E_m[L] over the masks of the sites named in `only` (all random ones by default), others at the mean mask."""
        sites = self._active(only)
        plan = plan or self.group.run(lambda: self.plan(request, only))
        chosen = plan.chosen
        method: Method = chosen.method
        evaluate: Evaluator
        if not sites:
            return self._nothing_varies(method, grad)
        if chosen.integrates_last:
            formula = method if isinstance(method, ClosedForm | Fourier | GaussianMoments | Delta) else None
            evaluate = self.integrated(sites, formula)
            sampled = tuple(site for site in sites if self.last is None or site.name != self.last.site)
        else:
            evaluate, sampled = self.plain(sites, proven=not isinstance(method, MonteCarlo)), sites
        source: MaskSource
        if isinstance(method, MonteCarlo) and method.control is not None and not chosen.integrates_last:
            evaluate = self.controlled(sites, method, request.seed)
        unseen: Unseen | None = None
        remarks: tuple[str, ...] = ()
        if isinstance(method, MonteCarlo):
            n_masks = chosen.n_masks
            if not n_masks:
                n_masks, remarks = masks_for_tolerance(self, method, evaluate, sampled, request)
            source = SampledMasks(sampled, method.sampler, n_masks, request.seed)
            unseen = seldom_changes(self.job(source, evaluate, grad=False))
        else:
            source = EveryMask(sampled) if sampled else NoMask()
        if start is not None:
            start(source.n_masks * self.data.n_examples)
        solution = solve(self.job(source, evaluate, grad=grad, tick=tick))
        if grad and is_sharded(self.model):
            solution = replace(solution, per_example=without_gradient(solution.per_example))
        return self._result(solution, method, source.n_masks if sampled else 0, unseen, remarks)

    def _result(
        self, solution: Solution, method: Method, n_masks: int, unseen: Unseen | None, remarks: tuple[str, ...]
    ) -> ExpectedLoss:
        total = self.group.sum
        value = total((self.weight * solution.per_example).sum())
        reliable, sizes = solution.guarantee != "uncontrolled", None
        if solution.totals is not None and solution.blocks is not None:
            sizes = solution.blocks.sizes
            replicates = block_means(solution.totals, solution.blocks.block)
            _, error = mean_and_error(replicates, sizes)
            verdict = judge(solution.totals.cpu().numpy(), solution.blocks, unseen)
            reliable = verdict.reliable
            remarks = (*remarks, verdict.note) if verdict.note else remarks
            error = torch.full_like(error, math.nan) if verdict.alike else error
        else:
            replicates = None
            error = total((self.weight * solution.per_example_error).sum())
            if solution.guarantee in ("exact", "bounded"):
                error = error + (self.n_examples + 64) * torch.finfo(torch.float64).eps * total(
                    (self.weight * solution.per_example.detach().abs()).sum()
                )
        at_mean = total((self.weight * self.weight_scaling).sum())
        return ExpectedLoss(
            value=value,
            error=error,
            guarantee=solution.guarantee,
            method=method,
            n_masks=n_masks,
            per_example=self.group.concatenate(solution.per_example),
            per_example_error=self.group.concatenate(solution.per_example_error),
            weight_scaling_loss=at_mean,
            penalty=value - at_mean,
            penalty_error=error + total((self.weight * self.weight_scaling_error).sum()),
            replicates=replicates,
            replicate_masks=sizes,
            reliable=reliable,
            notes=(*self.notes, *remarks),
        )

    def _nothing_varies(self, method: Method, grad: bool) -> ExpectedLoss:
        solution = solve(self.job(NoMask(), self.plain(()), grad=grad))
        value = self.group.sum((self.weight * solution.per_example).sum())
        error = self.group.sum((self.weight * solution.per_example_error).sum())
        zero = torch.zeros_like(value.detach())
        return ExpectedLoss(
            value=value,
            error=error,
            guarantee="exact",
            method=method,
            n_masks=0,
            per_example=self.group.concatenate(solution.per_example),
            per_example_error=self.group.concatenate(solution.per_example_error),
            weight_scaling_loss=value.detach(),
            penalty=zero,
            penalty_error=zero,
            notes=self.notes,
        )

    def _active(self, only: frozenset[str] | None) -> tuple[DropoutSite, ...]:
        return tuple(site for site in self.random_sites if only is None or site.name in only)

    def _refuse_uncontrolled(self, sites: tuple[DropoutSite, ...]) -> None:
        stuck = [site for site in sites if not site.controllable]
        if stuck:
            listed = "; ".join(f"{site.name} ({site.reason})" for site in stuck)
            raise UncontrolledRandomness(
                "these dropout sites cannot be given masks, and leaving them off would answer another question: "
                f"{listed}"
            )

    def _not_applicable(self, method: Method, options: tuple[Option, ...], needs: str) -> MethodNotApplicable:
        others = ", ".join(dict.fromkeys(f"{o.method.name}()" for o in options if o.applies))
        return MethodNotApplicable(method.name, needs, f"method=None, or one of am.methods: {others}")


def _takes_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and not tensor.is_inference()


def _dependent(sites: tuple[DropoutSite, ...]) -> str | None:
    """Why exact methods do not apply: a site whose units are not independent."""
    return next((f"{site.name}: {site.dependent}" for site in sites if site.dependent), None)
