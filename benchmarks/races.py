"""What a race of drop rates tells apart, and what its intervals cover: simulated races whose truth is known.

    python benchmarks/races.py [--races 1000] [--seeds 10] [--rates 9]

Each line is one kind of truth: equal rates, a bowl, one better rate; with equal or unequal noise. "told" is the share
of races that tell some rate from the best, "lost" the share that told the truly best one away; then the coverage of
the 95 % intervals, in brackets what Student's t about a rate named beforehand would cover. Distances are in standard
deviations of one seed's noise.
"""

import argparse

import numpy as np
from scipy.stats import t

from allmasks.diagnose.race import Race, chosen_quantiles, measured, threshold

FIRST_LOOK = 4
LEVEL = 0.95


def truths(rates):
    p = np.arange(rates) / rates
    equal, ones = np.zeros(rates), np.ones(rates)
    yield from [
        ("equal", equal, ones, 0.0),
        ("equal, noise shared by seeds", equal, ones, 3.0),
        ("equal, noise .5 … 2", equal, 0.5 + 1.5 * p, 0.0),
        ("bowl, .6 at the ends", 2.5 * (p - 0.45) ** 2, ones, 1.0),
        ("bowl, 6 at the ends", 25 * (p - 0.45) ** 2, ones, 1.0),
        *((f"one better by {d:g}", np.where(np.arange(rates) == 3, -d, 0.0), ones, 1.0) for d in (0.5, 1, 1.5, 2, 3)),
        ("two better by 2", np.where(np.isin(np.arange(rates), (2, 5)), -2.0, 0.0), ones, 1.0),
    ]


def simulate(means, spread, shared, seeds, races, alpha):
    rng = np.random.default_rng(11)
    values = means[:, None] + shared * rng.normal(size=(races, 1, seeds))
    values = values + spread[:, None] * rng.normal(size=(races, len(means), seeds))
    race = Race(values, alpha, FIRST_LOOK)
    hits = {name: [] for name in ("best", "best t", "other", "behind", "behind t")}
    for v, n, best in zip(values, race.n_seeds, race.best, strict=True):
        ran = np.where(np.arange(seeds) < n[:, None], v, np.nan)
        mean, error, behind, behind_error = measured(ran, n, best)
        of_best, of_others = chosen_quantiles(ran, n, best, alpha, FIRST_LOOK, LEVEL)
        student = t.ppf(0.5 + LEVEL / 2, n - 1)
        off = (mean - means) / error
        hits["best"].append(of_best[0] <= off[best] <= of_best[1])
        hits["best t"].append(abs(off[best]) <= student[best])
        others = np.arange(len(means)) != best
        hits["other"] += list(np.abs(off[others]) <= student[others])
        off = (behind - (means - means[best]))[others] / behind_error[others]
        hits["behind"] += list((of_others[others, 0] <= off) & (off <= of_others[others, 1]))
        hits["behind t"] += list(np.abs(off) <= student[others])
    told = 1 - race.tied.all(axis=1).mean()
    lost = 1 - race.tied[:, int(means.argmin())].mean()
    used = race.n_seeds.sum(axis=1).mean() / values[0].size
    return told, lost, used, {name: float(np.mean(seen)) for name, seen in hits.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rates", type=int, default=9)
    asked = parser.parse_args()
    alpha = threshold(asked.rates, asked.seeds, FIRST_LOOK, LEVEL)
    print(f"{asked.rates} rates, {asked.seeds} seeds, {asked.races} races; p-value that tells apart {alpha:.2g}\n")
    print("| truth | told | lost | fits run | best's mean | other means | distance to the best |")
    print("|---|---|---|---|---|---|---|")
    for name, means, spread, shared in truths(asked.rates):
        told, lost, used, seen = simulate(means, spread, shared, asked.seeds, asked.races, alpha)
        print(
            f"| {name} | {100 * told:.1f} % | {100 * lost:.1f} % | {100 * used:.0f} % | {100 * seen['best']:.1f} % "
            f"({100 * seen['best t']:.0f}) | {100 * seen['other']:.1f} % | {100 * seen['behind']:.1f} % "
            f"({100 * seen['behind t']:.0f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
