"""The rules of the house, read off the source: which room may know which, how long things are, what they are called.

Each rule has a list of what breaks it today. A new offender fails, and so does one listed that offends no more: the
lists only shrink.
"""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import allmasks

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src/allmasks"
LINES_OF_A_FILE, LINES_OF_A_FUNCTION, PARAMETERS = 400, 80, 12

LONG_FILES = {
    "test_cli.py",
    "architectures.py",
    "parity.py",
    "test_loaders.py",
    "scores.py",
}
LONG_FUNCTIONS: set[str] = set()
MANY_PARAMETERS: set[str] = set()
PRIVATE_IMPORTS: set[str] = set()
SHARED_WORDS: set[str] = set()

NAMED_AFTER_COMMANDS = ("cli/", "explain/")
"""A command's file has the command's name, and so has the worked example that `allmasks explain NAME` prints."""


def trees(folder: Path = SRC) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each function, with the name of the class it belongs to."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield owner, node
        yield from functions(node, node.name if isinstance(node, ast.ClassDef) else owner)


def is_kernel(function: ast.FunctionDef) -> bool:
    """Numba or Triton compiles it: no objects to group arguments in, and a call may cost what a register does."""
    return any(re.match(r"(\w+\.)?(njit|jit|parallel|vectorize)\b", ast.unparse(d)) for d in function.decorator_list)


def lines(function: ast.FunctionDef) -> int:
    """Lines of code: a docstring is no reason to cut a function up."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def exported() -> set[str]:
    """What `allmasks` and its public rooms offer; the callbacks for frameworks are imported by their users alone."""
    callbacks = {"LightningMonitor", "TrainerMonitor"}
    rooms = (importlib.import_module(f"allmasks.{room}") for room in allmasks._ROOMS)
    return {*allmasks._HOME, *callbacks, *(name for room in rooms for name in room.__all__)}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def assert_only(found: dict[str, str] | set[str], listed: set[str], rule: str) -> None:
    new, mended = set(found) - listed, listed - set(found)
    assert not new, f"{rule}: " + ", ".join(f"{n} ({found[n]})" if isinstance(found, dict) else n for n in sorted(new))
    assert not mended, f"no longer an offender, so take it off the list: {sorted(mended)}"


def test_files_are_short():
    paths = [path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = {p.name: str(n) for p in paths if (n := len(p.read_text("utf-8").splitlines())) > LINES_OF_A_FILE}
    assert_only(found, LONG_FILES, f"files of more than {LINES_OF_A_FILE} lines")


def test_functions_are_short():
    found = {
        function.name: f"{path.name}, {lines(function)}"
        for path, tree in trees()
        for _, function in functions(tree)
        if lines(function) > LINES_OF_A_FUNCTION and not is_kernel(function)
    }
    assert_only(found, LONG_FUNCTIONS, f"functions of more than {LINES_OF_A_FUNCTION} lines")


def test_only_public_functions_have_many_parameters():
    public, found = exported(), {}
    for path, tree in trees():
        for owner, function in functions(tree):
            a = function.args
            count = len(a.posonlyargs + a.args + a.kwonlyargs) - bool(owner)
            if count > PARAMETERS and not is_kernel(function) and not {owner, function.name} & public:
                found[function.name] = f"{path.name}, {count}"
    assert_only(found, MANY_PARAMETERS, f"more than {PARAMETERS} parameters")


def test_private_names_stay_in_their_file():
    found = {}
    for path, tree in trees():
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allmasks"):
                modules |= {alias.asname or alias.name for alias in node.names}
                found |= {a.name: path.name for a in node.names if private(a.name)}
        for node in ast.walk(tree):
            owner = node.value if isinstance(node, ast.Attribute) and private(node.attr) else None
            if isinstance(owner, ast.Name) and owner.id in modules and owner.id.islower():
                found[node.attr] = path.name
    assert_only(found, PRIVATE_IMPORTS, "private names of another file")


def test_no_two_modules_share_a_word():
    homes = defaultdict(list)
    for path in SRC.rglob("*.py"):
        home = path.relative_to(SRC).as_posix()
        if path.stem != "__init__" and not home.startswith(NAMED_AFTER_COMMANDS):
            homes[path.stem].append(home)
    for room in SRC.glob("*/__init__.py"):
        homes[room.parent.name].append(f"{room.parent.name}/")
    found = {word: ", ".join(sorted(paths)) for word, paths in homes.items() if len(paths) > 1}
    assert_only(found, SHARED_WORDS, "modules of one name")


def contracts() -> dict[str, dict]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {contract["type"]: contract for contract in settings["contracts"]}


def test_imports_flow_down_and_not_in_circles(monkeypatch, capsys):
    pytest.importorskip("importlinter")
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_the_architecture_page_lists_the_layers_that_are_checked():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^((?:[\w/]+, )*[\w/]+)(?:  .*)?$", page.split("```")[1], flags=re.MULTILINE)
    told = [{name.rstrip("/") for name in row.split(", ")} for row in rows]
    layers = [set(layer.split(" | ")) for layer in reversed(contracts()["layers"]["layers"])]
    assert told == [layer for layer in layers if layer != {"__main__"}]
