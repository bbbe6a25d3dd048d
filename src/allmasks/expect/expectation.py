"""A model's loss on its data, looked at once and ready to be averaged over masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from allmasks.expect.controlled import check_control, controlled
from allmasks.expect.loss import ModelLoss
from allmasks.expect.under_masks import Bounded, Integrated, Plain, plain, terms_of
from allmasks.methods import ClosedForm, Method, MonteCarlo, SoftmaxBounds
from allmasks.methods.options import DEFAULT_BUDGET, Option, Sites, Treatment, dependent, over_budget
from allmasks.over_masks.look import INSPECTED_EXAMPLES, Look
from allmasks.over_masks.passes import Evaluator, Job, Solution, solve
from allmasks.over_masks.plan import Plan, plan
from allmasks.over_masks.request import Request
from allmasks.over_masks.seldom import seldom_changes
from allmasks.over_masks.sources import MaskSource, NoMask, source_of
from allmasks.ranks.sharded import without_gradient
from allmasks.reliability import Unseen, judge
from allmasks.results import ExpectedLoss, Guarantee, Note
from allmasks.sampling import PILOT_FIRST, Blocks, Cap, Pilot, masks_for_tolerance, wanted_error
from allmasks.sites import is_sharded

__all__ = ["Expectation"]


@dataclass(frozen=True)
class Expectation:
    """E_m[L] of a model on its data: see `prepare`, which makes it.

    Attributes
    ----------
    look : the model and its data.
    weight : what each example's loss is multiplied by: its share, or, for a loss that is summed over examples, its
        sample weight. share : what each example is of all; sums to 1.
    weight_scaling, weight_scaling_error : the loss of each example in eval mode.
    splits : whether the loss of the last Linear's outputs is a sum of score losses for every example.
    classed : whether it is a cross-entropy of their softmax for every example.
    """

    look: Look
    loss: ModelLoss
    weight: Tensor
    share: Tensor
    weight_scaling: Tensor
    weight_scaling_error: Tensor
    splits: bool
    classed: bool = False

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the data, the model and its sites."""
        notes = list(self.look.notes)
        if not (self.look.sites or self.look.leave_off):
            notes.append(
                Note(
                    "No dropout was found, so E_m[L] is the loss in eval mode. Hand-written dropout is seen once it is "
                    "registered with am.register_dropout (how-to/my-model-was-refused)."
                )
            )
        notes += [
            Note(
                "{site} ({kind}) does not keep the mean: eval mode is not the loss at its mean mask.",
                site=site.name,
                kind=site.kind,
            )
            for site in self.look.sites
            if not site.mean_preserving and site.p > 0
        ]
        return tuple(notes)

    def job(
        self, source: MaskSource, evaluate: Evaluator, *, grad: bool = True, tick: Callable[[int], None] | None = None
    ) -> Job:
        """A mean over these masks, chunked to a bounded amount of memory."""
        inputs = self.look.leaves() if grad else ()
        return Job(self.look, source, evaluate, self.weight, inputs, tick or (lambda done: None))

    # -- what `Averaged` asks for: the options of a loss ---------------------------------------------------------------

    keeps_samples = False
    integrates_below = True
    bounds_by_themselves = True

    @property
    def title(self) -> Mapping[str, Any]:
        return {"loss": self.loss.name}

    def unvaried(self, method: Method | None) -> Option:
        return Option(ClosedForm(), "no mask varies: the loss in eval mode is the answer", "exact", 1)

    def integrates(self, sites: Sites) -> bool:
        _, last = self.look.split(sites)
        return last is not None and last.mean_preserving and (last.batch_dim == 0 or last.joint) and self.splits

    @cached_property
    def _last_loss(self) -> str:
        """Of which score losses that of the last Linear's outputs is a sum."""
        terms = terms_of(self.loss, self.look.last, self.look.data.first(INSPECTED_EXAMPLES))
        assert terms is not None
        return terms[0].loss

    def formula(self, method: Method, sites: Sites) -> tuple[Guarantee, str | None] | None:
        integrates = self.integrates(sites)
        # Where there is nothing to integrate, the methods of the simplest loss say so.
        guarantee = method.integrates(self._last_loss if integrates else "squared_error")
        if guarantee is None:
            return None
        refusal = dependent(sites)
        if refusal is None and self.look.last is None:
            refusal = "no site feeds a Linear whose output is the model's output"
        if refusal is None and not integrates:
            refusal = f"the loss {self.loss.name} is no sum of squared, logistic or Poisson losses of single outputs"
            if self.look.last is not None and self.look.split(sites)[1] is None:
                refusal = f"{self.look.last.site}, the site before the last Linear, is not random"
        return guarantee, refusal

    def unbounded(self, sites: Sites) -> str | None:
        _, last = self.look.split(sites)
        if self.look.last is None:
            return "no site feeds a Linear whose output is the model's output"
        if last is None:
            return f"{self.look.last.site}, the site before the last Linear, is not random"
        if not self.classed:
            return f"the loss {self.loss.name} is no cross-entropy of one softmax an example"
        if self.splits:
            return "the softmax of two classes is integrated exactly by Fourier()"
        if not last.mean_preserving or last.batch_dim != 0:
            return f"{last.name} does not drop each example's units by themselves"
        return dependent((last,))

    def unlisted(self, sites: Sites) -> str | None:
        return dependent(sites)

    def too_many(self, n_masks: int, request: Request) -> str | None:
        n = self.look.n_examples
        at_most = max((request.budget or DEFAULT_BUDGET) // n, request.n_masks or 0)
        # A number of masks that is asked for caps how many are listed, unless a budget allows for more.
        if request.n_masks is not None and request.budget is None:
            at_most = request.n_masks
        return over_budget(n_masks, at_most, n, request)

    def sampled(self, sites: Sites, method: MonteCarlo) -> Treatment:
        others, last = self.look.split(sites)
        if last is None or not others or not self.integrates(sites):
            if method.control is not None:
                check_control(self.look, self.loss, sites)
            return Treatment(sites)
        return Treatment(others, True, how=f"; the masks of {last.name} integrated exactly for each")

    def instead(self, method: Method, options: tuple[Option, ...]) -> str:
        others = ", ".join(dict.fromkeys(f"{o.method.name}()" for o in options if o.applies))
        return f"method=None, or one of am.methods: {others}"

    # -- from a plan to the result -------------------------------------------------------------------------------------

    def plan(self, request: Request, only: frozenset[str] | None = None) -> Plan:
        """The plan for the sites named in `only` (all random ones by default)."""
        return plan(self, self._active(only), request)

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
        if plan is None:
            plan = self.look.group.run(lambda: self.plan(request, only))
            self.look.group.agree({"the method that its batches' shapes allow (pass method=)": repr(plan.method)})
        if not sites:
            return self._result(solve(self.job(NoMask(), self.plain(()), grad=grad)), plan.method, 0, varies=False)
        found = self._run(plan.chosen, sites, request, grad=grad, tick=tick, start=start)
        wide = self._too_wide(plan.chosen, found, request)
        if wide is not None:
            found = self._run(plan.without(plan.chosen), sites, request, grad=grad, tick=tick, start=start)
            found = replace(found, notes=(*found.notes, wide))
        return found

    def _too_wide(self, chosen: Option, found: ExpectedLoss, request: Request) -> Note | None:
        """A note, where bounds that were chosen by themselves are wider in the mean than they should be."""
        if request.method is not None or not isinstance(chosen.method, SoftmaxBounds):
            return None
        wanted, error = chosen.method.tol, float(found.error)
        if request.rtol is not None:
            wanted = max(request.atol or 0.0, request.rtol * abs(float(found.value)))
        if error <= wanted:
            return None
        return Note(
            "Proven bounds of the softmax over the last layer's masks were {error} wide to each side, more than {tol}: "
            "masks were sampled instead.",
            error=f"{error:.2g}",
            tol=f"{wanted:.2g}",
        )

    def _run(
        self,
        chosen: Option,
        sites: Sites,
        request: Request,
        *,
        grad: bool,
        tick: Callable[[int], None] | None,
        start: Callable[[int], None] | None,
    ) -> ExpectedLoss:
        """The mean loss by one option of the plan."""
        method = chosen.method
        evaluate = self._evaluator(chosen, sites, request.seed, strict=request.method is not None and not chosen.sites)
        unseen: Unseen | None = None
        n_masks, remarks = chosen.n_masks, tuple[str, ...]()
        if chosen.sampler is not None:
            if isinstance(method, MonteCarlo | SoftmaxBounds) and not n_masks:
                n_masks, remarks = self._enough(chosen, request.sampling, evaluate, request)
            source = source_of(chosen, n_masks, request.seed)
            unseen = seldom_changes(self.job(source, evaluate, grad=False))
        else:
            source = source_of(chosen, n_masks, request.seed)
        if start is not None:
            start(source.n_masks * self.look.data.n_examples)
        solution = solve(self.job(source, evaluate, grad=grad, tick=tick))
        if grad and is_sharded(self.look.model):
            solution = replace(solution, per_example=without_gradient(solution.per_example))
        return self._result(solution, method, source.n_masks if chosen.sites else 0, unseen, remarks)

    def plain(self, sites: Sites, *, proven: bool = True) -> Plain:
        """The loss under masks of these sites, all others at their mean mask; see `under_masks.plain`."""
        return plain(self.look, self.loss, sites, proven=proven)

    def _evaluator(self, chosen: Option, sites: Sites, seed: int, *, strict: bool) -> Evaluator:
        method, look = chosen.method, self.look
        if chosen.integrates_last:
            others, site = look.split(sites)
            assert site is not None
            assert look.last is not None
            if isinstance(method, SoftmaxBounds):
                forward = look.forward(others, observe=site.name)
                return Bounded(forward, self.loss, site, look.last, method, strict=strict)
            formula = None if chosen.sites else method
            return Integrated(look.forward(others, observe=site.name), self.loss, site, look.last, formula)
        if isinstance(method, MonteCarlo) and method.control is not None:
            return controlled(look, self.loss, self.weight, sites, method, seed)
        return self.plain(sites, proven=chosen.sampler is None)

    def _enough(
        self, chosen: Option, method: MonteCarlo, evaluate: Evaluator, request: Request
    ) -> tuple[int, tuple[str, ...]]:
        """Masks for a standard error of at most max(atol, rtol · |value|), and what stopped the run if capped."""

        def pilot(blocks: Blocks) -> Pilot:
            job = self.job(source_of(chosen, blocks.n_masks, request.seed, PILOT_FIRST), evaluate, grad=False)
            totals = solve(job).totals
            assert totals is not None
            _, mean, error = blocks.mean_and_error(totals)
            wanted = wanted_error(method, float(mean))
            return Pilot(float(error), wanted, judge(totals.cpu().numpy(), blocks, seldom_changes(job)))

        return masks_for_tolerance(method, Cap.of(method, request.budget, self.look.n_examples), pilot)

    def _result(
        self,
        solution: Solution,
        method: Method,
        n_masks: int,
        unseen: Unseen | None = None,
        remarks: tuple[str, ...] = (),
        *,
        varies: bool = True,
    ) -> ExpectedLoss:
        total = self.look.group.sum
        value = total((self.weight * solution.per_example).sum())
        bound: Any = 0.0
        reliable, sizes, replicates = solution.guarantee != "uncontrolled", None, None
        if solution.totals is not None and solution.blocks is not None:
            sizes = solution.blocks.sizes
            replicates, _, error = solution.blocks.mean_and_error(solution.totals)
            verdict = judge(solution.totals.cpu().numpy(), solution.blocks, unseen)
            reliable = verdict.reliable
            remarks = (*remarks, verdict.note) if verdict.note else remarks
            error = torch.full_like(error, math.nan) if verdict.alike else error
            if isinstance(method, SoftmaxBounds) and solution.inner is not None:
                bound = total((self.weight * solution.inner).sum())
                error = error + bound
                remarks = (*remarks, _carried(float(bound)))
        else:
            error = total((self.weight * solution.per_example_error).sum())
            if varies and solution.guarantee in ("exact", "bounded"):
                error = error + (self.look.n_examples + 64) * torch.finfo(torch.float64).eps * total(
                    (self.weight * solution.per_example.detach().abs()).sum()
                )
        at_mean = total((self.weight * self.weight_scaling).sum()) if varies else value.detach()
        round_off = total((self.weight * self.weight_scaling_error).sum())
        return ExpectedLoss(
            value=value,
            error=error,
            guarantee=solution.guarantee,
            method=method,
            n_masks=n_masks,
            per_example=self.look.group.concatenate(solution.per_example),
            per_example_error=self.look.group.concatenate(solution.per_example_error),
            weight_scaling_loss=at_mean,
            # Nothing is random, and so nothing is paid for it.
            penalty=value - at_mean if varies else torch.zeros_like(at_mean),
            penalty_error=error + round_off if varies else torch.zeros_like(at_mean),
            replicates=replicates,
            replicate_masks=sizes,
            reliable=reliable,
            bound=bound,
            notes=(*self.notes, *remarks),
        )

    def _active(self, only: frozenset[str] | None) -> Sites:
        return tuple(site for site in self.look.random_sites if only is None or site.name in only)


def _carried(bound: float) -> Note:
    return Note(
        "The last layer's masks were held between proven bounds for each mask of the other sites: {bound} of the error "
        "is proven.",
        bound=f"{bound:.2g}",
    )
