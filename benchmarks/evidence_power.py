"""What the judge of `allmasks evidence` makes of noise, and of effects that are just large enough to matter.

    python benchmarks/evidence_power.py docs/evidence/small.jsonl [--nulls 50] [--planted 200] [--pilot 6]

Reads the raw readings of a run, as `allmasks evidence --out` writes them. A simulated run draws each reading's effects
anew from its own centered ones (bootstrap, so that heavy tails stay), moved to 0, or to the tolerance's edge for
agreements (nulls), or to the least effect that matters (planted). Nulls have the run's own seeds and are judged all
together, as the run is. A planted effect has the seeds that a pilot of its own asked for.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from allmasks.evidence.claim import Criterion, Effect
from allmasks.evidence.judge import judge
from allmasks.evidence.power import seeds_for, upper_spread
from allmasks.language import Text


def read(path):
    """Readings with noise of their own: exact ones have nothing to simulate."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "criterion" in row and np.std(row["values"]) > 1e-9 * row["minimum"]:
            criterion = Criterion(row["criterion"], Text("", ""), row["minimum"], row["kind"])
            found.append((f"{row['claim']}.{row['criterion']} {row['dataset']}", criterion, np.array(row["values"])))
    return found


def drawn(rng, values, mean, n):
    """n effects with the noise of those measured, about a mean."""
    centered = (values - values.mean()) * (len(values) / (len(values) - 1)) ** 0.5
    return tuple(mean + rng.choice(centered, n))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("readings")
    parser.add_argument("--nulls", type=int, default=50)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--pilot", type=int, default=6)
    asked = parser.parse_args()
    rows = read(asked.readings)
    rng = np.random.default_rng(0)
    seen = np.zeros(len(rows), int)
    for _ in range(asked.nulls):
        effects = [
            (c, Effect(c.key, "", drawn(rng, v, c.minimum if c.kind == "agreement" else 0.0, len(v))))
            for _, c, v in rows
        ]
        seen += [e.says in ("for", "against") for e in judge(effects)]
    worst = int(seen.argmax())
    print(f"{len(rows)} readings with noise; {asked.nulls} null runs: {seen.sum()} of {seen.size * asked.nulls} called")
    print(f"  the most by one reading: {seen[worst]} ({rows[worst][0]}); readings above 5: {(seen > 5).sum()}")
    found, needed = [], []
    for _name, c, v in rows:
        if c.kind == "agreement":
            continue
        hits = 0
        for _ in range(asked.planted):
            pilot = np.std(drawn(rng, v, 0.0, asked.pilot), ddof=1)
            n = min(seeds_for(c.minimum, upper_spread(pilot, asked.pilot), len(rows)), 5000)
            hits += settled(c, drawn(rng, v, c.minimum, n), len(rows)) == "for"
        found.append(hits / asked.planted)
        needed.append(seeds_for(c.minimum, upper_spread(np.std(v, ddof=1), len(v)), len(rows)))
    order = np.argsort(found)
    names = [name for name, c, _ in rows if c.kind == "difference"]
    print(f"{len(found)} differences, an effect of the least size planted {asked.planted} times, seeds by a pilot:")
    print(f"  found in {100 * np.mean(found):.1f} % (median {100 * np.median(found):.1f} %)")
    for i in order[:5]:
        print(f"  {100 * found[i]:5.1f} %  {names[i]}  (needs {needed[i]} seeds)")
    print(f"  readings below 85 %: {(np.array(found) < 0.85).sum()}")


def settled(criterion, values, tests):
    """The verdict on one reading with the level of a whole run: Bonferroni's, which Holm's is never behind."""
    pad = Effect("", "", (0.0, 1.0, -1.0))
    return judge([(criterion, Effect("", "", values)), *[(criterion, pad)] * (tests - 1)])[0].says


if __name__ == "__main__":
    main()
