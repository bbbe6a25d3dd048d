"""Dropout sites in a model: found, named, and given masks, without touching the model."""

from __future__ import annotations

from allmasks.sites.borrow import borrowed
from allmasks.sites.hold import hold_masks
from allmasks.sites.inspect import Inspection, LastLayer, find_dropout, inspect_model
from allmasks.sites.register import register_dropout
from allmasks.sites.site import DropoutSite

__all__ = [
    "DropoutSite",
    "Inspection",
    "LastLayer",
    "borrowed",
    "find_dropout",
    "hold_masks",
    "inspect_model",
    "register_dropout",
]
