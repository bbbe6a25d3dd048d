"""The attack of `tests/attack.py`, briefly: no fault in what it draws in some seconds, and planted ones are found."""

import pytest

from attack import room
from attacks import core
from attacks.planted import PLANTED, find
from attacks.statistical import coverage

BRIEF = {"scores": 150, "models": 25, "estimators": 60, "predictions": 25}
"""Cases of each room that the quick test draws."""


@pytest.mark.parametrize("name", BRIEF)
def test_random_problems_are_answered_rightly(name):
    said = []
    tally = core.attack(room(name), seed=0, seconds=600, cases=BRIEF[name], show=1, say=said.append)
    assert tally.failed == 0, "\n".join(said)
    assert tally.accepted >= BRIEF[name] // 3


def test_everyday_intervals_cover():
    said = []
    assert not coverage(0, 300, 30, say=said.append, most=2, only="everyday"), "\n".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_fault_is_found(planted):
    found, _, what = find(planted, seed=0)
    assert found, what
