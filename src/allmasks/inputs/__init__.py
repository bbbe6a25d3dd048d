"""Strings and paths from the command line to models, weights and data. Every refusal is one line that helps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from allmasks.inputs.data_files import as_taken, first_rows, load_data
from allmasks.inputs.factory import load_model
from allmasks.inputs.loss_choice import LOSSES, default_loss, in_eval_mode, named_loss
from allmasks.inputs.weight_files import load_weights

__all__ = [
    "LOSSES",
    "as_taken",
    "default_loss",
    "first_rows",
    "in_eval_mode",
    "load_data",
    "load_model",
    "load_weights",
    "named_loss",
    "parse_numbers",
]


def parse_numbers(texts: str | Iterable[str], *, name: str = "numbers") -> NDArray[np.float64]:
    """Numbers separated by spaces or commas, (n,) float64; ValueError names the one that is none.

    >>> parse_numbers(["2", "-1,3"]).tolist()
    [2.0, -1.0, 3.0]
    >>> parse_numbers("1 two", name="--w")
    Traceback (most recent call last):
    ...
    ValueError: --w must be numbers, got 'two'
    """
    pieces = " ".join([texts] if isinstance(texts, str) else texts).replace(",", " ").split()
    values = []
    for piece in pieces:
        try:
            values.append(float(piece))
        except ValueError:
            raise ValueError(f"{name} must be numbers, got {piece!r}") from None
    return np.array(values, np.float64)
