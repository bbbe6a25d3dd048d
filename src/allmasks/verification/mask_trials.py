"""Masks that were met, site by site: rate, scale, and what they know of each other over steps, examples, time and "
"units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from allmasks.results import Note
from allmasks.sites import DropoutSite
from allmasks.sites.naming import path_of
from allmasks.verification.meant import rate_trial
from allmasks.verification.odds import agreement, binomial, both_zero
from allmasks.verification.trial import Trial
from allmasks.verification.witness import Bits, Mask

__all__ = ["SiteMasks", "across_sites", "mask_trials"]

_SHARED = {"examples": "shared_by_examples", "time": "shared_over_time"}
_SAID = {
    "examples": Note("examples"),
    "time": Note("time"),
    "units": Note("units"),
    "heads": Note("heads"),
}


@dataclass
class SiteMasks:
    """A site's masks over the passes that were looked into.

    Attributes
    ----------
    bits : (passes, examples, …) with the axes named by `roles`; None where no bits were seen.
    p : the rate that is meant. said : rates that the calls were given.
    shape_fault : the role of an axis along which one bit serves all although the model has more.
    """

    name: str
    where: str
    p: float
    masks: list[Mask]
    bits: Bits | None = None
    roles: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    said: list[float] = field(default_factory=list)

    @staticmethod
    def of(site: DropoutSite | None, masks: list[Mask], n: int) -> SiteMasks:
        """Put together from the masks of one name in each pass."""
        first = masks[0]
        p = first.p if site is None or math.isnan(site.p) else site.p
        found = SiteMasks(first.name if site is None else site.name, _where(first), p, masks)
        found.said = [m.p for m in masks if not math.isnan(m.p)]
        known = [m.bits for m in masks if m.bits is not None]
        if known and len({bits.shape for bits in known}) == 1:
            if not first.sure and not math.isnan(p):
                share = float(np.mean([(bits == 0).mean() for bits in known]))
                if abs(1 - share - p) < abs(share - p):
                    known = [np.where(bits < 0, bits, 1 - bits).astype(np.int8) for bits in known]
            found._lay_out(site, known, n, first.op)
        return found

    def _lay_out(self, site: DropoutSite | None, known: list[Bits], n: int, op: str) -> None:
        shape = known[0].shape
        dim = site.batch_dim if site is not None else 0 if shape and shape[0] == n else None
        stack = np.stack(known)
        single: list[str] = []
        roles = list(_roles(shape, dim, op))
        if dim is not None and dim < len(shape):
            outer, inner = (1, 1) if site is None else (site.outer, site.inner)
            if outer * inner > 1 and shape[dim] == outer * n * inner:
                stack = stack.reshape(*stack.shape[: 1 + dim], outer, n, inner, *stack.shape[2 + dim :])
                stack = np.moveaxis(stack, 2 + dim, 1)
                roles[dim : dim + 1] = ["time", "time"]
                roles.insert(0, "examples")
            elif shape[dim] == n and outer * inner == 1:
                stack = np.moveaxis(stack, 1 + dim, 1)
                del roles[dim]
                roles.insert(0, "examples")
            elif shape[dim] == 1 and n > 1:
                stack = np.moveaxis(stack, 1 + dim, 1)
                del roles[dim]
                roles.insert(0, "examples")
                single.append("examples")
            else:
                dim = None
        if dim is None or dim >= len(shape):
            stack = stack[:, None]
            roles.insert(0, "examples")
        declared = _declared(site, stack.ndim - 2)
        for axis, wanted in enumerate(declared):
            size = stack.shape[2 + axis]
            if wanted == 1 and size > 1:  # shared by declaration: one of them tells
                stack = stack.max(axis=2 + axis, keepdims=True)
            elif wanted > 1 and size == 1:
                single.append(roles[1 + axis])
        self.bits, self.roles, self.single = stack, tuple(roles), tuple(single)

    @property
    def active(self) -> bool:
        """Whether every call was to drop."""
        return all(mask.active for mask in self.masks)


def _where(mask: Mask) -> str:
    return f"{mask.path}, {mask.op}" if mask.op else mask.path


def _roles(shape: Sequence[int], dim: int | None, op: str) -> list[str]:
    """What each axis of a mask counts."""
    n = len(shape)
    if op in ("scaled_dot_product_attention", "attention"):
        return ["heads" if n - k == 3 else "units" for k in range(n)]
    return ["time" if n == 3 and k != 2 and k != dim else "units" for k in range(n)]


def _declared(site: DropoutSite | None, n_axes: int) -> list[int]:
    """The site's mask shape without the examples, axis by axis; empty where it does not fit."""
    if site is None or site.merged:
        return []
    return list(site.shape) if len(site.shape) == n_axes else []


