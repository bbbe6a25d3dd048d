"""Dropout as functions: torch's arguments, keyed bits, memory speed, nothing stored for backward.

All take `key` and `seed` beside torch's arguments. `key`, 64 bits as an int or an int64 tensor, decides on every bit:
the same key gives the same mask on every device, with any number of threads, eager or compiled. `seed` takes the next
key of that seed's stream. Without either, the key comes from torch's CPU generator, so `torch.manual_seed` works as
ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from allmasks.masks import ALPHA_DROPPED
from allmasks.nn import noise
from allmasks.nn.blocks import drop_block2d
from allmasks.nn.law import alpha_law
from allmasks.nn.noise import Key, check_kind, check_rate, need_tensor, nothing, overridable, rates_of_units
from allmasks.nn.ops import check_writable, times, wide
from allmasks.nn.shapes import (
    channel_axes,
    channel_mask_shape,
    example_mask_shape,
    locked_mask_shape,
    need_channels,
)

__all__ = [
    "alpha_dropout",
    "drop_block2d",
    "drop_connect",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "locked_dropout",
]


def dropout(
    input: Tensor,
    p: float | Tensor = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1 − p): m ⊙ x / (1 − p).

    Mean over masks: the input. Variance: p/(1 − p) · input².

    Parameters
    ----------
    input : a floating-point tensor of any shape and strides; a jagged nested tensor.
    p : probability of an element to be zeroed, 0 … 1. The rate drawn is within 2⁻¹⁷ of it, and p itself for multiples
        of 1/256 (see `allmasks.nn.law.drawn_law`); the scale is that rate's, so that the mean is the input. A tensor
        gives a rate for each unit: it broadcasts over the input's last axes.
    training : without it the input comes back as it is.
    inplace : overwrite the input.
    key, seed : see the module.

    No mask is stored for backward: it is made again from the key. A dropped NaN or infinity stays NaN, as in torch,
    since 0 · NaN is NaN.

    Raises
    ------
    ValueError : p outside [0, 1]; both key and seed. TypeError : a key or seed that is no 64-bit integer; in training
        with 0 < p < 1, integer, complex or sparse input (also a NotImplementedError, which torch raises).

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014), "Dropout: a simple way to prevent neural
    networks from overfitting".

    Example
    -------
    >>> import torch
    >>> x = torch.ones(6)
    >>> dropout(x, 0.5, key=1)
    tensor([2., 2., 0., 0., 2., 2.])
    >>> torch.equal(dropout(x, 0.5, key=1), dropout(x, 0.5, key=1))
    True
    """
    # What `overridable` does, without a call in between: here each one counts.
    if has_torch_function_unary(input):
        same: Tensor = handle_torch_function(dropout, (input,), input, p, training, inplace, key=key, seed=seed)
        return same
    if isinstance(p, Tensor):
        units = rates_of_units(p, need_tensor(input).shape)
        return noise.masked(input, 0.0, units, inplace, key, seed) if training else input
    if not 0.0 <= p <= 1.0:
        check_rate(p)
    if not training or p == 0.0:
        return need_tensor(input)
    if p == 1.0:
        return nothing(input, inplace)
    return noise.masked(input, float(p), None, inplace, key, seed)


