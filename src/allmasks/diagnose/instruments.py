"""Every instrument at every site of a model, on as many examples and units as an audit can afford."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from allmasks.diagnose.co_adaptation import CoAdaptation, measure_co_adaptation
from allmasks.diagnose.concentration import Concentration, measure_concentration
from allmasks.diagnose.robustness import Robustness, measure_robustness
from allmasks.diagnose.scaled_units import ScaledUnits, refusal
from allmasks.diagnose.unit_penalty import UnitPenalty, measure_unit_penalty
from allmasks.expect import Expectation, prepare
from allmasks.ranks.groups import EACH_THE_SAME
from allmasks.ranks.sharded import same_batch
from allmasks.results import Note
from allmasks.sites import DropoutSite, is_sharded

__all__ = ["SiteInstruments", "measure_sites"]

EXAMPLES = 128
MAX_UNITS = 512
MAX_SITES = 32
_PAIRS = 512
_ORDERS = 16


@dataclass(frozen=True)
class SiteInstruments:
    """What the instruments say of one site, on the first examples of the data."""

    site: DropoutSite
    n_examples: int
    unit_penalty: UnitPenalty
    co_adaptation: CoAdaptation
    concentration: Concentration
    robustness: Robustness


def measure_sites(
    problem: Expectation, dearest: Sequence[str], seed: int, tick: Callable[[int], None] = lambda done: None
) -> tuple[tuple[SiteInstruments, ...], tuple[str, ...]]:
    """The instruments at random sites of up to 512 units, on the first 128 examples; and why others have none.

    Every instrument of a site runs all that follows it, so a net of hundreds of sites would take their square.

    Parameters
    ----------
    dearest : the sites' names, those that add most first; of those that can be measured, the first 32 are.
    """
    batch, group = problem.look.data.first(EXAMPLES), None
    found: list[SiteInstruments] = []
    notes: list[str] = []
    if is_sharded(problem.look.model):
        # Its ranks can only look together, and so at the same examples.
        batch, group = same_batch(problem.look.model, problem.look.group, batch, problem.look.data), EACH_THE_SAME
        notes.append(Note("No curvature was measured: a model sharded by FSDP is not differentiated."))
    few = prepare(
        problem.look.model,
        batch.args or batch.kwargs,
        batch.target,
        problem.loss,
        batch_dim=problem.look.data.batch_dim,
        leave_off=problem.look.leave_off,
        group=group,
    )
    measurable = [site.name for site in few.look.random_sites if refusal(site) is None and 2 <= site.units <= MAX_UNITS]
    left = set(sorted(measurable, key=list(dearest).index)[MAX_SITES:])
    if left:
        notes.append(
            Note(
                "Of {count} sites, the {most} that add most were measured unit by unit; am.diagnose takes any.",
                count=len(measurable),
                most=MAX_SITES,
            )
        )
    for site in few.look.random_sites:
        if site.name in left:
            continue
        why = refusal(site)
        if why is None and site.units > MAX_UNITS:
            why = Note(
                "it has {units} units, more than {limit}; call one instrument of am.diagnose at a time",
                units=f"{site.units:,}",
                limit=MAX_UNITS,
            )
        if why is None and site.units < 2:
            why = Note("it has a single unit")
        if why is not None:
            notes.append(Note("{site} was not measured unit by unit: {why}.", site=site.name, why=why))
            continue
        run = ScaledUnits(few, site)
        found.append(
            SiteInstruments(
                site=site,
                n_examples=len(batch),
                unit_penalty=measure_unit_penalty(run),
                co_adaptation=measure_co_adaptation(run, _PAIRS, seed),
                concentration=measure_concentration(run, _ORDERS, seed),
                robustness=measure_robustness(run, n_orders=_ORDERS, seed=seed),
            )
        )
        tick(0)
    return tuple(found), tuple(notes)
