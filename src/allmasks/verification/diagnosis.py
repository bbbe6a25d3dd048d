"""From tests to findings: what was seen, and what that looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allmasks.results import Note
from allmasks.verification.faults import Check, Finding
from allmasks.verification.law_trials import LawTrials
from allmasks.verification.lawful import Law, Lawful
from allmasks.verification.odds import larger_spread, two_means
from allmasks.verification.trial import Trial

__all__ = ["Evidence", "adjusted", "diagnose"]


@dataclass(frozen=True)
class Evidence:
    """All tests of a run.

    Attributes
    ----------
    inside : of masks that were seen, meant : against the expectation, evaluation : of eval mode, law : of losses.
    unmet : names of the model's sites that no witnessed pass met.
    at_mean : the loss in eval mode; losses : of the passes.
    """

    inside: Sequence[Trial]
    meant: Sequence[Trial]
    evaluation: Sequence[Trial]
    law: LawTrials
    unmet: Sequence[str]
    losses: np.ndarray
    at_mean: float
    reference: Law | None
    lawful: Lawful | None
    n_examples: int
    resolution: float

    @property
    def all(self) -> list[Trial]:
        return [*self.meant, *self.inside, *self.evaluation, *self.law.trials]


def adjusted(trials: Sequence[Trial]) -> list[float]:
    """p-values times the number of tests (Bonferroni): at most `level` false alarms in all.

    A p-value of 1 counts: what came out so had a chance to come out otherwise.
    """
    return [min(1.0, trial.p_value * len(trials)) for trial in trials]


def diagnose(evidence: Evidence, level: float) -> tuple[tuple[Finding, ...], tuple[Check, ...]]:
    """The findings, and every check with its adjusted p-value."""
    trials = evidence.all
    told = dict(zip(map(id, trials), adjusted(trials), strict=True))
    checks = tuple(Check(t.site, t.property, t.expected, t.seen, told[id(t)]) for t in trials)

    def failed(some: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in some if told[id(trial)] <= level and trial.fault]

    inside = _first_of_each(failed(evidence.inside))
    found = [*failed(evidence.meant), *inside, *failed(evidence.evaluation)]
    in_law = failed(evidence.law.trials)
    mismatched = any(t.property == "eval mode loss" for t in found)
    if in_law and not inside and not mismatched:
        found += _explained(evidence, in_law)
    return tuple(
        Finding(t.site, t.property, t.expected, t.seen, told.get(id(t), t.p_value), t.fault, t.where, t.sentence)
        for t in _first_of_each(found)
    ), checks


def _first_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """One line a site and fault: the clearest."""
    best: dict[tuple[str, str], Trial] = {}
    for trial in trials:
        key = trial.site, trial.fault
        if key not in best or trial.p_value < best[key].p_value:
            best[key] = trial
    return list(best.values())


def _explained(evidence: Evidence, failed: Sequence[Trial]) -> list[Trial]:
    """What the losses look like, where no mask that was seen says it."""
    law, losses = evidence.law, evidence.losses
    strongest = min(failed, key=lambda trial: trial.p_value)

    def told(fault: str, sentence: Note, site: str = "", where: str = "step") -> list[Trial]:
        return [replace(strongest, fault=fault, sentence=sentence, site=site, where=where)]

    still = float(np.ptp(losses)) <= evidence.resolution
    if still and math.isfinite(law.ratio) and law.ratio < 0.5:
        if abs(float(losses.mean()) - evidence.at_mean) <= 2 * evidence.resolution:
            return told(
                "off",
                Note(
                    "every pass has the loss of eval mode, {loss:.6g}: nothing is dropped. The step runs in eval "
                    "mode, or its "
                    "rates never reach the kernels.",
                    loss=law.mean,
                ),
            )
        return told(
            "same_each_step",
            Note(
                "all {passes} passes have one loss, {loss:.6g}, which is not that of eval mode: every step reuses "
                "one mask. A "
                "generator is reseeded, a mask is kept, or a captured graph replays one seed.",
                passes=len(losses),
                loss=law.mean,
            ),
        )
    fresh = [trial for trial in failed if trial.fault == "same_each_step"]
    if fresh:
        return fresh[:1]
    if len(evidence.unmet) == 1 and any(t.fault == "law" for t in failed):
        site = evidence.unmet[0]
        if _losses_without(evidence, site):
            return told("off", _not_met(site, law), site, site)
    by_gradient = [trial for trial in failed if trial.fault == "backward_mask"]
    by_loss = [trial for trial in failed if trial.fault == "law"]
    if by_gradient and not by_loss:
        return [min(by_gradient, key=lambda trial: trial.p_value)]
    mean_failed = any(trial.property == "mean loss" for trial in by_loss)
    if not mean_failed and law.ratio > 1 and evidence.n_examples > 1:
        return told(
            "shared_by_examples",
            Note(
                "the mean loss is right and the batch loss varies {ratio:.2g} times as much as it would if each "
                "example had masks "
                "of its own: examples share their masks.",
                ratio=law.ratio,
            ),
        )
    candidate = _candidate(evidence)
    if candidate is not None:
        return told(*candidate)
    return by_loss[:1] or [strongest]


def _losses_without(evidence: Evidence, site: str) -> bool:
    """Whether the losses are those of a step in which this site drops nothing."""
    reference = evidence.reference
    if reference is None:
        return False
    others = frozenset(one.name for one in reference.problem.look.random_sites) - {site}
    return _fit(evidence, reference.at_rates({}, max(128, len(evidence.losses)), others)) > _FITS


_FITS = 0.003
"""A p-value that is no sign of another law."""


def _fit(evidence: Evidence, draws: np.ndarray) -> float:
    resolution = evidence.resolution
    if max(float(np.ptp(draws)), float(np.ptp(evidence.losses))) <= 2 * resolution:
        return 1.0 if abs(float(draws.mean() - evidence.losses.mean())) <= 2 * resolution else 0.0
    return min(two_means(evidence.losses, draws, resolution), larger_spread(evidence.losses, draws))


def _not_met(site: str, law: LawTrials) -> Note:
    return Note(
        "{site} is a site of the model that the step never called, and its mean loss {seen:.6g} is not E_m[L] = "
        "{expected:.6g}: "
        "the step leaves this dropout out, as a fast path or another code path does.",
        site=site,
        seen=law.mean,
        expected=law.expected,
    )


def _candidate(evidence: Evidence) -> tuple[str, Note, str, str] | None:
    """A site of which one fault gives the losses that were seen: tried with the library's own means."""
    if evidence.reference is None:
        return None
    reference = evidence.reference
    names = [site.name for site in reference.problem.look.random_sites if 0 < site.p < 1]
    rates = {site.name: site.p for site in reference.problem.look.random_sites}
    if not names or len(names) > 16:
        return None
    n = min(len(evidence.losses), 128)
    tries: list[tuple[str, str, Callable[[], np.ndarray]]] = []
    for name in names:
        others = frozenset(rates) - {name}
        twice, swapped = 1 - (1 - rates[name]) ** 2, 1 - rates[name]
        tries.append(("off", name, lambda others=others: reference.at_rates({}, n, others)))  # type: ignore[misc]
        tries.append(("twice", name, lambda a=name, p=twice: reference.at_rates({a: p}, n)))  # type: ignore[misc]
        if abs(swapped - rates[name]) > 0.02:
            tries.append(("rate", name, lambda a=name, p=swapped: reference.at_rates({a: p}, n)))  # type: ignore[misc]
    fits = []
    for fault, name, draws in tries:
        try:
            values = draws()
        except ValueError:
            continue
        fit = _fit(evidence, values)
        if fit > _FITS:
            fits.append((fit, fault, name))
    if len(fits) != 1:
        return None
    _, fault, name = fits[0]
    site = {"site": name}
    sentences = {
        "off": Note("the losses are those of a step in which {site} drops nothing.", **site),
        "twice": Note("the losses are those of a step in which {site} drops twice.", **site),
        "rate": Note("the losses are those of a step in which {site} has p and 1 − p swapped.", **site),
    }
    return fault, sentences[fault], name, name
