"""DropBlock's geometry: where blocks start, how many reach a position, and the rate that drops a fraction p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from allmasks.nn.law import drawn_law

__all__ = ["BlockLaw", "block_law", "blocks_kept", "check_blocks"]


@dataclass(frozen=True)
class BlockLaw:
    """Blocks of `size` start at each of `starts` places with probability `gamma`, in every feature map."""

    size: tuple[int, int]
    starts: tuple[int, int]
    gamma: float

    def seeds_of(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Shape of the bits that say where no block starts, for feature maps of shape (N, C, H, W)."""
        return (shape[0], shape[1], *self.starts)

    def kept_probability(self) -> NDArray[np.float64]:
        """P(kept) of each position, (H, W), with the rate that is really drawn."""
        drawn = 0.0 if self.gamma == 0 else drawn_law(self.gamma).p
        return (1.0 - drawn) ** _reach(self.size, self.starts)


def _reach(size: tuple[int, int], starts: tuple[int, int]) -> NDArray[np.float64]:
    """How many possible blocks reach each position."""
    counts = [np.convolve(np.ones(n), np.ones(b)) for n, b in zip(starts, size, strict=True)]
    return np.outer(*counts)


def check_blocks(shape: Sequence[int], block_size: Any) -> None:
    """ValueError unless the shape is that of feature maps and block_size a whole number of at least 1."""
    if len(shape) != 4:
        raise ValueError(f"drop_block2d takes (N, C, H, W), got shape {tuple(shape)}")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")


def block_law(shape: tuple[int, ...], block_size: int, p: float) -> BlockLaw:
    """The law for feature maps (N, C, H, W); a block is never larger than the map."""
    check_blocks(shape, block_size)
    return _law(shape[2], shape[3], block_size, p)


@lru_cache(maxsize=256)
def _law(height: int, width: int, block_size: int, p: float) -> BlockLaw:
    size = (min(block_size, height), min(block_size, width))
    starts = (height - size[0] + 1, width - size[1] + 1)
    if p in (0.0, 1.0) or not height * width:
        return BlockLaw(size, starts, p)
    reach = _reach(size, starts)
    # γ = 1 - (1 - p)^s with a share s that lies between 1/most and 1/least of the blocks that reach a position, often
    # at an end: half and twice as far the sign is certain, whatever the round-off. expm1 keeps the smallest p.
    log_kept = np.log1p(-p)
    share = brentq(
        lambda s: np.expm1(s * log_kept * reach).mean() / p + 1.0, 0.5 / reach.max(), 2.0 / reach.min(), xtol=1e-15
    )
    return BlockLaw(size, starts, float(-np.expm1(share * log_kept)))


def blocks_kept(free: Tensor, law: BlockLaw, dtype: torch.dtype) -> Tensor:
    """The factor of each position, (N, C, H, W): 0 in a block, 1/P(kept) elsewhere.

    free : boolean (N, C, *starts), False where a block starts.
    """
    reached = F.pad((~free).float(), (law.size[1] - 1,) * 2 + (law.size[0] - 1,) * 2)
    dropped = F.max_pool2d(reached, law.size, stride=1)
    scale = torch.from_numpy(1.0 / law.kept_probability()).to(device=free.device, dtype=dtype)
    return (1.0 - dropped).to(dtype) * scale
