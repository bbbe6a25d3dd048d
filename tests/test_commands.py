"""Every command of the READMEs and the docs, in both languages: it runs, and prints what stands below it.

A block of the kind `console` shows commands after "$ " and what they print; a line "…" stands for lines left out.
Numbers are compared to the digits that are shown (those of the demo, which is trained anew on each machine, to
`TRAINED`), times are not.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.ko.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONSOLE = re.compile(r"^```console\n(.*?)^```", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])[-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
TIME = re.compile(r"\d+(?:\.\d+)?(?= (?:s|초)\b)")

TRAINED = 0.05
"""The share that the demo's numbers may be off. Its seeds are fixed, and the digits hold where the processor is the
same; sums taken in another order change the last bits of a step, and hundreds of steps of training carry them on."""

MODEL = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
"""


def commands(page):
    """Each command of a page with the lines that it is said to print."""
    for block in CONSOLE.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, printed = part.partition("\n")
            yield command, [line.rstrip() for line in printed.splitlines() if line.strip()]


CASES = [
    pytest.param(page, command, printed, marks=[pytest.mark.slow] * (" audit" in command), id=f"{page.name}: {command}")
    for page in PAGES
    for command, printed in commands(page)
    if command.startswith("allmasks ")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages' commands name: a model, its weights, training, validation and test data."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "train.py").write_text(MODEL)
    sys.modules.pop("train", None)
    namespace = {}
    exec(MODEL, namespace)
    torch.manual_seed(0)
    torch.save(namespace["build"]().state_dict(), folder / "model.pt")
    rng = np.random.default_rng(0)
    for name, n in (("train", 80), ("val", 40), ("test", 40)):
        np.savez(folder / f"{name}.npz", X=rng.normal(size=(n, 6)).astype(np.float32), y=rng.integers(0, 3, n))
    return folder


def alike(shown, found, share=0.0):
    """Whether two lines say the same: words equal, numbers equal to one unit of the last digit shown, or to a share."""
    if len(NUMBER.findall(shown)) != len(NUMBER.findall(found)):
        return False
    if NUMBER.sub("#", TIME.sub("0", shown)).split() != NUMBER.sub("#", TIME.sub("0", found)).split():
        return False
    for a, b in zip(NUMBER.findall(TIME.sub("0", shown)), NUMBER.findall(TIME.sub("0", found)), strict=True):
        a, b = (n.replace(",", "").replace("−", "-") for n in (a, b))
        mantissa, _, power = a.partition("e")
        unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
        if abs(float(a) - float(b)) > max(1.001 * unit, share * abs(float(a))):
            return False
    return True


def missing(shown, found, share=0.0):
    """The first line that was shown and not found, in order; lines may be left out where "…" stands."""
    at, free = 0, True
    for line in shown:
        if line.strip() == "…":
            free = True
            continue
        rest = range(at, len(found)) if free else range(at, min(at + 1, len(found)))
        place = next((i for i in rest if alike(line, found[i], share)), None)
        if place is None:
            return line
        at, free = place + 1, False
    return None


@pytest.mark.parametrize(("page", "command", "printed"), CASES)
def test_a_command_prints_what_the_page_says(page, command, printed, folder):
    arguments = [sys.executable, "-m", "allmasks", *shlex.split(command)[1:]]
    wide = os.environ | {"COLUMNS": "120"}
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False, env=wide)
    assert done.returncode == 0, done.stderr
    found = [line.rstrip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    lost = missing(printed, found, TRAINED if re.match(r"allmasks audit(?!.*--model)", command) else 0.0)
    assert lost is None, f"{lost}\n\n" + "\n".join(found)


def test_both_languages_show_the_same_commands():
    for page in PAGES:
        if page.name.endswith(".ko.md"):
            english = page.with_name(page.name.replace(".ko.md", ".md"))
            told = [command.replace(" --lang ko", "") for command, _ in commands(page)]
            assert told == [command for command, _ in commands(english)], page.name


def test_a_wrong_number_or_word_is_noticed():
    """The planted faults."""
    assert alike("loss  0.39 ± 0.01 nats, 3 s", "loss 0.384 ± 0.012  nats, 7.5 s")
    assert not alike("loss 0.39", "loss 0.41")
    assert not alike("loss 0.39", "lost 0.39")
    assert missing(["a 1", "…", "c 3"], ["a 1", "b 2", "c 3"]) is None
    assert missing(["a 1", "c 3"], ["a 1", "b 2", "c 3"]) == "c 3"
    assert missing(["a 1", "…", "d"], ["a 1", "b 2", "c 3"]) == "d"
