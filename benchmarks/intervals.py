"""How often 95 % intervals hold the truth, by the number of masks K, for every sampler.

    python benchmarks/intervals.py

Each problem is a dropped-out score whose mean loss is known exactly. Rows that are all alike but have masks of their
own are independent runs. Beside the coverage of all runs stands that of the runs that call themselves reliable, and
how many those are.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

import allmasks as am
from allmasks.replicates import student
from allmasks.sampling import blocks_of

SAMPLERS = (am.samplers.LatinHypercube(), am.samplers.Antithetic(), am.samplers.Independent())
COUNTS = (1, 2, 3, 10, 31, 64, 100, 255, 256, 1000)


@dataclass(frozen=True)
class Problem:
    """One row: weights of units that are all 1, drop rate, loss, target and intercept."""

    name: str
    weights: np.ndarray
    p: float
    loss: str
    y: float = 0.0
    intercept: float = 0.0

    def truth(self) -> float:
        """The mean over all masks."""
        row = np.ones((1, len(self.weights)))
        found = am.expected_score_loss(self.weights, row, [self.y], self.p, loss=self.loss, intercept=self.intercept)
        return float(found.value)


def problems() -> list[Problem]:
    """Ordinary ones, and ones that a few masks decide."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=20) / 4
    return [
        Problem("logistic, 20 units, p = .5", 2 * normal, 0.5, "logistic"),
        Problem("logistic, 20 units, p = .1", 2 * normal, 0.1, "logistic", y=1.0),
        Problem("squared, 5 units, p = .3", rng.normal(size=5), 0.3, "squared_error", y=1.0),
        Problem("squared, 60 units, p = .01", rng.normal(size=60) / 4, 0.01, "squared_error"),
        Problem("Poisson, 20 units, p = .5", normal, 0.5, "poisson", y=1.0),
        Problem("exponential, 20 units, p = .7", normal, 0.7, "exponential", y=1.0),
        Problem("Poisson, heavy tail, p = .7", 3 * normal, 0.7, "poisson", y=1.0),
        Problem("logistic, one unit decides, p = .999", np.array([3.0, 0.0, 0.0, 0.0]), 0.999, "logistic"),
        Problem(
            "logistic, one unit decides, p = .01", np.array([3.0, 0.1, -0.1, 0.1]), 0.01, "logistic", intercept=-1.0
        ),
    ]


def run(problem: Problem, sampler: am.samplers.Sampler, n_masks: int, runs: int, seed: int) -> tuple[float, float, int]:
    """Coverage of all runs, of the reliable ones, and how many those are."""
    rows = np.ones((runs, len(problem.weights)))
    method = am.methods.MonteCarlo(n_masks=n_masks, sampler=sampler)
    found = am.expected_score_loss(
        problem.weights,
        rows,
        np.full(runs, problem.y),
        problem.p,
        loss=problem.loss,
        intercept=problem.intercept,
        method=method,
        seed=seed,
    )
    truth, blocks = problem.truth(), blocks_of(sampler, n_masks)
    half = student(0.95, blocks.count) * found.per_example_error if blocks.count > 1 else found.per_example_error
    # Where nothing varies the error is 0 and the value right to round-off; nan covers nothing.
    covered = np.abs(found.per_example - truth) <= half + 1e-12 * (1 + abs(truth))
    reliable = found.per_example_reliable
    trusted = float(covered[reliable].mean()) if reliable.any() else float("nan")
    return float(covered.mean()), trusted, int(reliable.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for problem in problems():
        print(f"\n{problem.name}: % of {asked.runs} intervals that hold {problem.truth():.6g}")
        print("      K " + "".join(f"{type(s).__name__:>28}" for s in SAMPLERS))
        for n_masks in COUNTS:
            cells = []
            for sampler in SAMPLERS:
                every, trusted, count = run(problem, sampler, n_masks, asked.runs, asked.seed)
                share = f"{100 * count / asked.runs:.0f} %"
                of_those = f"{100 * trusted:.1f} of {share} reliable" if count else "none reliable"
                cells.append(f"{100 * every:5.1f} ({of_those})".rjust(32))
            print(f"{n_masks:>7} " + "".join(cells))


if __name__ == "__main__":
    main()
