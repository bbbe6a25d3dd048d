"""Shapes of the masks that several elements share: an axis of length 1 for each that the mask does not depend on."""

from __future__ import annotations

import warnings

from torch import Tensor

__all__ = ["channel_mask_shape", "example_mask_shape", "feature_mask_shape", "locked_mask_shape", "need_channels"]


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


def channel_mask_shape(name: str, input: Tensor) -> tuple[tuple[int, ...], int]:
    """One bit a channel, and how many leading axes number the channels: (N, C, 1, …) and 2, or 1 for one example.

    Which input is one example is as in torch's function of this name, and so are its warnings.
    """
    wanted = {"dropout1d": (2, 3), "dropout2d": (3, 4), "dropout3d": (4, 5)}[name]
    if input.ndim not in wanted:
        text = f"{name} takes {wanted[0]}-D or {wanted[1]}-D input, got shape {tuple(input.shape)}"
        if name == "dropout1d":
            raise RuntimeError(text)
        warnings.warn(f"{text}; use dropout for input without channels", stacklevel=5)
    if name == "dropout2d" and input.ndim == 3:
        warnings.warn(
            "dropout2d takes a 3-D input as (N, C, L), as torch does; use dropout1d for that, or add an axis to one "
            "(C, H, W) example",
            stacklevel=5,
        )
    leading = 1 if name != "dropout2d" and input.ndim != wanted[1] else 2
    return tuple(input.shape[:leading]) + (1,) * (input.ndim - leading), leading


def need_channels(input: Tensor, leading: int) -> None:
    """RuntimeError, as in torch, if the input lacks the axes that number its channels."""
    if input.ndim < leading:
        raise RuntimeError(
            f"dropout of whole channels needs {leading} axes or more for examples and channels, got an input of shape "
            f"{tuple(input.shape)}; use dropout for single elements"
        )
