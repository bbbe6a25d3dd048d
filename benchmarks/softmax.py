"""Proven bounds of the cross-entropy over all masks of a last layer, beside Monte Carlo in the same time.

    python benchmarks/softmax.py [--data DIR] [--rows 600] [--rates 0.1 0.5] [--beside]

Nets 64-256-256-10 on scikit-learn's digits, and 784-256-256-10 on the MNIST of --data (the idx files). For each rate:
the share of test rows within a width, processor time a row, and how many times the half width goes into the standard
error of Monte Carlo in the same time on the median row. Monte Carlo is this library's for the same scores (Latin
hypercube), and the whole call for the model, with and without the quadratic control variate; each is run with 256
masks, and its error brought to the time of the bounds by the root of the ratio of times.

--beside: with the other two sites random too, bounds inside each mask against the default at an equal number of masks.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from measure import machine, once
from sklearn.datasets import load_digits
from torch import nn

import allmasks as am
from allmasks.methods import MonteCarlo, SoftmaxBounds

WIDTHS = 1e-2, 1e-3, 1e-4
MASKS = 256


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    X, y = load_digits(return_X_y=True)
    return torch.tensor(X / 16, dtype=torch.float32), torch.tensor(y)


def mnist(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The first 12 000 training images: 6 000 of them and more to learn from."""
    packed = (folder / f"train-{name}-ubyte.gz" for name in ("images-idx3", "labels-idx1"))
    images, labels = (np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8) for path in packed)
    images, labels = images[16:], labels[8:]
    X = images.reshape(len(labels), -1)[:12_000] / 255
    return torch.tensor(X, dtype=torch.float32), torch.tensor(labels[:12_000].astype(np.int64))


def trained(X: torch.Tensor, y: torch.Tensor, p: float, epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    d = X.shape[1]
    net = nn.Sequential(
        nn.Dropout(0.2), nn.Linear(d, 256), nn.ReLU(), nn.Dropout(p), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(p),
        nn.Linear(256, 10),
    )  # fmt: skip
    steps = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(X)).split(64):
            steps.zero_grad()
            nn.functional.cross_entropy(net(X[part]), y[part]).backward()
            steps.step()
    return net.eval()


def last_layer(name: str, net: nn.Sequential, x: torch.Tensor, y: torch.Tensor, p: float) -> None:
    hidden = net[:6](x).detach().double().numpy()
    weights, b = (t.detach().double().numpy() for t in (net[7].weight, net[7].bias))
    given = weights, hidden, y.numpy(), p

    def bounds(tol: float):
        # Every width is taken, so that all rows are told; tol says where to stop.
        return am.expected_score_loss(*given, loss="cross_entropy", intercept=b, method=Told(tol=tol))

    bounds(1e-3)
    for width in WIDTHS:
        seconds, found = once(lambda width=width: bounds(width), time.process_time)
        within = (found.per_example_error <= width).mean()
        each = 1e3 * seconds / len(x)
        line = f"{name:<7} p={p:<4} half width {width:g}: {within:6.1%} of {len(x)} rows, {each:.3f} ms a row"
        if width == 1e-3:
            drawn_seconds, drawn = once(
                lambda: am.expected_score_loss(
                    *given, loss="cross_entropy", intercept=b, method=MonteCarlo(n_masks=MASKS)
                ),
                time.process_time,
            )
            same_time = drawn.per_example_error * np.sqrt(drawn_seconds / seconds)
            ratio = np.nanmedian(same_time / found.per_example_error)
            line += f"; Monte Carlo of the scores in that time: {ratio:.1f} x the half width on the median row"
        print(line, flush=True)


class Told(SoftmaxBounds):
    """Bounds that refuse no row."""

    def refuse_wide(self, error, mass, first=0) -> None:
        return None

    def _losses(self, asked):
        from allmasks.scores.softmax import bounded_losses

        return bounded_losses(asked.problem, asked.targets, self, False).results(asked.problem, asked.targets)


def whole_model(name: str, net: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> None:
    """`expected_loss` with dropout before the last layer only, and Monte Carlo's time to the same error of the mean."""
    alone = nn.Sequential(*(m for i, m in enumerate(net) if i not in (0, 3)))
    am.expected_loss(alone, x[:64], y[:64], "cross_entropy")
    with torch.no_grad():
        seconds, ours = once(lambda: am.expected_loss(alone, x, y, "cross_entropy"), time.process_time)
        print(f"{name:<7} model, {len(x)} rows: {ours.guarantee}, ± {float(ours.error):.2g}, {seconds:.2f} s")
        for control in (None, "quadratic"):
            method = MonteCarlo(n_masks=MASKS, control=control)
            spent, drawn = once(
                lambda method=method: am.expected_loss(alone, x, y, "cross_entropy", method=method), time.process_time
            )
            rows = np.nanmedian(
                drawn.per_example_error.numpy() * np.sqrt(spent / seconds) / ours.per_example_error.numpy()
            )
            mean = float(drawn.error) * np.sqrt(spent / seconds) / float(ours.error)
            print(
                f"{name:<7}   Monte Carlo, control={control}: {spent:.2f} s for {MASKS} masks; in the bounds' time its "
                f"standard error is {rows:.1f} x the half width on the median row, {mean:.2f} x of the mean",
                flush=True,
            )


def beside(name: str, net: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> None:
    """Three random sites: at equal masks, and at equal time."""
    with torch.no_grad():
        for width, moments in ((1e-2, 2), (1e-3, None)):
            inside = SoftmaxBounds(tol=width, moments=moments)
            spent, ours = once(
                lambda inside=inside: am.expected_loss(net, x, y, "cross_entropy", method=inside, n_masks=MASKS),
                time.process_time,
            )
            plain_spent, plain = once(
                lambda: am.expected_loss(net, x, y, "cross_entropy", n_masks=MASKS), time.process_time
            )
            own = float(ours.error - ours.bound)
            ratio = (float(plain.error) / own) ** 2
            print(
                f"{name:<7} three sites, {inside!r}: variance {ratio:.2f} x smaller at {MASKS} masks, width "
                f"{float(ours.bound):.1e}; time {spent:.1f} s against {plain_spent:.1f} s: "
                f"{ratio * plain_spent / spent:.2f} x at equal time",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST's idx files")
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--beside", action="store_true")
    options = parser.parse_args()
    print(machine(), flush=True)
    sets = {"digits": (*digits(), 30)}
    if options.data is not None:
        sets["MNIST"] = (*mnist(options.data), 3)
    for name, (X, y, epochs) in sets.items():
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
        test = order[-min(options.rows, len(X) // 3) :]
        rest = order[: -len(test)]
        for p in options.rates:
            net = trained(X[rest], y[rest], p, epochs)
            right = float((net(X[test]).argmax(dim=1) == y[test]).double().mean())
            print(f"{name}, p = {p}: accuracy {right:.3f}", flush=True)
            last_layer(name, net, X[test], y[test], p)
            whole_model(name, net, X[test], y[test])
            if options.beside:
                beside(name, net, X[test[:100]], y[test[:100]])


if __name__ == "__main__":
    main()
