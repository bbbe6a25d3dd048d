"""Whether two passes have given the same tensors: to the bit, or to rounding at their own scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["alike", "distance", "identical"]


def alike(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Equal to rounding. The yardstick is each tensor's own largest number: what is small is held just as closely."""
    return len(ours) == len(theirs) and all(map(_alike, ours, theirs))


def identical(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    """Equal to the bit, NaN included: one computation made twice, of the same numbers."""
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(_comparable(a), _comparable(b))
        for a, b in zip(ours, theirs, strict=True)
    )


def distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The root of the summed squares of what differs; NaN where both are counts as nothing."""
    return sum(
        float(torch.nan_to_num(_wide(a) - _wide(b)).norm()) ** 2 for a, b in zip(ours, theirs, strict=True)
    ) ** 0.5  # fmt: skip


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    rounding = max((torch.finfo(t.dtype).eps for t in (a, b) if t.is_floating_point() or t.is_complex()), default=0.0)
    x, y = _wide(a), _wide(b)
    finite = torch.cat([t[torch.isfinite(t)].abs().flatten() for t in (x, y)])
    scale = float(finite.max()) if finite.numel() else 0.0
    rtol, atol = max(1e-4, 16 * rounding), max(1e-5, 4 * rounding) * scale
    return torch.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True)


def _wide(t: Tensor) -> Tensor:
    t = t.detach()
    return torch.view_as_real(t.resolve_conj()).double() if t.is_complex() else t.double()


def _comparable(t: Tensor) -> Tensor:
    return torch.nan_to_num(t, 0.0, torch.inf, -torch.inf) if t.is_floating_point() else t
