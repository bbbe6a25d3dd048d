"""Every wrong step of the zoo is caught with the right fault and sentence, and every right twin passes."""

import pytest

import allmasks as am
from allmasks.verification import FAULTS
from verify.zoo import ZOO, Entry

CASES = [pytest.param(entry, id=entry.name, marks=[pytest.mark.slow] if entry.slow else []) for entry in ZOO]


def test_the_zoo_is_large_and_knows_every_fault():
    assert len(ZOO) >= 30
    assert {entry.fault for entry in ZOO} == set(FAULTS) - {"shared_by_ranks"}  # tests/verify/test_ranks.py


@pytest.mark.parametrize("entry", CASES)
def test_what_is_wrong_is_caught(entry: Entry):
    found = am.verify(**entry.make(True))
    assert entry.fault in [finding.fault for finding in found.findings], found
    finding = next(finding for finding in found.findings if finding.fault == entry.fault)
    assert entry.says in finding.sentence
    assert entry.site is None or finding.site == entry.site
    with pytest.raises(am.DropoutWrong, match="is not what it should be"):
        found.raise_if_failed()


@pytest.mark.parametrize("entry", CASES)
def test_its_right_twin_passes(entry: Entry):
    found = am.verify(**entry.make(False))
    assert found.ok, found
    found.raise_if_failed()
