"""Dropout layers at memory speed whose masks are a function of a key."""

from __future__ import annotations

from allmasks.nn import functional, sites
from allmasks.nn.convert import convert
from allmasks.nn.keys import rng_state, seed, set_rng_state
from allmasks.nn.layers import (
    AlphaDropout,
    DropBlock2d,
    DropConnect,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropPath,
    FeatureAlphaDropout,
    GaussianDropout,
    LockedDropout,
)
from allmasks.nn.schedule import RateScheduler

del sites

__all__ = [
    "AlphaDropout",
    "DropBlock2d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "LockedDropout",
    "RateScheduler",
    "convert",
    "functional",
    "rng_state",
    "seed",
    "set_rng_state",
]
