"""Shapes of the masks that several elements share: an axis of length 1 for each that the mask does not depend on."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["channel_axes", "channel_mask_shape", "example_mask_shape", "locked_mask_shape", "need_channels"]


def example_mask_shape(input: Tensor) -> tuple[int, ...]:
    """One bit an example: (N, 1, …)."""
    return tuple(input.shape[:1]) + (1,) * (input.ndim - 1)


def locked_mask_shape(input: Tensor, batch_first: bool) -> tuple[int, ...]:
    """The mask's shape: the time axis has length 1."""
    if input.ndim not in (2, 3):
        raise ValueError(f"locked_dropout takes (T, N, D), (N, T, D) or (T, D), got shape {tuple(input.shape)}")
    time = 1 if batch_first and input.ndim == 3 else 0
    return tuple(1 if axis == time else n for axis, n in enumerate(input.shape))


def channel_axes(name: str, input: Tensor) -> int:
    """How many leading axes number the channels: 2, or 1 where torch's function of this name takes one example.

    Raises and warns as that function does.
    """
    wanted = {"dropout1d": (2, 3), "dropout2d": (3, 4), "dropout3d": (4, 5)}[name]
    if input.ndim not in wanted:
        text = f"{name} takes {wanted[0]}-D or {wanted[1]}-D input, got one of {input.ndim} axes"
        if name == "dropout1d":
            raise RuntimeError(text)
        warnings.warn(f"{text}; use dropout for input without channels", stacklevel=5)
    if name == "dropout2d" and input.ndim == 3:
        warnings.warn(
            "dropout2d takes a 3-D input as (N, C, L), as torch does; use dropout1d for that, or add an axis to one "
            "(C, H, W) example",
            stacklevel=5,
        )
    return 1 if name != "dropout2d" and input.ndim != wanted[1] else 2


def channel_mask_shape(input: Tensor, leading: int) -> tuple[int, ...]:
    """One bit for each index of the leading axes: (N, C, 1, …) or (C, 1, …)."""
    return tuple(input.shape[:leading]) + (1,) * (input.ndim - leading)


def need_channels(input: Tensor, leading: int) -> None:
    """RuntimeError, as in torch, if the input lacks the axes that number its channels."""
    if input.ndim < leading:
        raise RuntimeError(
            f"dropout of whole channels needs {leading} axes or more for examples and channels, got an input of shape "
            f"{tuple(input.shape)}; use dropout for single elements"
        )
