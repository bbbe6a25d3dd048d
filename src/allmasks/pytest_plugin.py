"""A pytest plugin: a fixture and a marker with which a model's repository tests its own training step.

pytest imports this at every start, so it imports nothing but pytest until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

__all__ = ["VerifyDropout", "pytest_addoption", "pytest_configure", "verify_dropout"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("allmasks").addoption(
        "--allmasks-update",
        action="store_true",
        default=False,
        help="write the dropout sites that models have into the expectation files of verify_dropout",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "verify_dropout(expect=None, level=1e-6, passes=None, seed=0): settings of the fixture verify_dropout "
        "for a test, a class or a module",
    )


class VerifyDropout:
    """What the fixture gives: `am.verify` that fails the test with its diagnosis.

    A relative path in `expect=` is looked for beside the test file; with `--allmasks-update` it is written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], update: bool) -> None:
        self._folder, self._settings, self._update = folder, settings, update

    def __call__(self, model: Any, x: Any, y: Any = None, loss: Any = None, **options: Any) -> Any:
        """As `am.verify`, whose options it takes; returns the Verification if all is well.

        Raises
        ------
        pytest.fail.Exception : with the diagnosis.
        """
        from allmasks.verification import verify

        __tracebackhide__ = True
        chosen = {**self._settings, **options}
        expect = chosen.get("expect")
        if isinstance(expect, str | Path):
            path = self._folder / expect
            chosen["expect"] = path
            if self._update:
                self._write(path, model, x)
            elif not path.exists():
                pytest.fail(
                    f"{path} is not there: pytest --allmasks-update writes it; look it over and commit it", False
                )
        found = verify(model, x, y, loss, **chosen)
        if not found.ok:
            pytest.fail(f"{found.diagnosis()}\n\n{found}", pytrace=False)
        return found

    def _write(self, path: Path, model: Any, x: Any) -> None:
        from allmasks.files import write_text
        from allmasks.sites import find_dropout
        from allmasks.verification.meant import written

        args, kwargs = ((), x) if isinstance(x, dict) else (tuple(x) if isinstance(x, tuple | list) else (x,), {})
        write_text(path, written(find_dropout(model, *args, **kwargs)))


@pytest.fixture
def verify_dropout(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`am.verify` that fails the test with its diagnosis; see `VerifyDropout`."""
    settings: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("verify_dropout"))):
        if marker.args:
            settings["expect"] = marker.args[0]
        settings |= marker.kwargs
    return VerifyDropout(request.path.parent, settings, request.config.getoption("--allmasks-update"))
