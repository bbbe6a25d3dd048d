"""DropBlock: squares of each feature map are zeroed together."""

from __future__ import annotations

import torch
from torch import Tensor

from allmasks.nn.geometry import block_law, blocks_kept, check_blocks
from allmasks.nn.noise import (
    Key,
    check_kind,
    check_rate,
    key_op,
    masked_ones,
    need_tensor,
    nothing,
    overridable,
)
from allmasks.nn.ops import at_once, times, wide

__all__ = ["drop_block2d"]


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
    ValueError : p outside [0, 1], an input without four axes, a block_size below 1. TypeError : in training with
        0 < p < 1, integer, complex or sparse input.

    References
    ----------
    Ghiasi, Lin & Le (2018), "DropBlock: a regularization method for convolutional networks".
    """
    check_rate(p)
    check_blocks(need_tensor(input).shape, block_size)
    if not training or p == 0.0 or input.numel() == 0:
        return input
    if p == 1.0:
        return nothing(input, inplace)
    check_kind(input)
    if at_once(input):
        law = block_law(tuple(input.shape), block_size, float(p))
        kept = masked_ones(input, law.seeds_of(input.shape), law.gamma, None, key, seed)
        factor = blocks_kept(kept != 0, law, kept.dtype)
    else:
        factor = torch.ops.allmasks.block_factor(
            key_op(key, seed),
            input.shape,
            p,
            block_size,
            dtype=wide(input.dtype),
            device=input.device,
        )
    return times(input, factor, inplace)
