"""DropBlock and its geometry: where blocks start, how many reach a position, and the rate that drops a fraction p."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

from allmasks.nn.law import drawn_law
from allmasks.nn.noise import Key, check, masked_ones, nothing, overridable

__all__ = ["BlockLaw", "block_law", "blocks_kept", "drop_block2d"]


@dataclass(frozen=True)
class BlockLaw:
    """Blocks of `size` start at each of `starts` places with probability `gamma`, in every feature map."""

    size: tuple[int, int]
    starts: tuple[int, int]
    gamma: float

    def seeds_of(self, x: Tensor) -> tuple[int, int, int, int]:
        """Shape of the bits that say where no block starts, for x of shape (N, C, H, W)."""
        return (x.shape[0], x.shape[1], *self.starts)

    def kept_probability(self) -> NDArray[np.float64]:
        """P(kept) of each position, (H, W), with the rate that is really drawn."""
        drawn = 0.0 if self.gamma == 0 else drawn_law(self.gamma).p
        return (1.0 - drawn) ** _reach(self.size, self.starts)


def _reach(size: tuple[int, int], starts: tuple[int, int]) -> NDArray[np.float64]:
    """How many possible blocks reach each position."""
    counts = [np.convolve(np.ones(n), np.ones(b)) for n, b in zip(starts, size, strict=True)]
    return np.outer(*counts)


def block_law(shape: tuple[int, ...], block_size: int, p: float) -> BlockLaw:
    """The law for feature maps (N, C, H, W); a block is never larger than the map."""
    if len(shape) != 4:
        raise ValueError(f"drop_block2d takes (N, C, H, W), got shape {shape}")
    if not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")
    return _law(shape[2], shape[3], block_size, p)


@lru_cache(maxsize=256)
def _law(height: int, width: int, block_size: int, p: float) -> BlockLaw:
    size = (min(block_size, height), min(block_size, width))
    starts = (height - size[0] + 1, width - size[1] + 1)
    if p in (0.0, 1.0) or not height * width:
        return BlockLaw(size, starts, p)
    reach = _reach(size, starts)
    log_none = brentq(lambda t: np.exp(t * reach).mean() - (1.0 - p), np.log1p(-p), 0.0, xtol=1e-15)
    return BlockLaw(size, starts, float(-np.expm1(log_none)))


def blocks_kept(free: Tensor, law: BlockLaw, dtype: torch.dtype) -> Tensor:
    """The factor of each position, (N, C, H, W): 0 in a block, 1/P(kept) elsewhere.

    free : boolean (N, C, *starts), False where a block starts.
    """
    reached = F.pad((~free).float(), (law.size[1] - 1,) * 2 + (law.size[0] - 1,) * 2)
    dropped = F.max_pool2d(reached, law.size, stride=1)
    scale = torch.from_numpy(1.0 / law.kept_probability()).to(device=free.device, dtype=dtype)
    return (1.0 - dropped).to(dtype) * scale


@overridable
def drop_block2d(
    input: Tensor,
    p: float = 0.5,
    block_size: int = 7,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Zero square blocks of each feature map, (N, C, H, W), so that a fraction p of it is expected to go.

    Blocks lie inside the map and start at each place independently with a probability γ that makes the expected
    dropped fraction exactly p; the paper's γ is its first order. Position i is reached by n_i blocks and so is kept
    with probability k_i = (1 − γ)^n_i; kept elements are scaled by 1/k_i.
    Mean: the input (the paper's scale, by the fraction that happens to be kept, has no such mean). Variance:
    (1 − k_i)/k_i · input². Elements near each other are dropped together, so methods that need independent units
    refuse it.

    Raises
    ------
    ValueError : p outside [0, 1], an input without four axes, a block_size below 1.

    References
    ----------
    Ghiasi, Lin & Le (2018), "DropBlock: a regularization method for convolutional networks".
    """
    check(input, p)
    law = block_law(tuple(input.shape), block_size, float(p))
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return nothing(input, inplace)
    kept = masked_ones(input, law.seeds_of(input), law.gamma, None, key, seed)
    factor = blocks_kept(kept != 0, law, input.dtype)
    return input.mul_(factor) if inplace else input * factor
