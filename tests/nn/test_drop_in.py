"""Drop-in means drop-in: every cell of `parity.py` is torch's, or a difference that the docs list."""

import functools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import parity

DOCS = Path(__file__).parents[2] / "docs"
GROUPS = sorted({group for group, _ in parity.CELLS})
LISTED = ["no-tensor", "sparse-zeros", "more-tensors", "itself", "nan"]


@functools.cache
def walk(name, group):
    """Situations that differ, with whether a difference is listed."""
    return list(_walked(name, group))


def _walked(name, group):
    theirs, ours = parity.Side(name, False), parity.Side(name, True)
    for (of, situation), action in parity.CELLS.items():
        if of == group:
            pair = parity.seen(lambda a=action: a(theirs)), parity.seen(lambda a=action: a(ours))
            if not parity.same(*pair):
                yield situation, parity.reason(name, group, situation), *pair


@pytest.mark.filterwarnings("ignore")  # torch's own: deprecations, prototypes
@pytest.mark.parametrize("name", parity.FAMILY)
@pytest.mark.parametrize(
    "group", [pytest.param(g, marks=pytest.mark.slow) if g in ("tracing", "derivatives") else g for g in GROUPS]
)
def test_every_cell_is_that_of_torch_or_listed(group, name):
    unlisted = [(situation, *pair) for situation, why, *pair in walk(name, group) if why is None]
    assert not unlisted


@pytest.mark.parametrize("reason", LISTED)
def test_a_listed_difference_is_in_the_docs_and_still_there(reason):
    for page in ("layers.md", "layers.ko.md"):
        assert f"<!-- parity: {reason} -->" in (DOCS / page).read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_is_listed_does_differ():
    """A difference that has gone is taken off the list."""
    found = {
        why for name in parity.FAMILY for group in ("tensors", "in place", "rates") for _, why, *_ in walk(name, group)
    }
    assert found == set(LISTED)


@pytest.mark.filterwarnings("ignore")
def test_the_walk_notices():
    """A layer that forgets to scale, one that keeps a version, one that swallows a warning."""
    theirs = parity.Side("dropout", False)

    class Forgetful(parity.Side):
        def train(self, x, p=0.5, inplace=False):
            with parity.warnings.catch_warnings():
                parity.warnings.simplefilter("ignore")
                out = super().train(x, p)
            return x.data.copy_(out) if inplace else out * (1 - p)

    bad = Forgetful("dropout", False)
    for cell in (
        ("tensors", "float32, training"),
        ("in place", "leaf, grad, p = 0.5"),
        ("in place", "saved by another, no grad"),
    ):
        action = parity.CELLS[cell]
        assert not parity.same(parity.seen(lambda a=action: a(theirs)), parity.seen(lambda a=action: a(bad)))
