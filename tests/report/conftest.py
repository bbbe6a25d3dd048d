"""The audits most tests look at."""

import pytest

from report.cases import EVIL_MODEL, EVIL_SITE, make_audit


@pytest.fixture
def sampled():
    """Three sites, Monte Carlo: 0.2314 ± 0.0006 nats."""
    return make_audit()


@pytest.fixture
def exact():
    """The same numbers by enumeration."""
    return make_audit(exact=True)


@pytest.fixture
def hostile():
    """Names that are markup."""
    return make_audit(model_name=EVIL_MODEL, names=(EVIL_SITE, "$x$ & [red]y[/red]"), notes=("<i>note</i>",))
