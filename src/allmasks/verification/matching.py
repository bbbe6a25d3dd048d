"""Masks that a step drew, matched with the model's sites: by name, by module, or by order; and calls there are too "
"many of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from allmasks.results import Note
from allmasks.sites import DropoutSite
from allmasks.sites.naming import path_of
from allmasks.verification.mask_trials import SiteMasks
from allmasks.verification.meant import Meant, fitting
from allmasks.verification.trial import Trial
from allmasks.verification.witness import Mask, Seen

__all__ = ["again_in_backward", "called_twice", "never_ran", "site_masks"]


def site_masks(sites: tuple[DropoutSite, ...], seen: list[Seen], n: int) -> tuple[list[SiteMasks], list[str]]:
    """Masks by site over the passes, those of a step's own modules matched by order where names do not fit."""
    met: dict[str, list[Mask]] = defaultdict(list)
    for one in seen:
        for mask in one.masks:
            met[mask.name].append(mask)
    known = {site.name: site for site in sites}
    _join_parts(met, known, len(seen), n)
    wanted = [site for site in sites if site.p != 0 and site.name not in met]
    spare = [name for name in met if name not in known and met[name][0].bits is not None]
    pairs: dict[str, DropoutSite | None] = {name: known.get(name) for name in met}
    for site in list(wanted):
        same_path = [name for name in spare if path_of(name) == path_of(site.name)]
        if same_path:  # by hand: several draws make one mask, which is what the module makes of its input
            pairs[same_path[0]] = site
            wanted.remove(site)
            spare = [name for name in spare if name not in same_path]
            for name in same_path[1:]:
                del met[name]
    for site in list(wanted):
        inside = [name for name in spare if path_of(name).startswith(f"{path_of(site.name)}.")]
        if inside:  # a step whose module of that name has dropout within
            pairs[inside[0]] = site
            wanted.remove(site)
            spare = [name for name in spare if name not in inside]
    for site in list(wanted):
        applied = [one.applied[path_of(site.name)] for one in seen if path_of(site.name) in one.applied]
        if len(applied) == len(seen) and path_of(site.name) not in map(path_of, met):
            masks = [Mask(site.name, path_of(site.name), "", bits=bits, scale=scale) for bits, scale in applied]
            met[site.name], pairs[site.name] = masks, site
            wanted.remove(site)
    if len(wanted) == len(spare):
        pairs.update(zip(spare, wanted, strict=True))
        wanted = []
    found = []
    for name, masks in met.items():
        owner = pairs[name]
        if masks[0].active if owner is None else owner.p != 0:
            found.append(SiteMasks.of(owner, masks, n))
    return found, [site.name for site in wanted]


def _join_parts(met: dict[str, list[Mask]], known: Mapping[str, DropoutSite], passes: int, n: int) -> None:
    """A step that goes through the batch in parts calls every site once a part: its masks are put together again."""
    for name, site in known.items():
        parts = [name, *(other for other in met if other.startswith(f"{name}#") and other not in known)]
        if len(parts) < 2 or site.batch_dim is None or any(len(met.get(part, ())) != passes for part in parts):
            continue
        dim, joined = site.batch_dim, []
        for masks in zip(*(met[part] for part in parts), strict=True):
            bits = [mask.bits for mask in masks if mask.bits is not None]
            if (
                len(bits) < len(parts)
                or sum(b.shape[dim] if b.ndim > dim else 0 for b in bits) != n * site.outer * site.inner
            ):
                break
            if len({(*b.shape[:dim], *b.shape[dim + 1 :]) for b in bits}) > 1:
                break
            joined.append(replace(masks[0], bits=np.concatenate(bits, axis=dim)))
        else:
            met[name] = joined
            for part in parts[1:]:
                del met[part]


def again_in_backward(seen: list[Seen]) -> list[Trial]:
    """Masks that backward drew must be masks of forward: a part that is computed again."""
    trials = []
    for one in seen:
        forward = [mask.bits for mask in one.masks if mask.bits is not None]
        forward += [draw.bits for mask in one.masks for draw in mask.drawn if draw.bits is not None]
        for mask in one.again:
            bits = (
                mask.bits if mask.bits is not None else next((d.bits for d in mask.drawn if d.bits is not None), None)
            )
            if bits is None or bits.size < 2:
                continue
            same = any(bits.shape == other.shape and np.array_equal(bits, other) for other in forward)
            sentence = Note(
                "{site} draws another mask in backward than in forward: a checkpointed part is computed again "
                "without the "
                "generator's state, or a backward of its own draws anew.",
                site=mask.name,
            )
            where = f"{mask.path}, {mask.op}"
            trials.append(
                Trial(
                    mask.name, "backward", "the mask of forward", "the same" if same else "another",
                    1.0 if same else 0.0, "backward_mask", where, sentence,
                )
            )  # fmt: skip
    wrong = [trial for trial in trials if trial.p_value == 0]
    return wrong or trials[:1]


def called_twice(sites: tuple[DropoutSite, ...], found: list[SiteMasks], seen: list[Seen]) -> list[Trial]:
    """Second calls that the model does not make."""
    names = {site.name for site in sites}
    trials = []
    paths = {path_of(site.name): site.name for site in sites if site.p != 0}
    inside: dict[str, int] = defaultdict(int)
    for name in {mask.name for one in seen for mask in one.masks if mask.active}:
        around = next((path for path in paths if path_of(name).startswith(f"{path}.")), None)
        if around is not None and name not in names:
            inside[paths[around]] += 1
    for name, calls in inside.items():
        if calls > 1:
            sentence = Note(
                "{site} drops {calls} times in a pass of the step and once in the model: dropout acts twice.",
                site=name,
                calls=calls,
            )
            trials.append(Trial(name, "calls", "1", f"{calls}", 0.0, "twice", name, sentence))
    for one in found:
        base = one.masks[0].name.partition("#")[0]
        if one.masks[0].name != base and one.masks[0].name not in names and base in names and one.active:
            sentence = Note(
                "{site} drops twice in a pass of the step and once in the model: its units are dropped with 1 − (1 "
                "− p)².",
                site=base,
            )
            trials.append(Trial(base, "calls", "1", "2", 0.0, "twice", one.where, sentence))
    return trials


def never_ran(
    sites: tuple[DropoutSite, ...], unmet: list[str], meant: Mapping[str, Meant], against: list[Trial]
) -> list[Trial]:
    trials = []
    for name in unmet:
        site = next(site for site in sites if site.name == name)
        pattern = fitting(list(meant), name)
        if pattern is None or meant[pattern].p == 0 or site.kind == "attention":
            continue
        sentence = Note("{site} is expected and never ran in the step.", site=name)
        trials.append(Trial(name, "runs", "a mask", "none", 0.0, "never_ran", name, sentence))
    return trials
