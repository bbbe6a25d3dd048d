"""The documentation: every Python block runs as it stands, and the site builds without a warning."""

import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import allmasks

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
NEW_FILE = re.compile(r"# src/(allmasks/\S+\.py)\n")
"""First line of a block that is a file to add to the package."""
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]


def test_there_are_pages():
    assert len(PAGES) > 5


def blocks(page):
    """The page's Python, each block where it is on the page."""
    text = page.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in BLOCK.finditer(text)]


def new_file(block):
    return NEW_FILE.match(block.lstrip("\n"))


ADDING = [page for page in PAGES if any(map(new_file, blocks(page)))]


@pytest.mark.parametrize("page", [p for p in PAGES if p not in ADDING], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_runs(page, tmp_path, monkeypatch):
    """Top to bottom in one namespace, as a reader would type them; a warning is an error."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "docs"}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", ADDING, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_that_is_added_is_known_everywhere(page, tmp_path):
    """In a copy of the package with the page's files and no other change the page runs, and the tests see them."""
    package = shutil.copytree(Path(allmasks.__file__).parent, tmp_path / "allmasks", ignore=lambda *_: ["__pycache__"])
    added = {found[1]: block.lstrip("\n") for block in blocks(page) if (found := new_file(block))}
    for name, text in added.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text, encoding="utf-8")
    program = "".join(f"exec(compile({b!r}, {str(page)!r}, 'exec'))\n" for b in blocks(page) if not new_file(b))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def run(*arguments):
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run("-W", "error", "-c", program)
    assert str(package) in run("-c", "import allmasks; print(allmasks.__file__)")
    for name in added:
        tested = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_methods.py", "-k", Path(name).stem)
        assert re.search(r"\d passed", tested), tested


def test_both_languages_run_the_same_code():
    """A translation changes words and comments, not the program."""

    def program(page):
        code = "".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace(', lang="ko"', "")
        return re.sub(r"\s*#.*", "", code)

    for page in (ROOT / "docs").rglob("*.ko.md"):
        assert program(page) == program(page.with_name(page.name.replace(".ko.md", ".md"))), page.name


def test_every_public_name_is_on_the_api_page():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: allmasks\.(\S+)$", text, re.M))
    ends = {path.rsplit(".", 1)[1] for path in shown}
    rooms = ("linear_model", "methods", "samplers", "errors", "monitor")
    wanted = set(allmasks._HOME) | {n for room in rooms for n in getattr(allmasks, room).__all__}
    wanted |= {n for n in allmasks.nn.__all__ if n not in ("functional",)}
    assert wanted - {"Sampler", "Method", "MonteCarloBlock"} <= ends
    for path in shown:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(f"allmasks.{module}"), name), path


WALK = re.compile(r"^`am\.(\w+)\(.*`:\n\n((?:\d+\. .*\n)+)", re.M)


def located(path):
    """The function or class of that name, in the longest part of the path that is a module."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(located(module), name)


def test_the_walks_of_the_architecture_exist_and_go_down():
    """Every line names something that is there, and none is in a layer above the one before it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    depth = {room: i for i, layer in enumerate(layers) for room in layer.split(" | ")}
    walks = dict(WALK.findall(page))
    assert set(walks) == {"expected_loss", "predict", "audit"}
    for call, text in walks.items():
        steps = re.findall(r"^\d+\. `([\w.]+)`", text, re.M)
        assert len(steps) == 10
        assert steps[0].rpartition(".")[2] == call
        assert all(callable(located(f"allmasks.{step}")) for step in steps), steps
        depths = [depth[step.partition(".")[0]] for step in steps]
        assert depths == sorted(depths), steps


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings", "mkdocs_static_i18n", "mkdocs_awesome_nav", "latex2mathml"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'allmasks[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-3000:]
    page = (tmp_path / "site" / "mathematics" / "index.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert 'class="arithmatex"' not in page
    assert (tmp_path / "site" / "ko" / "tour" / "index.html").exists()
    # A page shows itself without a network.
    assert not re.findall(r'(?:src|href)="(https?:)?//[^"]*\.(?:js|css|woff2?)"', page)
    shutil.rmtree(tmp_path / "site")
