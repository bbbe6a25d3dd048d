"""What is built: a wheel and an sdist with all that is needed and nothing else, which install and run."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import allmasks

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for module in ("build", "hatchling"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'allmasks[test]'")
    folder = tmp_path_factory.mktemp("dist")
    # Wheel and sdist both from the tree: the sdist alone must suffice as well, which the sdist's test shows.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[0]).namelist()
    own = {name for name in names if not name.startswith(f"allmasks-{allmasks.__version__}.dist-info/")}
    tracked = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*") if p.is_file()}
    wanted = {name for name in tracked if "__pycache__" not in name and not name.endswith((".nbi", ".nbc", ".pyc"))}
    assert own == {name for name in wanted if name.startswith("allmasks/")}
    needed = ("py.typed", "report/audit.html.j2", "report/frame.html.j2", "report/page.css", "report/page.js")
    needed += ("report/plotly/plotly-basic.min.js", "report/plotly/LICENSE")
    needed += ("locale/ko/LC_MESSAGES/allmasks.mo",)
    assert {f"allmasks/{name}" for name in needed} <= own
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_builds_and_tests_itself(built):
    with tarfile.open(built[1]) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    for name in (
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "src/allmasks/py.typed",
        "tests/test_packaging.py",
        "conftest.py",
    ):
        assert name in names
    assert not any("__pycache__" in name or name.startswith((".git/", "site/", "dist/")) for name in names)


def test_the_wheel_runs_where_the_tree_is_not(built, tmp_path):
    """In an environment of its own that sees the packages of this one, but not this tree."""
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    home = tmp_path / "venv"
    (packages,) = (home / "lib").glob("python*/site-packages")
    zipfile.ZipFile(built[0]).extractall(packages)
    here = [p for p in sys.path if p.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(here) + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(*arguments):
        command = [str(home / "bin" / "python"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=300
        ).stdout

    where = run("-c", "import allmasks; print(allmasks.__file__)").strip()
    assert where.startswith(str(packages))
    assert run("-m", "allmasks", "--version") == f"allmasks {allmasks.__version__}\n"
    assert "9 + 9" in run(
        "-m", "allmasks", "explain", "ridge", "--p", "0.5", "--w", "1", "-1", "2", "--x", "1", "2", "-1"
    )


def test_what_the_metadata_promise(built):
    archive = zipfile.ZipFile(built[0])
    info = f"allmasks-{allmasks.__version__}.dist-info"
    text = archive.read(f"{info}/METADATA").decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {line.split(": ")[1] for line in text.splitlines() if line.startswith("Provides-Extra: ")}
    assert extras == set(project["optional-dependencies"])
    assert "allmasks = allmasks.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


def test_the_lowest_versions_are_those_promised():
    """`.ci/lowest.txt` pins what pyproject.toml gives as the lowest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["data"],
        *project["optional-dependencies"]["safetensors"],
    ]
    lowest = dict(line.split(">=") for line in asked)
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, version in lowest.items():
        if name != "torch":
            assert f"{pinned[name]}.".startswith(f"{version}."), name
