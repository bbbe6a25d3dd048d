"""Power is what simulation says it is; nulls seldom speak, and effects of the least size that matters are found."""

import numpy as np
import pytest

from allmasks.evidence.claim import Criterion, Effect
from allmasks.evidence.judge import judge, with_power
from allmasks.evidence.power import absence_power, power, seeds_for, upper_spread
from allmasks.language import Text

WORDS = Text("words", "말")


def share(says, criterion, mean, spread, seeds, tests, runs=400):
    """Of simulated runs whose other tests are strong, so that Holm's correction is Bonferroni's on what is left."""
    rng = np.random.default_rng([seeds, tests])
    count = 0
    padding = [(criterion, Effect("d", "pad", tuple(rng.normal(0, spread, 3)))) for _ in range(tests - 1)]
    for _ in range(runs):
        values = tuple(rng.normal(mean, spread, seeds))
        count += judge([(criterion, Effect("d", "x", values)), *padding])[0].says == says
    return count / runs


@pytest.mark.parametrize(("seeds", "tests"), [(6, 1), (20, 1), (60, 1), (60, 12)])
def test_power_is_the_share_of_runs_that_find_it(seeds, tests):
    for kind, mean, says in (("difference", 0.5, "for"), ("difference", 0.0, "absent"), ("agreement", 0.0, "for")):
        criterion = Criterion("d", WORDS, 0.5, kind)
        foreseen = absence_power(0.5, 1.0, seeds, tests) if says == "absent" else power(0.5, 1.0, seeds, tests, kind)
        runs = 300 if tests == 1 else 100
        found = share(says, criterion, mean, 1.0, seeds, tests, runs)
        error = max((foreseen * (1 - foreseen) / runs) ** 0.5, 0.005)
        # Holm is never behind Bonferroni, and a little ahead where other tests speak.
        assert -4.5 * error < found - foreseen < (4.5 if tests == 1 else 6) * error, (kind, mean, found, foreseen)


@pytest.mark.parametrize("kind", ["difference", "agreement"])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 30.0])
def test_seeds_needed_are_the_fewest(kind, spread):
    n = seeds_for(0.5, spread, 20, kind)

    def enough(k):
        return power(0.5, spread, k, 20, kind) >= 0.9 and (
            kind == "agreement" or absence_power(0.5, spread, k, 20) >= 0.9
        )

    assert enough(n)
    assert n == 3 or not enough(n - 1)
    assert seeds_for(0.5, float("nan")) == seeds_for(1e-9, 1.0) == 100_000


def test_a_planted_effect_is_found_with_the_seeds_that_a_pilot_asks_for():
    """The whole way: a pilot of 6 seeds, the seeds that it asks for, the run: found in at least 85 % of 200."""
    rng = np.random.default_rng(1)
    criterion, tests = Criterion("d", WORDS, 0.02), 10
    found = []
    for _ in range(200):
        pilot = rng.normal(0.0, 0.03, 6)
        n = seeds_for(criterion.minimum, upper_spread(pilot.std(ddof=1), 6), tests)
        pads = [(criterion, Effect("d", "pad", (0.0, 0.1, -0.1)))] * (tests - 1)
        found.append(judge([(criterion, Effect("d", "x", tuple(rng.normal(0.02, 0.03, n)))), *pads])[0].says)
    assert found.count("for") >= 170, found.count("for")
    assert found.count("against") == 0


def test_an_undecided_reading_says_how_many_seeds_would_settle_it():
    criterion = Criterion("d", WORDS, 0.5)
    rng = np.random.default_rng(2)
    judged = judge([(criterion, Effect("d", "x", tuple(rng.normal(0.2, 1, 8))))])
    reading = with_power([(criterion, judged[0])])[0]
    assert reading.says == "undecided"
    assert reading.power < 0.5
    assert reading.seeds_needed > 8
    settled = [
        judge([(criterion, Effect("d", "x", tuple(rng.normal(mean, 1, reading.seeds_needed))))])[0].says
        for mean in (0.0, 0.5)
        for _ in range(100)
    ]
    assert settled[:100].count("absent") >= 85
    assert settled[100:].count("for") >= 85
