"""The worked examples: each topic computed by the library and shown beside full enumeration. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allmasks.explain.ensemble import Ensemble, ensemble
from allmasks.explain.moments import Moments, moments
from allmasks.explain.montecarlo import MonteCarloStudy, montecarlo
from allmasks.explain.page import Page, Picture, Series, Table, Topic
from allmasks.explain.ridge import Ridge, ridge
from allmasks.explain.scaling import Scaling, scaling

__all__ = [
    "TOPICS",
    "Ensemble",
    "Moments",
    "MonteCarloStudy",
    "Page",
    "Picture",
    "Ridge",
    "Scaling",
    "Series",
    "Table",
    "Topic",
    "ensemble",
    "moments",
    "montecarlo",
    "ridge",
    "scaling",
]

TOPICS: dict[str, Callable[..., Any]] = {
    "moments": moments,
    "ridge": ridge,
    "montecarlo": montecarlo,
    "ensemble": ensemble,
    "scaling": scaling,
}
"""Topic name -> the function that computes it; each result is a `Topic`."""
