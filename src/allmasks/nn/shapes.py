"""Shapes of the masks that several elements share: an axis of length 1 for each that the mask does not depend on."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["channel_mask_shape", "example_mask_shape", "feature_mask_shape", "locked_mask_shape"]


def example_mask_shape(input: Tensor) -> tuple[int, ...]:
    """One bit an example: (N, 1, …)."""
    return tuple(input.shape[:1]) + (1,) * (input.ndim - 1)


def feature_mask_shape(input: Tensor) -> tuple[int, ...]:
    """One bit a channel of an example: (N, C, 1, …)."""
    return tuple(input.shape[:2]) + (1,) * (input.ndim - 2)


def locked_mask_shape(input: Tensor, batch_first: bool) -> tuple[int, ...]:
    """The mask's shape: the time axis has length 1."""
    if input.ndim not in (2, 3):
        raise ValueError(f"locked_dropout takes (T, N, D), (N, T, D) or (T, D), got shape {tuple(input.shape)}")
    time = 1 if batch_first and input.ndim == 3 else 0
    return tuple(1 if axis == time else n for axis, n in enumerate(input.shape))


def channel_mask_shape(name: str, input: Tensor) -> tuple[int, ...]:
    """One bit a channel: (N, C, 1, …), or (C, 1, …) where torch's function of this name takes one example."""
    wanted = {"dropout1d": (2, 3), "dropout2d": (3, 4), "dropout3d": (4, 5)}[name]
    if input.ndim not in wanted:
        text = f"{name} takes {wanted[0]}-D or {wanted[1]}-D input, got shape {tuple(input.shape)}"
        if input.ndim < 2 or name == "dropout1d":
            raise ValueError(text)
        warnings.warn(f"{text}; the first two axes are taken as example and channel", stacklevel=5)
    if name == "dropout2d" and input.ndim == 3:
        warnings.warn(
            "dropout2d takes a 3-D input as (N, C, L), as torch does; use dropout1d for that, or add an axis to one "
            "(C, H, W) example",
            stacklevel=5,
        )
    leading = 1 if input.ndim == wanted[0] and name != "dropout2d" else 2
    return tuple(input.shape[:leading]) + (1,) * (input.ndim - leading)
