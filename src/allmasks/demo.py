"""The net that `allmasks audit` looks at when it is given none: three dropout sites, trained on digits."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import nn

from allmasks.files import atomic_path

__all__ = ["DigitsNet", "cache_folder", "demo", "training_digits"]

_SEED = 0
_EPOCHS = 40
_BATCH = 64
_FILE = "digits-64-128-128-10-v1.pt"
_HELD_OUT = 360


class DigitsNet(nn.Sequential):
    """64-128-128-10 with ReLU; dropout 0.2 on the inputs, 0.5 on both hidden layers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Dropout(0.2),
            nn.Linear(64, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )


def cache_folder() -> Path:
    """Where trained weights are kept: the environment's ALLMASKS_CACHE, or the user's cache folder."""
    given = os.environ.get("ALLMASKS_CACHE")
    if given:
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("allmasks", appauthor=False)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's bundled digits in a fixed random order: x (1797, 64) in [0, 1], y (1797,)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    return torch.tensor(pixels / 16.0, dtype=torch.float32)[order], torch.tensor(labels, dtype=torch.int64)[order]


def _train(x: torch.Tensor, y: torch.Tensor) -> DigitsNet:
    """Adam on the dropout objective; the same weights each time on the same machine, no global state touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        net = DigitsNet().train()
        optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    return net


def _cached(file: Path) -> DigitsNet | None:
    """The net from the cache, or None where there is none that can be used."""
    if not file.is_file():
        return None
    net = DigitsNet()
    try:
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception:  # whatever is wrong with a cache file, the remedy is to train again
        return None
    return net if all(bool(torch.isfinite(v).all()) for v in net.state_dict().values()) else None


def training_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """As many of the demo's training digits as are held out: x (360, 64), y (360,)."""
    x, y = _digits()
    return x[_HELD_OUT : 2 * _HELD_OUT], y[_HELD_OUT : 2 * _HELD_OUT]


def demo() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A trained net in eval mode and held-out digits (x (360, 64), y (360,)); trained once, then cached.

    A cache that is missing, corrupt or cannot be written only costs the training again.
    """
    x, y = _digits()
    file = cache_folder() / _FILE
    net = _cached(file)
    if net is None:
        with torch.enable_grad():
            net = _train(x[_HELD_OUT:], y[_HELD_OUT:])
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as temporary:
                torch.save(net.state_dict(), temporary)
        except OSError as problem:
            warnings.warn(f"the demo's weights cannot be cached in {file.parent}: {problem}", stacklevel=2)
    net.zero_grad()
    return net.eval().requires_grad_(True), (x[:_HELD_OUT], y[:_HELD_OUT])
