"""The layers: names, arguments and defaults of torch.nn, and what people otherwise copy from gists.

Each is a module of `p` (and `inplace` where torch has it) with `seed` beside them, holds no parameters or buffers of
its own, so that state dicts load strictly to and from torch's layers, and in eval mode is the identity.
"""

# No annotations as strings here: TorchScript reads them.

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.fx import Proxy
from torch.nn.modules.dropout import _DropoutNd

from allmasks.nn import functional
from allmasks.nn.keys import check_seed
from allmasks.nn.noise import check_rate

__all__ = [
    "AlphaDropout",
    "DropBlock2d",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "LockedDropout",
]


class Keyed(_DropoutNd):
    """p, inplace and seed; `p` may be a tensor with a rate for each unit."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and knows neither of these
        p: Any
        seed: int | None
    per_unit = True

    def __init__(self, p: float | Tensor = 0.5, inplace: bool = False, *, seed: int | None = None) -> None:
        if isinstance(p, Tensor):
            if not self.per_unit:
                raise TypeError(f"{type(self).__name__} takes one rate p, got a tensor of shape {tuple(p.shape)}")
            super().__init__(0.5, inplace)
            # A plain attribute: not trained, not in the state dict, and not made coarse by .half().
            self.p = _own_rates(p)
        else:
            check_rate(p)
            super().__init__(p, inplace)
            if p != p:
                raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.seed = check_seed(seed)

    def extra_repr(self) -> str:
        p = f"tensor of shape {tuple(self.p.shape)}" if isinstance(self.p, Tensor) else self.p
        return f"p={p}, inplace={self.inplace}" + ("" if self.seed is None else f", seed={self.seed}")


def _own_rates(p: Tensor) -> Tensor:
    """A copy of a tensor of rates that lie between 0 and 1; of a fake tensor nobody knows, and its calls check."""
    if isinstance(p, FakeTensor):
        return p.detach().to("cpu", copy=True).double()
    with unset_fake_temporarily():
        if not bool(((p >= 0) & (p <= 1)).all()):
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        return p.detach().to("cpu", copy=True).double()


def _leaf(layer: nn.Module, input: Any) -> Any:
    """The call as torch.fx records it of torch's own layers: the module itself, whose mode and p may change later."""
    return input.tracer.create_proxy("call_module", input.tracer.path_of_module(layer), (input,), {})


def _no_seed_in_scripts(training: bool, seed: int | None) -> None:
    if training and seed is not None:
        raise RuntimeError("TorchScript cannot draw the masks of a seed: pass seed=None, or use torch.compile")