def mask_trials(found: SiteMasks) -> list[Trial]:
    """Every test of one site's masks."""
    trials = _declared_rates(found)
    if any(t.fault in ("off", "rate", "twice") and t.p_value == 0 for t in trials):
        return trials
    trials += _scale(found)
    trials += _gradient(found)
    if found.bits is None or math.isnan(found.p):
        return trials
    bits = found.bits
    shared, bits = _shared_axes(found, bits)
    trials += shared
    if not shared and len(bits) > 1:
        again = _again(found, bits)
        trials += again
        bits = bits[:1] if again and again[0].p_value < 1e-9 else bits
    trials.insert(0, _rate(found, bits))
    if not any(t.p_value < 1e-9 for t in trials):
        trials += _neighbors(found, bits)
    return trials


def _declared_rates(found: SiteMasks) -> list[Trial]:
    if not found.active:
        share = 0.0
    else:
        wrong = [p for p in found.said if abs(p - found.p) > 1e-6]
        if not wrong or math.isnan(found.p) or any(m.op in ("rand", "bernoulli") and not m.sure for m in found.masks):
            return []
        if found.masks[0].op in ("rand", "bernoulli") and found.bits is not None:
            return []  # what the module made of its draw counts, not what it drew
        share = wrong[0]
    return [rate_trial(found.name, found.where, found.p, share, 0.0, told=True)]


def _rate(found: SiteMasks, bits: Bits) -> Trial:
    known = bits >= 0
    zeros, total = int((bits[known] == 0).sum()), int(known.sum())
    seen = zeros / total if total else math.nan
    return rate_trial(found.name, found.where, found.p, seen, binomial(zeros, total, found.p))


def _scale(found: SiteMasks) -> list[Trial]:
    scales = [m.scale for m in found.masks if not math.isnan(m.scale)]
    if not scales or math.isnan(found.p):
        return []
    # Of the call's own rate where it has one: a wrong rate is another fault.
    p = found.said[0] if found.said and found.masks[0].op not in ("rand", "bernoulli") else found.p
    wanted = 1.0 / (1.0 - p)
    worst = max(scales, key=lambda scale: abs(scale - wanted))
    tolerance = 0.01 * wanted if any(m.scale != round(m.scale, 3) for m in found.masks) else 1e-3
    tolerance = min(tolerance, 0.1 * abs(wanted - 1.0) + 1e-6)
    fields = {"site": found.name, "seen": worst, "expected": wanted}
    if abs(worst - 1.0) < tolerance:
        sentence = Note(
            "{site} keeps units as they are where they are to be multiplied by {expected:.4g}: there is no 1/(1 − p).",
            site=found.name,
            expected=wanted,
        )
    elif abs(worst - wanted**2) < tolerance * wanted:
        sentence = Note(
            "{site} multiplies what it keeps by {seen:.4g}, which is the square of {expected:.4g}: it is scaled twice.",
            **fields,
        )
    else:
        sentence = Note(
            "{site} multiplies what it keeps by {seen:.4g} where 1/(1 − p) = {expected:.4g} is right: the mean of "
            "its output is "
            "not its input.",
            **fields,
        )
    p_value = 0.0 if abs(worst - wanted) > tolerance else 1.0
    return [Trial(found.name, "scale", f"{wanted:.4g}", f"{worst:.4g}", p_value, "scale", found.where, sentence)]


def _gradient(found: SiteMasks) -> list[Trial]:
    told = [m.gradient_differs for m in found.masks if m.gradient_differs is not None]
    if not told:
        return []
    sentence = Note(
        "{site}: the gradient goes through another mask than the output did: backward draws anew, or keeps another "
        "mask.",
        site=found.name,
    )
    return [
        Trial(
            found.name, "backward", "the mask of forward", "another" if any(told) else "the same",
            0.0 if any(told) else 1.0, "backward_mask", found.where, sentence,
        )
    ]  # fmt: skip


def _shared_axes(found: SiteMasks, bits: Bits) -> tuple[list[Trial], Bits]:
    """Axes along which one bit serves all although each was to have its own; the bits without them."""
    trials = []
    for role in found.single:
        trials.append(_sharing(found, role, 0.0))
    for axis, role in enumerate(found.roles, start=1):
        size = bits.shape[axis]
        if size < 2:
            continue
        low = np.where(bits < 0, 2, bits).min(axis=axis, keepdims=True)
        high = bits.max(axis=axis, keepdims=True)
        told = (low < 2) & (high >= 0)
        if not told.any() or (low[told] != high[told]).any():
            continue
        rate = min(max(found.p, 1e-6), 1 - 1e-6)
        each = (bits >= 0).sum(axis=axis, keepdims=True)[told].astype(float)
        log = float(np.logaddexp(each * math.log(rate), each * math.log1p(-rate)).sum())
        if log < math.log(1e-4):
            trials.append(_sharing(found, role, math.exp(max(log, -690.0))))
            bits = high
    return trials, bits


def _sharing(found: SiteMasks, role: str, p_value: float) -> Trial:
    sentence = Note(
        "{site} has one bit for all {axis} where each is to have its own: one mask serves them all.",
        site=found.name,
        axis=_SAID[role],
    )
    fault = _SHARED.get(role, "shared_by_units")
    return Trial(
        found.name, f"independent {role}", "a bit for each", "one for all", p_value, fault, found.where, sentence
    )