@overridable
def dropout1d(
    input: Tensor,
    p: float | Tensor = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Dropout of whole channels of (N, C, L) or (C, L): one bit a channel and example (Tompson et al. 2015).

    Mean and variance of each element as for `dropout`; elements of a channel are zeroed together. A tensor p has one
    rate for each channel.

    >>> import torch
    >>> dropout1d(torch.ones(1, 2, 3), key=1)
    tensor([[[2., 2., 2.],
             [2., 2., 2.]]])
    """
    return _channels("dropout1d", input, p, training, inplace, key, seed)


@overridable
def dropout2d(
    input: Tensor,
    p: float | Tensor = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Dropout of whole channels of (N, C, H, W); see `dropout1d`. As torch does, (N, C, L) is taken with a warning."""
    return _channels("dropout2d", input, p, training, inplace, key, seed)


@overridable
def dropout3d(
    input: Tensor,
    p: float | Tensor = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W); see `dropout1d`."""
    return _channels("dropout3d", input, p, training, inplace, key, seed)


@overridable
def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Alpha dropout: dropped units take SELU's negative limit α′, then a x + b brings mean 0 and variance 1 back.

    Mean over masks: a (q x + p α′) + b = a q x, which is not x; variance: a² p q (x − α′)², with q = 1 − p,
    α′ = −1.7581, a = (q (1 + p α′²))^(−1/2), b = −a p α′. For x of mean 0 and variance 1 over the data, that holds
    of the output too.

    References
    ----------
    Klambauer, Unterthiner, Mayr & Hochreiter (2017), "Self-normalizing neural networks".

    >>> import torch
    >>> alpha_dropout(torch.zeros(4), 0.5, True, key=1)
    tensor([ 0.7792,  0.7792, -0.7792, -0.7792])
    """
    return _alpha(False, input, p, training, inplace, key, seed)


@overridable
def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """`alpha_dropout` of whole channels: one bit for each (example, channel)."""
    return _alpha(True, input, p, training, inplace, key, seed)


@overridable
def gaussian_dropout(
    input: Tensor, p: float = 0.5, training: bool = True, *, key: Key = None, seed: int | None = None
) -> Tensor:
    """Multiply each element by Gaussian noise with dropout's mean and variance: x (1 + √(p/(1 − p)) z).

    Mean: the input. Variance: p/(1 − p) · input². Not a mask of bits, so methods that go over masks refuse it.

    Raises
    ------
    ValueError : p outside [0, 1): at p = 1 the variance is infinite.

    References
    ----------
    Srivastava et al. (2014), section 10; Wang & Manning (2013), "Fast dropout training".

    >>> import torch
    >>> gaussian_dropout(torch.ones(3), 0.2, key=1).round(decimals=3)
    tensor([0.8510, 1.6900, 1.1790])
    """
    check_rate(p)
    if not training or p == 0.0:
        return need_tensor(input)
    if p == 1.0:
        raise ValueError("gaussian_dropout needs p below 1: at p = 1 its noise has infinite variance")
    return noise.gaussian(input, float(p), key, seed)


@overridable
def locked_dropout(
    input: Tensor,
    p: float | Tensor = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    batch_first: bool = False,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Dropout with one mask for all time steps of a sequence ("variational" or "locked" dropout).

    Mean and variance of each element as for `dropout`.

    Parameters
    ----------
    input : (T, N, D); (N, T, D) if batch_first; (T, D) for one sequence.

    References
    ----------
    Gal & Ghahramani (2016), "A theoretically grounded application of dropout in recurrent neural networks"; Merity,
    Keskar & Socher (2018), "Regularizing and optimizing LSTM language models".
    """
    check_rate(p)
    shape = locked_mask_shape(need_tensor(input), batch_first)
    return _shared(input, lambda _: shape, p, training, inplace, key, seed)


@overridable
def drop_path(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key = None,
    seed: int | None = None,
) -> Tensor:
    """Stochastic depth: zero whole examples of a residual branch, so that x + drop_path(branch(x)) skips the branch.

    One bit an example (first axis). Mean: the input. Variance of each element: p/(1 − p) · input².

    References
    ----------
    Huang, Sun, Liu, Sedra & Weinberger (2016), "Deep networks with stochastic depth".

    >>> import torch
    >>> drop_path(torch.ones(4, 2), key=1)
    tensor([[2., 2.],
            [2., 2.],
            [0., 0.],
            [0., 0.]])
    """
    check_rate(p)
    return _shared(input, example_mask_shape, p, training, inplace, key, seed)


@overridable
def drop_connect(
    weight: Tensor, p: float = 0.5, training: bool = True, *, key: Key = None, seed: int | None = None
) -> Tensor:
    """Zero single weights with probability p and scale the others by 1/(1 − p); one mask for the whole batch.

    Mean: the weight. Variance: p/(1 − p) · weight².

    References
    ----------
    Wan, Zeiler, Zhang, LeCun & Fergus (2013), "Regularization of neural networks using DropConnect".
    """
    return dropout(weight, p, training, False, key=key, seed=seed)


# -- shared by several -----------------------------------------------------------------------------------------


def _shared(
    x: Tensor,
    shape_of: Callable[[Tensor], tuple[int, ...]],
    p: float | Tensor,
    training: bool,
    inplace: bool,
    key: Key,
    seed: int | None,
    needs: int = 0,
) -> Tensor:
    """Dropout by a mask of this shape, which is small and multiplied in by broadcasting; x needs so many axes."""
    units = None
    if isinstance(p, Tensor):
        units = rates_of_units(p, [n for n in shape_of(need_tensor(x)) if n != 1] or [1])
        if not training:
            return x
    elif not training or p == 0.0:
        return need_tensor(x)
    elif p == 1.0:
        return nothing(x, inplace)
    check_kind(x)
    if x.numel() == 0:
        return x
    need_channels(x, needs)
    factor = noise.masked_ones(x, shape_of(x), 0.0 if units is not None else float(p), units, key, seed)
    return times(x, factor, inplace)


def _channels(
    name: str,
    input: Tensor,
    p: float | Tensor,
    training: bool,
    inplace: bool,
    key: Key,
    seed: int | None,
) -> Tensor:
    check_rate(p)
    leading = channel_axes(name, need_tensor(input))

    def shape_of(x: Tensor) -> tuple[int, ...]:
        return channel_mask_shape(x, leading)

    return _shared(input, shape_of, p, training, inplace, key, seed, leading)


def _alpha(
    whole_channels: bool,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    key: Key,
    seed: int | None,
) -> Tensor:
    check_rate(p)
    if not training or p == 0.0:
        return need_tensor(input)
    if p == 1.0:
        return nothing(input, inplace)
    check_kind(input)
    if input.numel() == 0:
        return input
    if inplace:
        check_writable(input)
    # The drawn noise is 0 or 1 / (1 - p); constants of a half type would be a tenth of a percent off.
    x = input.to(wide(input.dtype))
    scale, ratio, floor = _alpha_terms(p)
    result: Any
    if not whole_channels:
        # a (m (x − α′)) + (a α′ + b) is a x + b where m = 1 and a α′ + b where m = 0: no mask is needed but the keyed.
        result = noise.masked(x - ALPHA_DROPPED, float(p), None, False, key, seed) * ratio + floor
    else:
        need_channels(input, 2)
        drawn = noise.masked_ones(input, channel_mask_shape(input, 2), float(p), None, key, seed)
        # a (x − α′) + floor = a x + b, but exact at x = 0 and no sum of larger numbers.
        kept = (drawn != 0).to(x.dtype)
        result = x * (kept * scale) + (kept * (-scale * ALPHA_DROPPED) + floor)
    result = result.to(input.dtype)
    return input.copy_(result) if inplace else result


def _alpha_terms(p: float) -> Any:
    if torch.compiler.is_dynamo_compiling():
        return torch.ops.allmasks.alpha_terms(p).unbind()
    return alpha_law(float(p))
