"""Our functions as dropout sites: rows for the table of `allmasks.sites.calls`, added when this room is imported."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from allmasks.nn import functional as f
from allmasks.nn.geometry import block_law, blocks_kept
from allmasks.nn.shapes import channel_axes, channel_mask_shape, example_mask_shape, locked_mask_shape
from allmasks.sites.calls import PARSERS, Call, elementwise

__all__: list[str] = []

_GAUSSIAN = (
    "gaussian_dropout multiplies by Gaussian noise, which is no mask of bits: no method over masks applies; "
    "am.nn.Dropout(p) has the same mean and variance"
)
_PER_UNIT = "its drop rate differs from unit to unit, and a site here has one rate p"
_BLOCKS = "drop_block2d drops neighbours together: its units are not independent"


def _call(kind: str, shape: tuple[int, ...], x: Tensor, p: Any, training: bool, inplace: bool) -> Call:
    rate = float(p.max()) if isinstance(p, Tensor) else p
    call = elementwise(kind, kind, shape, x, rate, training, inplace)
    if isinstance(p, Tensor):
        call.refusal = _PER_UNIT
    return call


def _plain(kind: str, on: bool = True) -> Any:
    def parse(
        input: Tensor, p: Any = 0.5, training: bool = on, inplace: bool = False, *, key: Any = None, seed: Any = None
    ) -> Call:
        return _call(kind, tuple(input.shape), input, p, training, inplace)

    return parse


def _channels(kind: str) -> Any:
    def parse(
        input: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False, *, key: Any = None, seed: Any = None
    ) -> Call:
        return _call(kind, channel_mask_shape(input, channel_axes(kind, input)), input, p, training, inplace)

    return parse


def _feature_alpha(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False, *, key: Any = None, seed: Any = None
) -> Call:
    return _call("feature_alpha_dropout", channel_mask_shape(input, 2), input, p, training, inplace)


def _locked(
    input: Tensor,
    p: Any = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_first: bool = False,
    key: Any = None,
    seed: Any = None,
) -> Call:
    return _call("locked_dropout", locked_mask_shape(input, batch_first), input, p, training, inplace)


def _path(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, key: Any = None, seed: Any = None
) -> Call:
    return _call("drop_path", example_mask_shape(input), input, p, training, inplace)


def _connect(weight: Tensor, p: float = 0.5, training: bool = True, *, key: Any = None, seed: Any = None) -> Call:
    return _call("drop_connect", tuple(weight.shape), weight, p, training, False)


def _gaussian(input: Tensor, p: float = 0.5, training: bool = True, *, key: Any = None, seed: Any = None) -> Call:
    call = _call("gaussian_dropout", tuple(input.shape), input, p, training, False)
    call.refusal = _GAUSSIAN
    return call


def _blocks(
    input: Tensor,
    p: float = 0.5,
    block_size: int = 7,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Any = None,
    seed: Any = None,
) -> Call:
    """Its bits are the blocks' starts, of rate γ; keyed masks of those are what Monte Carlo draws."""
    law = block_law(tuple(input.shape), block_size, float(p))
    call = _call("drop_block2d", law.seeds_of(input.shape), input, law.gamma, training, inplace)

    def apply(free: Tensor, gamma: float) -> Tensor:
        # The mask may have axes of length 1 where it is shared, and vmap's pooling takes no boolean.
        factor = blocks_kept(free.bool().expand(law.seeds_of(input.shape)), law, input.dtype)
        return input.mul_(factor) if inplace else input * factor

    call.apply = apply
    call.dependent = _BLOCKS
    return call


PARSERS.update(
    {
        f.dropout: _plain("dropout"),
        f.dropout1d: _channels("dropout1d"),
        f.dropout2d: _channels("dropout2d"),
        f.dropout3d: _channels("dropout3d"),
        f.alpha_dropout: _plain("alpha_dropout", on=False),
        f.feature_alpha_dropout: _feature_alpha,
        f.gaussian_dropout: _gaussian,
        f.locked_dropout: _locked,
        f.drop_path: _path,
        f.drop_connect: _connect,
        f.drop_block2d: _blocks,
    }
)
