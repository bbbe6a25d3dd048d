"""The keyed bits in torch's own operations: any device, any dtype, slow; what runs where no kernel of ours does."""

from __future__ import annotations

import torch
from torch import Tensor

from allmasks.kernels.reference import LANE_STRIDE

__all__ = ["stream"]

_MASK = 0xFFFFFFFF
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def stream(key: tuple[int, int], n: int, *, bits: int, device: torch.device) -> Tensor:
    """`reference.stream` as an int64 tensor of n words."""
    lanes = 64 // bits
    e = torch.arange(n, dtype=torch.int64, device=device)
    run, offset = e // (lanes * LANE_STRIDE), e % (lanes * LANE_STRIDE)
    lane, within = offset // LANE_STRIDE, offset % LANE_STRIDE
    counter = run * LANE_STRIDE + within
    k0, k1 = key
    schedule = (k0, k1, 0x1BD11BDA ^ k0 ^ k1)
    x0 = ((counter >> 32) + k0) & _MASK
    x1 = ((counter & _MASK) + k1) & _MASK
    for r in range(13):
        x0 = (x0 + x1) & _MASK
        left = _ROTATIONS[r % 8]
        x1 = (((x1 << left) | (x1 >> (32 - left))) & _MASK) ^ x0
        if r % 4 == 3:
            s = r // 4 + 1
            x0 = (x0 + schedule[s % 3]) & _MASK
            x1 = (x1 + schedule[(s + 1) % 3] + s) & _MASK
    first_bit = lane * bits
    return (torch.where(first_bit < 32, x0, x1) >> (first_bit % 32)) & (_MASK >> (32 - bits))
