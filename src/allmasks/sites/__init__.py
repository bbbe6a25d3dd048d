"""Dropout sites in a model: found, named, and given masks, without touching the model."""

from __future__ import annotations

from allmasks.sites.borrow import begin_pass, borrowed
from allmasks.sites.callable_with import check_module
from allmasks.sites.ending import LastLayer
from allmasks.sites.graphs import call_with, holds_graphs, is_graph, one_graph
from allmasks.sites.hold import hold_masks
from allmasks.sites.inspect import Inspection, find_dropout, inspect_model
from allmasks.sites.joint import WHOLE, BatchDim, narrowed, sites_again, the_rows
from allmasks.sites.left_off import WAY_ON_IN_EVAL_MODE, by_reason, patterns_of
from allmasks.sites.register import register_dropout
from allmasks.sites.settings import leaves_no_trace
from allmasks.sites.sharding import class_name, is_sharded, n_parameters
from allmasks.sites.site import DropoutSite

__all__ = [
    "WAY_ON_IN_EVAL_MODE",
    "WHOLE",
    "BatchDim",
    "DropoutSite",
    "Inspection",
    "LastLayer",
    "begin_pass",
    "borrowed",
    "by_reason",
    "call_with",
    "check_module",
    "class_name",
    "find_dropout",
    "hold_masks",
    "holds_graphs",
    "inspect_model",
    "is_graph",
    "is_sharded",
    "leaves_no_trace",
    "n_parameters",
    "narrowed",
    "one_graph",
    "patterns_of",
    "register_dropout",
    "sites_again",
    "the_rows",
]
