"""Dropout layers at memory speed whose masks are a function of a key."""

from __future__ import annotations

from allmasks.nn import functional, layers, parsers
from allmasks.nn.convert import convert
from allmasks.nn.keys import rng_state, seed, set_rng_state
from allmasks.nn.layers import *  # noqa: F403 - its __all__ is the one list of layers
from allmasks.nn.schedule import RateScheduler

del parsers

__all__ = [*layers.__all__, "RateScheduler", "convert", "functional", "rng_state", "seed", "set_rng_state"]