class Dropout(Keyed, nn.Dropout):
    """`torch.nn.Dropout` at memory speed: each element is zeroed with probability p, the others scaled by 1/(1 − p).

    Mean: the input. Variance: p/(1 − p) · input². See `allmasks.nn.functional.dropout`.

    Parameters
    ----------
    p : 0 … 1, or a tensor of rates that broadcasts over the input's last axes.
    inplace : overwrite the input.
    seed : an own stream of keys, 0 … 2**64 - 1; None takes them from torch's CPU generator.

    Raises
    ------
    ValueError : p outside [0, 1].

    Example
    -------
    >>> import torch, allmasks as am
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), am.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    >>> am.find_dropout(net, torch.ones(4, 3))
    [DropoutSite(name='1', kind='dropout', p=0.2, shape=(8,), units=8)]
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.dropout(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.dropout(input, self.p, self.training, self.inplace, seed=self.seed)


class Dropout1d(Keyed, nn.Dropout1d):
    """`torch.nn.Dropout1d`: whole channels of (N, C, L) or (C, L). A tensor p has one rate for each channel.

    Mean: the input. Variance of each element: p/(1 − p) · input².
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.dropout1d(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.dropout1d(input, self.p, self.training, self.inplace, seed=self.seed)


class Dropout2d(Keyed, nn.Dropout2d):
    """`torch.nn.Dropout2d`: whole channels of (N, C, H, W). A tensor p has one rate for each channel.

    Mean: the input. Variance of each element: p/(1 − p) · input².
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.dropout2d(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.dropout2d(input, self.p, self.training, self.inplace, seed=self.seed)


class Dropout3d(Keyed, nn.Dropout3d):
    """`torch.nn.Dropout3d`: whole channels of (N, C, D, H, W) or (C, D, H, W). A tensor p has one rate a channel.

    Mean: the input. Variance of each element: p/(1 − p) · input².
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.dropout3d(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.dropout3d(input, self.p, self.training, self.inplace, seed=self.seed)


class AlphaDropout(Keyed, nn.AlphaDropout):
    """`torch.nn.AlphaDropout`, for SELU networks: mean 0 and variance 1 over the data are kept, single means are not.

    Mean over masks: a q x; variance: a² p q (x − α′)²; see `allmasks.nn.functional.alpha_dropout`.
    """

    per_unit = False

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.alpha_dropout(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.alpha_dropout(input, self.p, self.training, self.inplace, seed=self.seed)


class FeatureAlphaDropout(Keyed, nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout`: `AlphaDropout` of whole channels. Mean and variance as there."""

    per_unit = False

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            _no_seed_in_scripts(self.training, self.seed)
            return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)
        else:  # TorchScript would compile what followed, but not an else
            if type(input) is not Tensor and isinstance(input, Proxy):
                return _leaf(self, input)
            return functional.feature_alpha_dropout(input, self.p, self.training, self.inplace, seed=self.seed)


class GaussianDropout(Keyed):
    """Multiplicative Gaussian noise of mean 1 and variance p/(1 − p), after which an element's moments are dropout's.

    Mean: the input. Variance: p/(1 − p) · input². No mask of bits: evaluation over masks refuses it by name.
    """

    per_unit = False

    def __init__(self, p: float = 0.5, *, seed: int | None = None) -> None:
        super().__init__(p, seed=seed)
        if p == 1:
            raise ValueError("GaussianDropout needs p below 1: at p = 1 its noise has infinite variance")

    @torch.jit.ignore  # a script calls back into Python
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _leaf(self, input)
        return functional.gaussian_dropout(input, self.p, self.training, seed=self.seed)

    def extra_repr(self) -> str:
        return f"p={self.p}" + ("" if self.seed is None else f", seed={self.seed}")


class LockedDropout(Keyed):
    """The same mask at every time step of (T, N, D), or of (N, T, D) with batch_first as `torch.nn.LSTM` has it.

    Mean: the input. Variance of each element: p/(1 − p) · input². Gal & Ghahramani (2016).

    >>> import torch
    >>> out = LockedDropout(0.5, batch_first=True, seed=3)(torch.ones(2, 5, 4))
    >>> bool((out == out[:, :1]).all())
    True
    """

    def __init__(
        self, p: float | Tensor = 0.5, inplace: bool = False, *, batch_first: bool = False, seed: int | None = None
    ) -> None:
        super().__init__(p, inplace, seed=seed)
        self.batch_first = batch_first

    @torch.jit.ignore  # a script calls back into Python
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _leaf(self, input)
        return functional.locked_dropout(
            input, self.p, self.training, self.inplace, batch_first=self.batch_first, seed=self.seed
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + f", batch_first={self.batch_first}"


class DropPath(Keyed):
    """Stochastic depth: whole examples of a residual branch are zeroed, the others scaled by 1/(1 − p).

    Mean: the input. Variance of each element: p/(1 − p) · input². Huang et al. (2016).
    """

    per_unit = False

    @torch.jit.ignore  # a script calls back into Python
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _leaf(self, input)
        return functional.drop_path(input, self.p, self.training, self.inplace, seed=self.seed)


class DropBlock2d(Keyed):
    """Squares of block_size² positions of each feature map are zeroed, a fraction p in expectation.

    Mean: the input. Variance: (1 − k)/k · input², k the position's probability to be kept. Ghiasi et al. (2018); see
    `allmasks.nn.functional.drop_block2d` for what differs from the paper.
    """

    per_unit = False

    def __init__(self, p: float = 0.5, block_size: int = 7, inplace: bool = False, *, seed: int | None = None) -> None:
        super().__init__(p, inplace, seed=seed)
        self.block_size = block_size

    @torch.jit.ignore  # a script calls back into Python
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _leaf(self, input)
        return functional.drop_block2d(input, self.p, self.block_size, self.training, self.inplace, seed=self.seed)

    def extra_repr(self) -> str:
        return f"p={self.p}, block_size={self.block_size}" + super().extra_repr().removeprefix(f"p={self.p}")


class DropConnect(nn.Linear):
    """`torch.nn.Linear` whose single weights are dropped, with one mask for the whole batch; the bias stays.

    With S = W̃ x + b the output's mean is W x + b and its variance p/(1 − p) · Σⱼ Wᵢⱼ² xⱼ². Wan et al. (2013).
    Parameters are those of `torch.nn.Linear`, whose state dicts it loads.

    Parameters
    ----------
    in_features, out_features, bias : as for `torch.nn.Linear`.
    p, seed : as for `Dropout`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = 0.5,
        *,
        seed: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, **factory)
        check_rate(p)
        self.p = p
        self.seed = check_seed(seed)

    @torch.jit.ignore  # a script calls back into Python
    def forward(self, input: Tensor) -> Tensor:
        if type(input) is not Tensor and isinstance(input, Proxy):
            return _leaf(self, input)
        weight = functional.drop_connect(self.weight, self.p, self.training, seed=self.seed)
        return F.linear(input, weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}" + ("" if self.seed is None else f", seed={self.seed}")
