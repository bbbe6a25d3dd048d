"""Two drop rates by racing against the full grid: its choice, its cost, and what it says of its own uncertainty.

    python benchmarks/which_rates.py grid   --out grids [--data DIR] [--seeds 40]     # every fit once, resumable
    python benchmarks/which_rates.py replay --out grids [--times 20]                  # races on draws from those fits
    python benchmarks/which_rates.py live   --out grids [--data DIR] [--times 2]      # races that train, other seeds

A net with two hidden layers of 64 units, dropout behind each, 7 × 7 rates: on scikit-learn's digits (200 training rows,
log loss) and, with --data, on concrete.npz (arrays X and y, root mean squared error). A seed has its own split
and start.
A replay takes the seeds of the grid in another order each time; the choice is judged by the whole grid: how
far its mean lies above the grid's best, in standard errors of their paired difference.
"""

import argparse
import json
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import allmasks as am
from allmasks.trials import Trials, run_trials

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
SITES = ("first", "second")
EPOCHS = {"digits": 60, "concrete": 30}


@cache
def rows(name, data):
    if name == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return torch.tensor(X / 16).float(), torch.tensor(y), 200
    with np.load(Path(data) / f"{name}.npz") as found:
        X, y = found["X"].astype(float), found["y"].astype(float).ravel()
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    return torch.tensor(X).float(), torch.tensor(y).float(), int(0.8 * len(X))


def fits(rates, seeds, name="digits", data=None):
    """Validation losses of one net a seed, trained side by side; everything random comes from a net's own seed."""
    X, y, n_train = rows(name, data)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    masks = [torch.Generator().manual_seed(seed + 2**32) for seed in seeds]

    def drawn(shape, generators, draw=torch.rand):
        return torch.stack([draw(shape, generator=generator) for generator in generators])

    order = torch.stack([torch.randperm(len(X), generator=generator) for generator in draws])
    train, held_out = order[:, :n_train], order[:, n_train : n_train + 1000]
    outputs = 10 if name == "digits" else 1
    sizes = [(X.shape[1], 64), (64, 64), (64, outputs)]
    weights = [drawn(size, draws, torch.randn) * (2 / size[0]) ** 0.5 for size in sizes]
    parameters = [*weights, *(torch.zeros(len(seeds), 1, size[1]) for size in sizes)]
    for parameter in parameters:
        parameter.requires_grad_()
    keep = [1 - rates[site] for site in SITES]

    def losses(chosen, dropped):
        x, target = X[chosen], y[chosen]
        for layer in range(2):
            x = torch.baddbmm(parameters[3 + layer], x, parameters[layer]).relu()
            # Drawn whatever the rate, so that nets of one seed share their uniform numbers.
            if dropped:
                x = x * ((drawn(x.shape[1:], masks) < keep[layer]) / keep[layer])
        out = torch.baddbmm(parameters[5], x, parameters[2])
        if outputs == 1:
            return ((out[..., 0] - target) ** 2).mean(1)
        return F.cross_entropy(out.flatten(0, 1), target.flatten(), reduction="none").view(target.shape).mean(1)

    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    size = 50 if name == "digits" else 128
    for _ in range(EPOCHS[name]):
        shuffled = train.gather(1, drawn((n_train,), draws).argsort(1))
        for batch in shuffled.split(size, dim=1):
            optimizer.zero_grad()
            losses(batch, True).sum().backward()
            optimizer.step()
    with torch.no_grad():
        found = losses(held_out, False)
    return (found if outputs > 1 else found**0.5).tolist()


def fit(rates, seed, name="digits", data=None):
    """One net's validation loss."""
    return fits(rates, [seed], name, data)[0]


def make_grid(name, data, out, seeds):
    """(49, seeds) losses, kept trial by trial and then as one small file."""
    arms = [dict(zip(SITES, (a, b), strict=True)) for a in RATES for b in RATES]
    jobs = [((name, arm, seeds, EPOCHS[name]), (arm, range(seeds), name, data)) for arm in arms]
    began = time.perf_counter()

    def tell(key):
        print(f"{key[0]} {tuple(key[1].values())}, {time.perf_counter() - began:.0f} s", flush=True)

    found = run_trials(fits, jobs, Trials(out / "trials"), done=tell)
    grid = {"arms": arms, "values": np.round(found, 6).tolist()}
    (out / f"{name}.json").write_text(json.dumps(grid))


def judged(chosen, arms, values):
    """(how far above the grid's best, its standard error, the grid's best)."""
    best = int(values.mean(axis=1).argmin())
    behind = values[arms.index(chosen)] - values[best]
    return behind.mean(), behind.std(ddof=1) / len(behind) ** 0.5, arms[best]


def told(label, found, arms, values, seconds):
    above, error, best = judged(found.best, arms, values)
    inside = best in found.tied
    print(
        f"{label}  {found.n_fits:4d} fits ({100 * found.n_fits / values.size:.0f} % of the grid's)  chose "
        f"{tuple(found.best.values())}, grid's best {tuple(best.values())}: {above:+.4f} ± {error:.4f}"
        f"  {'ok' if above <= 2 * error else 'NOT within 2 s.e.'}  best among the {len(found.tied)} not told apart: "
        f"{'yes' if inside else 'NO'}  gain {found.gain:+.4f} ± {found.gain_error:.4f}  {seconds:.0f} s",
        flush=True,
    )
    return above <= 2 * error, inside


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("grid", "replay", "live"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", help="folder with concrete.npz")
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--times", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("digits", "concrete"):
        if asked.what == "grid" and (name == "digits" or asked.data):
            make_grid(name, asked.data, asked.out, asked.seeds)
        path = asked.out / f"{name}.json"
        if asked.what == "grid" or not path.is_file():
            continue
        grid = json.loads(path.read_text())
        arms, values = grid["arms"], np.array(grid["values"])
        truth, _, best = judged(arms[0], arms, values)
        print(f"{name}: grid's best {tuple(best.values())}, gain over p = 0 everywhere {truth:.4f}")
        rates = dict.fromkeys(SITES, RATES)
        results = []
        for i in range(asked.times or (20 if asked.what == "replay" else 2)):
            began = time.perf_counter()
            if asked.what == "replay":
                drawn = np.random.default_rng([i, 5]).permutation(values.shape[1])

                def replayed(arm, seed, values=values, drawn=drawn, arms=arms):
                    return values[arms.index(arm), drawn[seed]]

                found = am.rate_curve(replayed, rates, seeds=asked.seeds)
            else:
                seeds = list(range(1000 * (i + 1), 1000 * (i + 1) + asked.seeds))
                found = am.rate_curve(partial(fit, name=name, data=asked.data), rates, seeds=seeds)
                print(found)
            results.append(told(f"{asked.what} {i:2d}", found, arms, values, time.perf_counter() - began))
        ok, inside = np.sum(results, axis=0)
        print(f"{name}: {ok} of {len(results)} within the grid's noise; its best not told apart in {inside}")


if __name__ == "__main__":
    main()
