"""Shell completion: offered, written where the shell reads it, and answering."""

import os
import subprocess
import sys

import pytest

START = "import sys; sys.argv = ['allmasks', *sys.argv[1:]]; from allmasks.cli import main; sys.exit(main())"


def start(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", START, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_the_program_by_its_name(shell):
    script = start("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert f"_ALLMASKS_COMPLETE=complete_{shell}" in script
    module = subprocess.run(
        [sys.executable, "-m", "allmasks", "--show-completion", shell],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert module.stdout == script


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("allmasks au", ["audit"]), ("allmasks audit --ma", ["--masks"]), ("allmasks explain r", ["ridge"])],
)
def test_it_completes(typed, offered):
    found = start(_ALLMASKS_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(typed.split()) - 1))
    assert found.split() == offered


def test_it_installs_itself(tmp_path):
    start("--install-completion", "bash", HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    (script,) = tmp_path.rglob("allmasks.sh")
    assert "_ALLMASKS_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
