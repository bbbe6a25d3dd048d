"""Drop rates that change during training: early, late and linear dropout."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from allmasks.nn.layers import DropConnect

__all__ = ["RateScheduler"]

_MARK = "_scheduled_p"
"""A layer's full rate, and the rate that a scheduler gave it."""

Mode = Literal["early", "late", "linear"]


class RateScheduler:
    """Set the rate of every dropout layer of a model as training goes on.

    Each layer's rate when the scheduler is made is its full rate p; where an earlier scheduler set it, what that one
    took for the full rate. At step t (0 before the first `step()`):

    - "early": p while t < steps, then 0: dropout that helps underfitting models at the start;
    - "late": 0 while t < steps, then p: dropout only once overfitting sets in;
    - "linear": p · (1 − t / steps), and 0 from there on.

    Parameters
    ----------
    model : its torch and allmasks dropout layers are set, shared ones once, and so are drop path and DropBlock as timm,
        transformers and torchvision have them: `drop_prob`, or the `p` of a `StochasticDepth`.
    mode : "early", "late" or "linear".
    steps : how many calls of `step()` the first part lasts, at least 1. Call it once an iteration or once an epoch; a
        compiled model is compiled anew for each new rate, so once an epoch there.

    Raises
    ------
    ValueError : an unknown mode, steps below 1, a rate outside [0, 1], or a model without dropout layers.

    References
    ----------
    Liu, Xu, Jin, Shen & Darrell (2023), "Dropout reduces underfitting".

    Example
    -------
    >>> import allmasks as am
    >>> layer = am.nn.Dropout(0.4)
    >>> schedule = am.nn.RateScheduler(layer, "linear", steps=4)
    >>> rates = []
    >>> for _ in range(5):
    ...     rates.append(round(layer.p, 3))
    ...     schedule.step()
    >>> rates
    [0.4, 0.3, 0.2, 0.1, 0.0]
    """

    def __init__(self, model: nn.Module, mode: Mode, *, steps: int) -> None:
        if mode not in ("early", "late", "linear"):
            raise ValueError(f'mode must be "early", "late" or "linear", got {mode!r}')
        self.mode, self.steps, self.t = mode, _whole("steps", steps, 1), 0
        self._layers = {name: module for name, module in model.named_modules() if _rate_name(module) is not None}
        if not self._layers:
            raise ValueError(f"{type(model).__name__} has no dropout layer whose rate could be scheduled")
        self.rates = {name: _full_rate(name, layer) for name, layer in self._layers.items()}
        self._set()

    @property
    def factor(self) -> float:
        """What the full rates are multiplied by at this step."""
        if self.mode == "early":
            return 1.0 if self.t < self.steps else 0.0
        if self.mode == "late":
            return 0.0 if self.t < self.steps else 1.0
        return max(0.0, 1.0 - self.t / self.steps)

    def step(self) -> None:
        """Go one step on."""
        self.t += 1
        self._set()

    def _set(self) -> None:
        factor = self.factor
        for name, layer in self._layers.items():
            full = self.rates[name]
            # At full rate the very object comes back, bit for bit.
            rate = full if factor == 1.0 else full * factor
            setattr(layer, _rate_name(layer) or "p", rate)
            layer.__dict__[_MARK] = full, rate  # and stays with copies of the layer

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: mode, steps, the step reached, and each layer's full rate."""
        rates = {name: p.tolist() if isinstance(p, Tensor) else p for name, p in self.rates.items()}
        return {"mode": self.mode, "steps": self.steps, "t": self.t, "rates": rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another scheduler of the same model was.

        Raises
        ------
        ValueError : if the state is of another mode or of other layers, or its numbers are none that a scheduler can
            have; nothing is changed then.
        """
        wanted = ("mode", "steps", "t", "rates")
        missing = [name for name in wanted if not isinstance(state, dict) or name not in state]
        if missing:
            raise ValueError(f"the state lacks {', '.join(sorted(missing))}; pass what state_dict() returned")
        given = state["rates"] if isinstance(state["rates"], dict) else {}
        if given.keys() != self.rates.keys():
            differ = ", ".join(sorted(map(str, given.keys() ^ self.rates.keys())))
            raise ValueError(f"the state is of a model with other dropout layers; these are in one only: {differ}")
        if state["mode"] != self.mode:
            raise ValueError(f'the state is of mode "{state["mode"]}", and this scheduler is "{self.mode}"')
        steps, t = _whole("steps", state["steps"], 1), _whole("t", state["t"], 0)
        rates = {name: _rate_like(self.rates[name], p, name) for name, p in given.items()}
        self.steps, self.t, self.rates = steps, t, rates
        self._set()


def _full_rate(name: str, layer: Any) -> Any:
    """The layer's rate, or what the scheduler that set it took it from: 0 before "late" began is no full rate."""
    full, last = layer.__dict__.get(_MARK, (None, None))
    now = getattr(layer, _rate_name(layer) or "p")
    return full if last is not None and np.array_equal(last, now) else _checked(name, now)


_STOCHASTIC = ("StochasticDepth", "DropBlock2d", "DropBlock3d")
"""torchvision's, which is not a requirement."""


def _rate_name(layer: nn.Module) -> str | None:
    """The attribute that holds a layer's rate, or None for whatever is no dropout layer."""
    if isinstance(layer, _DropoutNd | DropConnect):
        return "p"
    bare = not (layer._parameters or layer._modules)
    held = {name: vars(layer).get(name) for name in ("drop_prob", "p")}
    rated = {name for name, rate in held.items() if isinstance(rate, int | float) and not isinstance(rate, bool)}
    if bare and "drop_prob" in rated:
        return "drop_prob"
    return "p" if bare and "p" in rated and type(layer).__name__ in _STOCHASTIC else None


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def _checked(name: str, p: Any) -> Any:
    """The rate, or a ValueError unless it lies, or all of a tensor's lie, between 0 and 1."""
    numbers = p.tolist() if isinstance(p, Tensor) else p
    try:
        ok = bool(np.all((np.asarray(numbers, np.float64) >= 0.0) & (np.asarray(numbers, np.float64) <= 1.0)))
    except (TypeError, ValueError):
        ok = False
    if not ok:
        raise ValueError(f"the rate of {name or '(root)'} has to be between 0 and 1, but got {numbers!r}")
    return p


def _rate_like(own: Any, p: Any, name: str) -> Any:
    """A saved rate in the form of the scheduler's own: a number, or a tensor of the same shape."""
    shape = tuple(own.shape) if isinstance(own, Tensor) else ()
    if np.shape(_checked(name, p)) != shape:
        raise ValueError(f"the rate of {name or '(root)'} has shape {np.shape(p)} in the state and {shape} here")
    return own.new_tensor(p) if isinstance(own, Tensor) else float(p)