def _again(found: SiteMasks, bits: Bits) -> list[Trial]:
    """Masks of different passes that are equal, or know of each other."""
    flat = bits.reshape(len(bits), -1)
    n, known = len(flat), int((flat[0] >= 0).sum())
    distinct = len({row.tobytes() for row in flat})
    log = 0.0
    if 0 < found.p < 1 and known and distinct == 1:
        log = known * float(np.logaddexp(n * math.log(found.p), n * math.log1p(-found.p)))
    elif 0 < found.p < 1 and known and distinct < n:  # at most the expected number of equal pairs
        log = math.log(n * (n - 1) / 2) + known * math.log(found.p**2 + (1 - found.p) ** 2)
    chance = math.exp(min(0.0, max(log, -690.0)))
    sentence = Note(
        "{site} drew {distinct} different masks in {passes} passes: a generator is reseeded at each step, a mask is "
        "kept, or a "
        "captured graph replays one seed.",
        site=found.name,
        distinct=distinct,
        passes=n,
    )
    trials = [
        Trial(
            found.name, "fresh masks", f"{n} masks", f"{distinct}", chance, "same_each_step", found.where, sentence,
        )
    ]  # fmt: skip
    if distinct > 1:
        even = n // 2 * 2
        share, p_value = agreement(flat[:even:2].ravel(), flat[1:even:2].ravel())
        sentence = Note(
            "{site}: masks of one step tell those of the next ({share:.0%} of bits agree): they are not drawn anew.",
            site=found.name,
            share=share,
        )
        trials.append(
            Trial(
                found.name,
                "independent steps",
                "no relation",
                f"{share:.1%} agree",
                p_value,
                "same_each_step",
                found.where,
                sentence,
            )
        )
    return trials


def _neighbors(found: SiteMasks, bits: Bits) -> list[Trial]:
    """Fisher's exact test of bits beside each other, and half an axis away, along every axis."""
    trials = []
    for axis, role in enumerate(found.roles, start=1):
        size = bits.shape[axis]
        for offset in dict.fromkeys((1, size // 2)):
            if size < 2 or offset < 1:
                continue
            index = np.arange(size - offset)
            first = index[(index // offset) % 2 == 0]
            one, other = np.take(bits, first, axis), np.take(bits, first + offset, axis)
            share, p_value = agreement(one.ravel(), other.ravel())
            sentence = Note(
                "{site}: bits of {axis} {offset} apart know of each other ({share:.0%} agree): they are not "
                "independent.",
                site=found.name,
                axis=_SAID[role],
                offset=offset,
                share=share,
            )
            fault = _SHARED.get(role, "shared_by_units")
            name = f"independent {role}"
            trials.append(
                Trial(found.name, name, "no relation", f"{share:.1%} agree", p_value, fault, found.where, sentence)
            )
    return trials


_EACH = 1 << 14
"""Bits of a pass that two sites are compared by."""


def across_sites(found: Sequence[SiteMasks]) -> list[Trial]:
    """Pairs of sites whose masks know of each other: Fisher's exact test of each pair."""
    able = [one for one in found if one.bits is not None and one.bits[0].size >= 8]
    flat = [one.bits.reshape(len(one.bits), -1)[:, :_EACH] for one in able if one.bits is not None]
    zeros, known = [bits == 0 for bits in flat], [bits >= 0 for bits in flat]
    whole = [bool(one.all()) for one in known]
    pairs, counts = [], []
    for i, j in combinations(range(len(able)), 2):
        cut = slice(min(len(flat[i]), len(flat[j]))), slice(min(flat[i].shape[1], flat[j].shape[1]))
        one, other = zeros[i][cut], zeros[j][cut]
        n = one.size
        if not (whole[i] and whole[j]):
            told = known[i][cut] & known[j][cut]
            one, other, n = one & told, other & told, int(np.count_nonzero(told))
        if n < 8:
            continue
        pairs.append((able[i], able[j]))
        counts.append((n, *(int(np.count_nonzero(z)) for z in (one, other, one & other))))
    if not pairs:
        return []
    n, first, second, both = np.array(counts).T
    shares, p_values = (n - first - second + 2 * both) / n, both_zero(n, first, second, both)
    return [
        _of_pair(one, other, float(share), float(p_value))
        for (one, other), share, p_value in zip(pairs, shares, p_values, strict=True)
    ]


def _of_pair(one: SiteMasks, other: SiteMasks, share: float, p_value: float) -> Trial:
    sentence = Note(
        "{site} and {other} share their masks ({share:.0%} of bits agree): both draw from one seed.",
        site=one.name,
        other=other.name,
        share=share,
    )
    where = f"{path_of(one.name)}, {path_of(other.name)}"
    name = f"independent of {other.name}"
    seen = f"{share:.1%} agree"
    return Trial(one.name, name, "no relation", seen, p_value, "shared_by_sites", where, sentence)
