"""Dropout sites in a model: found, named, and given masks, without touching the model."""

from __future__ import annotations

from allmasks.sites.borrow import begin_pass, borrowed
from allmasks.sites.hold import hold_masks
from allmasks.sites.inspect import Inspection, LastLayer, find_dropout, inspect_model
from allmasks.sites.left_off import WAY_ON_IN_EVAL_MODE, by_reason, patterns_of
from allmasks.sites.register import register_dropout
from allmasks.sites.settings import leaves_no_trace
from allmasks.sites.sharding import class_name, is_sharded, n_parameters
from allmasks.sites.site import DropoutSite

__all__ = [
    "WAY_ON_IN_EVAL_MODE",
    "DropoutSite",
    "Inspection",
    "LastLayer",
    "begin_pass",
    "borrowed",
    "by_reason",
    "class_name",
    "find_dropout",
    "hold_masks",
    "inspect_model",
    "is_sharded",
    "leaves_no_trace",
    "n_parameters",
    "patterns_of",
    "register_dropout",
]
