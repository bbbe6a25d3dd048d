"""Ranks whose masks are the same where each must have its own, or differ where they must be shared."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import combinations

import numpy as np
from scipy import stats

from allmasks.ranks.groups import Group
from allmasks.results import Note
from allmasks.sites.naming import path_of
from allmasks.verification.mask_trials import SiteMasks
from allmasks.verification.odds import agreement
from allmasks.verification.trial import Trial

__all__ = ["averaged_over_ranks", "rank_trials"]

_PASSES, _BITS = 8, 1 << 14
"""What of a site's masks is sent to the other ranks: so many passes, and bits of each."""


def rank_trials(
    ranks: Group, found: Sequence[SiteMasks], losses: Sequence[float], same_masks: Sequence[str]
) -> list[Trial]:
    """Every pair of ranks, site by site, and their losses; the same list on every rank."""
    if ranks.size == 1:
        return []
    own = {
        one.name: one.bits[:_PASSES].reshape(min(len(one.bits), _PASSES), -1)[:, :_BITS]
        for one in found
        if one.bits is not None
    }
    told = ranks.gather(own)
    trials = []
    for name in told[0]:
        everywhere = [bits[name] for bits in told if name in bits]
        if len(everywhere) == ranks.size:
            trials += _of_site(name, everywhere, _asked_for(name, same_masks))
    series = ranks.gather(list(losses))
    if not same_masks and len({len(one) for one in series}) == 1 and len(losses) >= 16:
        trials += _of_losses(series)
    return trials


def _asked_for(name: str, patterns: Sequence[str]) -> bool:
    return any(pattern in (name, path_of(name)) or fnmatchcase(name, pattern) for pattern in patterns)


def _of_site(name: str, bits: Sequence[np.ndarray], shared: bool) -> list[Trial]:
    trials = []
    for (i, one), (j, other) in combinations(enumerate(bits), 2):
        passes, n = min(len(one), len(other)), min(one.shape[1], other.shape[1])
        a, b = one[:passes, :n].ravel(), other[:passes, :n].ravel()
        share, p_value = agreement(a, b)
        fields = {"site": name, "one": i, "other": j}
        if shared:
            equal = bool((a == b).all())
            sentence = Note(
                "{site}: ranks {one} and {other} draw different masks where same_masks says that they share them: "
                "their generators are not in step.",
                **fields,
            )
            wanted, p_value = "the same masks", 1.0 if equal else 0.0
        else:
            sentence = Note(
                "{site}: ranks {one} and {other} share their masks ({share:.0%} of bits agree): every rank was seeded "
                "alike. Add the rank to the seed of training.",
                **fields,
                share=share,
            )
            wanted = "no relation"
        trials.append(
            Trial(name, f"ranks {i} and {j}", wanted, f"{share:.1%} agree", p_value, "shared_by_ranks", name, sentence)
        )
    return trials


def _of_losses(series: Sequence[Sequence[float]]) -> list[Trial]:
    trials = []
    for (i, one), (j, other) in combinations(enumerate(series), 2):
        if np.ptp(one) == 0 or np.ptp(other) == 0:
            continue
        related = stats.spearmanr(one, other)
        sentence = Note(
            "losses of ranks {one} and {other} move together (rank correlation {seen:.2f}): they share their masks.",
            one=i,
            other=j,
            seen=float(related.statistic),
        )
        trials.append(
            Trial(
                "", f"losses of ranks {i} and {j}", "0", f"{related.statistic:.3f}", float(related.pvalue),
                "shared_by_ranks", "step", sentence,
            )
        )  # fmt: skip
    return trials


def averaged_over_ranks(ranks: Group, seen: Sequence[Sequence[float]], lawful: np.ndarray) -> np.ndarray:
    """The law's gradients as the step has them: their mean over ranks, where the step's are the same on all of them."""
    if ranks.size == 1:
        return lawful
    firsts = [np.asarray(one) for one in ranks.gather([list(row) for row in seen[:4]])]
    alike = all(one.shape == firsts[0].shape and np.allclose(one, firsts[0], rtol=1e-5, atol=1e-12) for one in firsts)
    everywhere = [np.asarray(one) for one in ranks.gather(lawful.tolist())]
    if not alike or not len(firsts[0]) or len({one.shape for one in everywhere}) > 1:
        return lawful
    return np.mean(everywhere, axis=0)
