"""Verdicts: what a minimum effect and a corrected p-value let through, and what not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allmasks.evidence.claim import Criterion, Effect, Text
from allmasks.evidence.judge import judge, verdict

WORDS = Text("words", "말")
DIFFERENCE = Criterion("d", WORDS, 0.1)
AGREEMENT = Criterion("a", WORDS, 0.1, "agreement")


def says(criterion, values):
    return judge([(criterion, Effect(criterion.key, "digits", tuple(values)))])[0].says


def around(mean, spread=0.01, n=10):
    x = np.linspace(-1, 1, n)
    return mean + spread * x


@pytest.mark.parametrize(
    ("mean", "spread", "word"),
    [
        (0.2, 0.01, "for"),
        (-0.2, 0.01, "against"),
        (0.09, 0.05, "for"),  # surely there, and not surely too small
        (-0.09, 0.05, "against"),
        (0.05, 0.01, "absent"),  # surely there, and surely too small to matter
        (-0.05, 0.01, "absent"),
        (0.0, 0.05, "absent"),
        (0.2, 1.0, "undecided"),  # large, but not sure
        (0.0, 1.0, "undecided"),
        (0.0, 0.0, "absent"),
        (0.2, 0.0, "for"),
        (0.1, 0.0, "for"),
    ],
)
def test_a_difference(mean, spread, word):
    assert says(DIFFERENCE, around(mean, spread)) == word


@pytest.mark.parametrize(
    ("mean", "spread", "word"),
    [
        (0.0, 0.01, "for"),
        (0.05, 0.01, "for"),
        (-0.05, 0.01, "for"),
        (0.2, 0.01, "against"),
        (-0.2, 0.01, "against"),
        (0.05, 1.0, "undecided"),  # inside, but it could as well be outside
        (0.1, 0.1, "undecided"),
        (0.0, 0.0, "for"),
    ],
)
def test_an_agreement(mean, spread, word):
    assert says(AGREEMENT, around(mean, spread)) == word


@given(st.floats(-1, 1), st.floats(0.001, 1))
def test_the_mirror_image_says_the_opposite(mean, spread):
    opposite = {"for": "against", "against": "for", "absent": "absent", "undecided": "undecided"}
    assert says(DIFFERENCE, around(-mean, spread)) == opposite[says(DIFFERENCE, around(mean, spread))]
    assert says(AGREEMENT, around(-mean, spread)) == says(AGREEMENT, around(mean, spread))


def test_effects_that_are_not_numbers_say_nothing():
    found = judge([(DIFFERENCE, Effect("d", "x", (np.nan, 1.0, 2.0))), (DIFFERENCE, Effect("d", "x", (1.0, 1.1)))])
    assert found[0].says == "undecided"


def test_noise_seldom_speaks_and_a_planted_effect_does():
    """200 runs of 100 readings without effect and no minimum: at most 5 % of runs speak (+ 2.6 s.e.)."""
    rng = np.random.default_rng(0)
    bare = Criterion("d", WORDS, 1e-12)
    loud = 0
    for _ in range(200):
        rows = [(bare, Effect("d", "x", tuple(rng.normal(size=10)))) for _ in range(100)]
        loud += any(reading.says in ("for", "against") for reading in judge(rows))
    assert loud <= 18
    rows = [(bare, Effect("d", "x", tuple(rng.normal(4.0 * (i == 7), 1, 10)))) for i in range(100)]
    assert [i for i, reading in enumerate(judge(rows)) if reading.says == "for"] == [7]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["for", "for"], "holds"),
        (["for", "absent"], "holds in part"),
        (["for", "undecided"], "holds in part"),
        (["for", "against"], "holds in part"),
        (["against", "undecided"], "contradicted"),
        (["absent", "absent"], "absent"),
        (["absent", "undecided"], "undecided"),
        (["undecided"], "undecided"),
    ],
)
def test_the_verdict_of_a_claim(words, expected):
    assert verdict([Effect("d", "x", (0.0,), says=word) for word in words]) == expected
