"""The table of widths on the mathematics page: median half widths by the spread of scores and the number of moments.

python docs/figures/softmax_widths.py [--classes 10] [--rows 64]
"""

from __future__ import annotations

import argparse

import numpy as np

from allmasks.methods import SoftmaxBounds
from allmasks.scores.class_scores import check_classes
from allmasks.scores.softmax import bounded_losses

UNITS, P = 256, 0.5
SPREADS = 0.1, 0.3, 0.6, 1.0, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    for lead in (0.0, 8.0):
        for moments in (2, 4):
            cells = []
            for spread in SPREADS:
                rng = np.random.default_rng(0)
                # Var S = p/q Σ w² x², of rows of ones.
                weights = rng.standard_normal((options.classes, UNITS)) * spread / np.sqrt(UNITS)
                signs = rng.choice([-1.0, 1.0], (options.rows, UNITS))
                b = -signs.mean(axis=0) @ weights.T + np.where(np.arange(options.classes) == 0, lead, 0.0)
                problem = check_classes(weights, signs, P, b, None)
                targets = np.eye(options.classes)[np.zeros(options.rows, int)]
                found = bounded_losses(problem, targets, SoftmaxBounds(tol=1e-12, moments=moments), False)
                cells.append(f"{np.median(found.error):.1e}")
            name = f"{moments}" + (f", one class {lead:g} ahead" if lead else "")
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
