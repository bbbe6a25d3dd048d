"""Batches of several forms: where a loader pads each to its own length, the sites' masks have other shapes in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from torch import nn

from allmasks.over_masks.data import Batch
from allmasks.sites import DropoutSite, inspect_model, is_sharded

__all__ = ["Form", "SitesByName", "in_form", "sites_of_form"]

Form = tuple[tuple[int, ...], ...]
SitesByName = Mapping[str, DropoutSite]


def sites_of_form(model: nn.Module, batch: Batch, known: tuple[DropoutSite, ...], **how: Any) -> SitesByName:
    """The model's sites as they lie in a batch of another form than the first one's; call it inside `borrowed`.

    Raises
    ------
    ValueError : the batch has other sites than the first, or the model is sharded.
    """
    if is_sharded(model):
        raise ValueError(
            "batches of several shapes need a look at the model each, which a rank of a sharded model cannot take "
            "alone; pad all batches to one length"
        )
    seen = inspect_model(model, batch.args, batch.kwargs, strict=False, **how)
    found, wanted = ([(site.name, site.kind, site.p) for site in sites if site.p != 0] for sites in (seen.sites, known))
    if found != wanted:
        raise ValueError(
            f"the model has other dropout sites on examples of shapes {list(batch.form)} than on the first ones: "
            f"{found} and {wanted}; its masks would not be those of one model"
        )
    return {site.name: site for site in seen.sites}


def in_form(thing: Any, sites: SitesByName) -> Any:
    """Whatever holds sites (a source of masks, a forward pass, an evaluator), with those of batches of another form."""
    changed: dict[str, Any] = {}
    if hasattr(thing, "sites"):
        changed["sites"] = tuple(replace(sites[own.name], p=own.p) for own in thing.sites)
    if isinstance(getattr(thing, "site", None), DropoutSite):
        changed["site"] = replace(sites[thing.site.name], p=thing.site.p)
    for part in ("forward", "outputs", "option", "evaluate"):
        if is_dataclass(getattr(thing, part, None)):
            changed[part] = in_form(getattr(thing, part), sites)
    return replace(thing, **changed) if changed else thing
