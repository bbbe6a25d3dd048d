"""One net of the full run: everything it needs is in its name, so that it can be trained anywhere and only once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from allmasks.evidence.full.public_data import Rows, Sources, mnist, sentences, table
from allmasks.nn import Dropout

__all__ = ["ARMS", "Treatment", "Work", "experiments", "steps_of", "train_one"]

SIZES = (100, 300, 1000, 3000, 10_000, 60_000)
_STEPS = {100: 300, 300: 500, 1000: 800, 3000: 1200, 10_000: 2400, 60_000: 7000}
_WIDTH = 1024
_MAX_NORM = 3.0
_INPUT_P, _P = 0.2, 0.5


@dataclass(frozen=True)
class Treatment:
    """How a net is regularized: dropout (0.2 of the inputs, 0.5 of the hidden units), λ of λ‖w‖², max-norm."""

    dropout: bool = False
    l2: float = 0.0
    max_norm: bool = False


ARMS = {
    "none": Treatment(),
    "dropout": Treatment(dropout=True),
    "max-norm + dropout": Treatment(dropout=True, max_norm=True),
    "L2": Treatment(l2=1e-4),
    "dropout + L2": Treatment(dropout=True, l2=1e-5),
    "max-norm": Treatment(max_norm=True),
}


@dataclass(frozen=True)
class Work:
    """One trial's name."""

    experiment: str
    arm: str
    seed: int


def experiments(sources: Sources) -> tuple[str, ...]:
    """Names of the experiments that the data allow, the cheaper first."""
    found = []
    if sources.mnist:
        found += [f"mnist {n}" for n in SIZES if n <= len(mnist(sources.mnist)[0].x)]
        found.append("mnist conv 3000")
    if sources.text is not None:
        found.append(f"text {sources.text[0].name.split('.')[0]}")
    found += [f"table {name}" for name, _ in sources.tables]
    return tuple(sorted(found, key=lambda name: (steps_of(name), name)))


def steps_of(experiment: str) -> int:
    """Steps of training, the same for all arms."""
    if experiment.startswith("mnist conv"):
        return 1500
    if experiment.startswith("mnist"):
        return _STEPS[int(experiment.split()[-1])]
    return 600 if experiment.startswith("text") else 1500


def _rows(experiment: str, sources: Sources, seed: int) -> tuple[Rows, Rows]:
    """Training rows of a seed, and test rows: MNIST's own, else a fifth."""
    rng = np.random.default_rng([seed, 202])
    if experiment.startswith("mnist"):
        train, test = mnist(sources.mnist)
        chosen = rng.permutation(len(train.x))[: int(experiment.split()[-1])]
        return Rows(train.x[chosen], train.y[chosen], 10), test
    if experiment.startswith("text"):
        assert sources.text is not None
        whole = sentences(sources.text)
    else:
        whole = table(dict(sources.tables)[experiment.removeprefix("table ")])
    order = rng.permutation(len(whole.x))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    return Rows(whole.x[kept], whole.y[kept], whole.classes), Rows(whole.x[held], whole.y[held], whole.classes)


def _net(experiment: str, d: int, outputs: int, dropped: bool) -> nn.Sequential:
    """Layers are made in the same order whatever the arm, so that arms of a seed begin alike."""

    def drop(p: float) -> nn.Module:
        return Dropout(p) if dropped else nn.Identity()

    if experiment.startswith("mnist conv"):
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), drop(_P)),
            *(nn.Linear(32 * 49, 128), nn.ReLU(), drop(_P), nn.Linear(128, outputs)),
        )
    widths = {"mnist": [_WIDTH] * 3, "text": [256]}.get(experiment.split()[0], [50, 50])
    layers: list[nn.Module] = [drop(_INPUT_P)] if experiment.split()[0] in ("mnist", "text") else []
    for width in widths:
        layers += [nn.Linear(d, width), nn.ReLU(), drop(_P if outputs > 1 else 0.1)]
        d = width
    return nn.Sequential(*layers, nn.Linear(d, outputs))


def train_one(work: Work, sources: Sources) -> dict[str, Any]:
    """Train, and what came of it: losses and accuracies in eval mode. One thread: more would change the last bits."""
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    began = time.perf_counter()
    try:
        with threadpool_limits(1):
            return _train(work, sources) | {"seconds": time.perf_counter() - began}
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(state)


def _train(work: Work, sources: Sources) -> dict[str, Any]:
    how = ARMS[work.arm]
    train, test = _rows(work.experiment, sources, work.seed)
    x, y = torch.from_numpy(train.x), torch.from_numpy(train.y)
    outputs = train.classes or 1
    torch.manual_seed(work.seed)
    net = _net(work.experiment, train.x.shape[1], outputs, how.dropout)
    weights = [p for p in net.parameters() if p.ndim > 1]
    steps, batch = steps_of(work.experiment), min(256 if len(x) >= 10_000 else 64, len(x))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    draw = torch.Generator().manual_seed(work.seed + 1)
    net.train()
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=draw)
        loss = _loss(net(x[rows]), y[rows])
        if how.l2:
            loss = loss + how.l2 * torch.stack([(w**2).sum() for w in weights]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if how.max_norm:
            with torch.no_grad():
                for w in weights:
                    w.copy_(torch.renorm(w, 2, 0, _MAX_NORM))
    net.eval()
    found: dict[str, Any] = {}
    for part, rows_ in (("train", Rows(train.x[:10_000], train.y[:10_000], train.classes)), ("test", test)):
        found |= {f"{part}_{name}": value for name, value in _scores(net, rows_).items()}
    if not all(math.isfinite(v) for v in found.values()):
        raise ValueError(f"training of {work} ended in {found}: its losses are not finite")
    return found


def _loss(out: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out[:, 0], y) if out.shape[1] == 1 else F.cross_entropy(out, y)


def _scores(net: nn.Module, rows: Rows) -> dict[str, float]:
    with torch.no_grad():
        out = torch.cat([net(part) for part in torch.from_numpy(rows.x).split(1000)])
    y = torch.from_numpy(rows.y)
    loss = float(_loss(out, y))
    if rows.classes == 0:
        return {"loss": loss, "rmse": loss**0.5}
    return {"loss": loss, "accuracy": float((out.argmax(1) == y).double().mean())}
