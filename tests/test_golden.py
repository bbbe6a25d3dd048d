"""Not one number moves while the house is rebuilt: all that was said before is said still.

`python tests/golden.py FILE`, run at the commit before the rebuilding, makes the record; ALLMASKS_GOLDEN=FILE holds the
present against it: bit for bit on the machine that made it, to 1e-12 elsewhere. Deleted with the last step.
"""

import gzip
import json
import os

import pytest

from golden import SOURCES, differences, machine, recorded


@pytest.fixture(scope="session")
def before():
    with gzip.open(os.environ["ALLMASKS_GOLDEN"], "rt") as file:
        return json.load(file)


@pytest.mark.skipif("ALLMASKS_GOLDEN" not in os.environ, reason="no record to hold it against")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_what_was_said_is_said_still(source, before):
    exact = before["machine"] == machine()
    now = recorded(source)
    missing = [name for name in now if name not in before]
    assert not missing
    found = [d for name, said in now.items() for d in differences(before[name], said, exact, name)]
    assert not found, f"{len(found)} differences:\n" + "\n".join(found[:40])
