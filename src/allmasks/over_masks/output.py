"""What of a model's output is meant: its scores, wherever it holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from allmasks.sites.trace import output_tensors

__all__ = ["as_it_is", "extract_output", "extract_several", "main_output", "rows_of_first"]


def main_output(output: Any) -> Any:
    """`.logits` or "logits" where there are some, else the output as it is."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) and isinstance(output, Mapping):
        logits = output.get("logits")
    return logits if isinstance(logits, Tensor) else output


def extract_output(output: Any) -> Tensor:
    """The tensor meant by a loss: the output, its `.logits`, "logits" of a mapping, or the first entry with rows."""
    output = main_output(output)
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        if "logits" in output:
            return extract_output(output["logits"])
        parts = [part for part in output.values() if not _is_number(part)] or list(output.values())
        if len(parts) == 1:
            return extract_output(parts[0])
        raise TypeError(
            f'the model returns a mapping with keys {sorted(map(str, output))} and no "logits"; wrap it so that it '
            "returns one tensor, or pass a callable loss"
        )
    if isinstance(output, tuple | list) and output:
        # Before its scores a model that was given labels returns its own loss, one number.
        return extract_output(next((part for part in output if not _is_number(part)), output[0]))
    raise TypeError(f"the model must return a tensor, or something with .logits; got {type(output).__name__}")


def _is_number(part: Any) -> bool:
    return isinstance(part, Tensor) and not part.ndim


def extract_several(output: Any, n: int, loss: str) -> tuple[Tensor, ...]:
    """The n tensors of the output, in order, that a loss of several outputs compares."""
    tensors = tuple(output_tensors(output))
    if len(tensors) != n:
        what = "(mean, variance)" if loss == "GaussianNLLLoss" else f"{n} tensors"
        raise ValueError(f"{loss} needs a model that returns {what}; this one returns {len(tensors)} tensors")
    return tensors


def as_it_is(output: Any) -> Any:
    """The output itself."""
    return output


def rows_of_first(output: Any, batch: Any) -> int:
    """How many rows an output of a whole input has.

    Raises
    ------
    ValueError : if it has none.
    """
    first = next(iter(output_tensors(output)), None)
    if first is None or not first.ndim:
        raise ValueError(
            'with batch_dim="whole" the model must return a row for each node, graph or pair it speaks of, along the '
            "first axis; this one returns a single number"
        )
    return len(first)
