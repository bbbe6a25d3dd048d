"""The pytest plugin, used from a fresh project in a temporary folder: pytest inside pytest."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Where the package is installed pytest finds the plugin by itself, and would not take it twice.
NAMED = "" if any(p.name == "allmasks" for p in entry_points(group="pytest11")) else " -p allmasks.pytest_plugin"

FILES = {
    "pyproject.toml": f'[tool.pytest.ini_options]\naddopts = "--strict-markers{NAMED}"\n',
    "README.md": "# a project\n",
    "project/__init__.py": "",
    "project/config.py": "RATE = 0.3\n",
    "project/data.py": "import torch\n\n\ndef batch():\n    torch.manual_seed(1)\n"
    "    return torch.randn(16, 6), torch.randint(0, 3, (16,))\n",
    "project/model.py": "from torch import nn\n\nfrom project.config import RATE\n\n\ndef build():\n"
    "    return nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Dropout(RATE), nn.Linear(24, 3))\n",
    "project/train.py": "import torch.nn.functional as F\n\n\ndef loss(model, x, y):\n"
    "    return F.cross_entropy(model(x), y)\n",
    "tests/__init__.py": "",
    "tests/test_shapes.py": "def test_shapes():\n    assert True\n",
    "tests/test_dropout.py": """import pytest

from project.data import batch
from project.model import build
from project.train import loss


@pytest.mark.verify_dropout(expect="dropout.toml", passes=48)
def test_the_step_drops_what_it_should(verify_dropout):
    model, (x, y) = build(), batch()
    verify_dropout(model, x, y, "cross_entropy", step=lambda: loss(model, x, y))
""",
}


def pytest_in(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_fresh_project(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code, told = pytest_in(tmp_path)
    assert code == 1
    assert "dropout.toml is not there: pytest --allmasks-update writes it" in told
    code, told = pytest_in(tmp_path, "--allmasks-update")
    assert code == 0, told
    assert tomllib.loads((tmp_path / "tests/dropout.toml").read_text())["sites"]["2"]["p"] == 0.3
    code, told = pytest_in(tmp_path)
    assert code == 0, told
    (tmp_path / "project/config.py").write_text("RATE = 0.2\n")
    code, told = pytest_in(tmp_path)
    assert code == 1
    assert "rate at 2: 2 drops 0.2 of its units where 0.3 is meant" in told
    (tmp_path / "project/config.py").write_text("RATE = 0.3\n")
    (tmp_path / "project/train.py").write_text(
        "import torch.nn.functional as F\n\n\ndef loss(model, x, y):\n    return F.cross_entropy(model.eval()(x), y)\n"
    )
    code, told = pytest_in(tmp_path)
    assert code == 1
    assert "off at " in told
    assert "FAILED tests/test_dropout.py" in told


def test_it_is_an_entry_point_and_pytest_is_no_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"allmasks": "allmasks.pytest_plugin"}
    assert not any(requirement.startswith("pytest") for requirement in project["dependencies"])


def test_it_imports_nothing_but_pytest():
    program = "import pytest, sys; before = set(sys.modules); import allmasks.pytest_plugin; "
    program += "print(*set(sys.modules) - before)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], env=environment, capture_output=True, text=True
    )
    assert set(done.stdout.split()) <= {"allmasks", "allmasks.pytest_plugin"}, done.stdout
    assert "allmasks.pytest_plugin" in done.stderr
    assert "torch" not in done.stderr
