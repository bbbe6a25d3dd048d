"""The command line as a user meets it: results, error lines, exit codes, and nothing half-written."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import allmasks
from allmasks import cli
from allmasks.cli import gather_numbers, main

NET = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 1))

def classes():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))

def boom():
    raise RuntimeError("first line\\nsecond line")

class Odd(nn.Module):
    def forward(self, x):
        raise KeyError("inside forward")

def odd():
    return Odd()

def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "net.py").write_text(NET)
    X = rng.normal(size=(12, 4))
    np.savez(tmp_path / "real.npz", X=X, y=rng.normal(size=12))
    np.savez(tmp_path / "classes.npz", X=X, y=rng.integers(0, 3, 12))
    np.savez(tmp_path / "wide.npz", X=rng.normal(size=(12, 7)), y=rng.normal(size=12))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path


def run(capsys, command):
    code = main(command.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- explain


def test_the_notes_first_example(capsys):
    code, out, err = run(capsys, "explain moments --p 0.5 2 -1 3")
    assert (code, err) == (0, "")
    rows = {line.split("  ")[0].strip(): line.split()[-3:] for line in out.splitlines() if line.strip()}
    assert rows["mean, formula"] == rows["mean over 8 masks"] == ["2", "-1", "3"]
    assert rows["variance, formula"] == rows["variance over 8 masks"] == ["4", "1", "9"]
    assert rows["standard deviation, formula"] == rows["standard deviation over 8 masks"] == ["2", "1", "3"]


def test_the_notes_second_example(capsys):
    args = "explain ridge --p 0.5 --w 1 -1 2 --x 1 2 -1 --y 0"
    code, out, _ = run(capsys, args)
    assert code == 0
    assert "expected loss = 9 + 9" in out
    code, out, err = run(capsys, f"{args} --json -")
    numbers = json.loads(out)
    assert (code, err) == (0, "")
    assert [numbers[k] for k in ("data_term", "penalty", "expected_loss", "enumerated")] == [9, 9, 18, 18]


@pytest.mark.parametrize(("lang", "told"), [("en", "interrupted: 2 of "), ("ko", "가운데 2개를 ")])
def test_ctrl_c_in_evidence_says_what_is_kept(capsys, tmp_path, monkeypatch, lang, told):
    from allmasks.evidence import runner

    real, calls = runner.run_trial, []

    def stops(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(runner, "run_trial", stops)
    command = f"evidence --claims ridge --quick --seeds 2 --jobs 1 --out {tmp_path} --lang {lang}"
    code, out, err = run(capsys, command)
    assert (code, out) == (130, "")
    assert told in err
    assert str(tmp_path / "trials") in err
    assert len(list((tmp_path / "trials").glob("*.json"))) == 2
    # The same command goes on: what is kept is not run again.
    monkeypatch.setattr(runner, "run_trial", lambda *given: calls.append(given) or real(*given))
    assert run(capsys, command)[0] == 0
    assert len({call[0] for call in calls}) == len(calls) > 2


def test_explain_in_korean_and_as_a_page(capsys, tmp_path):
    file = tmp_path / "ridge.html"
    code, out, err = run(capsys, f"explain ridge --w 1 -1 2 --html {file} --lang ko")
    assert code == 0
    assert "기대 손실 = 9 + 9" in out
    assert err == f"{file}에 썼습니다\n"
    assert '<html lang="ko">' in file.read_text(encoding="utf-8")
    code, out, err = run(capsys, f"explain ridge --out {file} --json {file}")
    assert (code, out) == (2, "")
    assert err.startswith("error: --out and --json name the same file")
    code, out, err = run(capsys, "explain moments --lang fr")
    assert (code, err) == (2, "error: --lang must be en or ko, got 'fr'\n")


@pytest.mark.parametrize("topic", ["moments", "ridge", "montecarlo", "ensemble", "scaling"])
def test_every_topic_runs_and_writes_json(capsys, tmp_path, topic):
    file = tmp_path / "numbers.json"
    few = "--d 12 --replicates 4" if topic == "montecarlo" else ""
    code, out, err = run(capsys, f"explain {topic} {few} --json {file}")
    assert code == 0
    assert len(out.splitlines()) > 8
    assert err == f"wrote {file}\n"
    assert json.loads(file.read_text())["topic"] == topic
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("explain moments --p 0.5 2 -1 3", "explain moments --p=0.5 -- 2 -1 3"),
        ("explain moments 2 -1e-3 --json - -.5", "explain moments --json=- -- 2 -1e-3 -.5"),
        ("explain ridge --y -1 --w 1 -1 --x 2 3", "explain|ridge|--y=-1|--w=1 -1|--x=2 3"),
        ("explain ridge --w=1,-1 --x 1,-2", "explain ridge --w=1,-1 --x=1,-2"),
        ("explain moments -- -1 2", "explain moments -- -1 2"),
        ("audit --masks -3", "audit --masks -3"),
    ],
)
def test_negative_numbers_are_numbers(given, parsed):
    assert gather_numbers(given.split()) == (parsed.split("|") if "|" in parsed else parsed.split())


# ---- errors: one line, exit code 2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("explain moments --p 1 2", "p is the probability of dropping and must lie in [0, 1), got 1.0"),
        ("explain moments --p nan 2", "p is the probability of dropping and must lie in [0, 1), got nan"),
        ("explain moments --p x 2", "--p must be numbers, got 'x'"),
        ("explain moments 2 x", "the numbers must be numbers, got 'x'"),
        ("explain ridge --w 1 2 --x 1", "w and x must have the same length, got 2 weights and 1 inputs"),
        ("explain ensemble --p 0.5,0.2", "--p must be one number here, got '0.5,0.2'"),
        ("explain moments --json no/where.json", "--json no/where.json: the folder no does not exist; create it first"),
        ("explain montecarlo --seed -1", "--seed must lie in 0 … 2**64 - 1, got -1"),
        ("audit --lang fr", "--lang must be en or ko, got 'fr'"),
        ("audit --loss l2", "--loss 'l2' is unknown: did you mean squared_error?"),
        ("audit --loss x", "--loss must be one of squared_error, logistic, cross_entropy, poisson, got 'x'"),
        (
            "audit --masks 3 --atol 1",
            "--masks and --atol exclude each other: give the number of masks or the error wanted",
        ),
        ("audit --masks 0", "--masks must be at least 1, got 0"),
        ("audit --atol nan", "--atol must be positive, got nan"),
        ("audit --batch-size 0", "--batch-size must be at least 1, got 0"),
        ("audit --data real.npz", "--data needs --model FILE.py:FACTORY beside it"),
        ("audit --model net.py:net", "--model needs --data FILE beside it: .npz with X and y, .csv or .parquet"),
        ("audit --model net.py:net --data gone.npz", "--data gone.npz: no such file"),
        ("audit --model gone.py:net --data real.npz", "--model gone.py: no such file"),
        (
            "audit --model net.py:boom --data real.npz",
            "--model net.py:boom: the factory raised RuntimeError: first line",
        ),
        ("audit --model net.py:odd --data real.npz", "KeyError: 'inside forward'"),
        ("audit --model net.py:net --data real.npz --weights no.pt", "--weights no.pt: no such file"),
        ("audit --out .", "--out . is a folder: give a file name"),
        ("audit --out a --json a", "--out and --json name the same file a: give two"),
        ("audit --out -", "--out must be a file name: a report is not for the terminal"),
        (
            "sites --model net.py:odd",
            "the model must run once to find its sites: give --data FILE, or --shape such as 3,32,32",
        ),
        (
            "sites --model net.py:net --shape 3,x",
            "--shape must be the axes of one example, such as 64 or 3,32,32, got '3,x'",
        ),
        ("sites --model net.py:net --shape 3 --data real.npz", "--data and --shape exclude each other: give one"),
    ],
)
def test_one_line_and_exit_code_2(capsys, folder, command, message):
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, command)
    assert (code, out) == (2, "")
    assert err == f"error: {message}\n"
    assert [f for f in sorted(folder.iterdir()) if f.name != "__pycache__"] == before


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("audit --masks many", "--masks"),
        ("sites", "Missing option '--model'"),
        ("nonsense", "nonsense"),
        ("explain nonsense", "nonsense"),
        ("explain moments --q 3 2", "--q"),
        ("audit extra", "extra"),
        ("audit --model net.py:net --data wide.npz", "shapes cannot be multiplied"),
    ],
)
def test_refusals_of_the_parser_and_of_torch_are_one_line_too(capsys, folder, command, part):
    code, out, err = run(capsys, command)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert part in err


def test_the_traceback_shows_when_asked_for(capsys, folder, monkeypatch):
    monkeypatch.setenv("ALLMASKS_TRACEBACK", "1")
    code, _, err = run(capsys, "audit --model net.py:boom --data real.npz")
    assert code == 2
    assert "Traceback" in err
    assert "second line" in err


def test_ctrl_c(capsys, folder):
    code, out, err = run(capsys, "audit --model net.py:interrupted --data real.npz --out r.html --json r.json")
    assert (code, out, err) == (130, "", "interrupted, nothing was written\n")
    assert not list(folder.glob("*r.*"))


# ---- audit, sites, doctor


def test_audit_of_a_model(capsys, folder):
    code, out, err = run(capsys, "audit --model net.py:net --data real.npz --out r.html --json r.json")
    assert code == 0
    assert err.splitlines() == [
        "loss: squared_error (chosen from the labels; --loss gives another)",
        "wrote r.json",
        "wrote r.html",
    ]
    assert "2" in out
    numbers = json.loads((folder / "r.json").read_text())
    expected = numbers["expected"]
    assert (numbers["loss"], numbers["n_examples"], expected["guarantee"]) == ("squared_error", 12, "exact")
    assert expected["value"] == pytest.approx(_enumerated(folder, "net"), rel=1e-6)
    assert "<html" in (folder / "r.html").read_text(encoding="utf-8")
    assert not list(folder.glob(".r*"))


def _enumerated(folder, factory):
    """Mean squared loss over all 64 masks of the net's six hidden units, in NumPy."""
    from allmasks.inputs import load_data, load_model
    from allmasks.masks import MaskLaw

    model = load_model(f"{folder / 'net.py'}:{factory}")
    x, y = (v.double().numpy() for v in load_data(folder / "real.npz"))
    first, last = ((m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in (model[0], model[3]))
    hidden = np.maximum(x @ first[0].T + first[1], 0)
    law = MaskLaw(0.5, (6,))
    scores = (law.noise(law.enumerate())[:, None] * hidden) @ last[0][0] + last[1][0]
    return float(((scores - y) ** 2).mean())


def test_audit_chooses_cross_entropy_and_draws_the_same_masks(capsys, folder):
    args = "audit --model net.py:classes --data classes.npz --masks 256 --seed 4 --json -"
    code, out, err = run(capsys, args)
    assert code == 0
    assert err == "loss: cross_entropy (chosen from the labels; --loss gives another)\n"
    first, second = json.loads(out), json.loads(run(capsys, args)[1])
    for numbers in (first, second):
        numbers.pop("seconds")
    assert first == second
    assert first["loss"] == "cross_entropy"


WORDS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.drop, self.out = nn.Embedding(20, 4), nn.Dropout(0.3), nn.Linear(4, 3)

    def forward(self, ids, mask):
        return self.out(self.drop((self.lift(ids) * mask[..., None]).mean(1)))
"""


def test_audit_of_token_ids_and_a_mask(capsys, folder):
    import allmasks as am
    from allmasks.inputs import load_model

    (folder / "words.py").write_text(WORDS)
    rng = np.random.default_rng(0)
    arrays = {"ids": rng.integers(0, 20, (6, 5)), "mask": (rng.random((6, 5)) < 0.8).astype(float)}
    np.savez(folder / "words.npz", **arrays, y=np.array([0, 1, 2, 2, 1, 0]))
    code, out, _ = run(capsys, "audit --model words.py:Words --data words.npz --json - --loss CE")
    assert code == 0
    import torch

    x = {name: torch.as_tensor(v) if name == "ids" else torch.as_tensor(v).float() for name, v in arrays.items()}
    wanted = am.expected_loss(load_model("words.py:Words"), x, torch.tensor([0, 1, 2, 2, 1, 0]), "cross_entropy")
    assert json.loads(out)["expected"]["value"] == pytest.approx(wanted.value.item(), rel=1e-12)
    code, out, _ = run(capsys, "sites --model words.py:Words --data words.npz --json -")
    assert [site["name"] for site in json.loads(out)["sites"]] == ["drop"]


def test_audit_says_what_it_made_of_the_files(capsys, folder):
    import torch

    from allmasks.inputs import load_model

    state = load_model("net.py:net").state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, "w.pt")
    shape = np.load(folder / "real.npz")["X"].shape
    np.savez(folder / "whole.npz", X=np.ones(shape, int), y=np.zeros(shape[0]))
    args = "audit --model net.py:net --data whole.npz --weights w.pt --loss mse --json -"
    code, _, err = run(capsys, args)
    assert code == 0
    assert err.splitlines() == [
        "--weights w.pt: the entry 'state_dict' was taken and 'module.' was stripped from the names",
        "--data whole.npz: the whole numbers of X were made floats, which is what the model runs on",
    ]
    assert "뜻하셨습니까" in run(capsys, "audit --loss l2 --lang ko")[2]


def test_audit_with_weights_and_in_korean(capsys, folder):
    import torch

    from allmasks.inputs import load_model

    model = load_model("net.py:net")
    with torch.no_grad():
        model[3].weight.zero_()
    torch.save(model.state_dict(), "w.pt")
    code, out, _ = run(capsys, "audit --model net.py:net --data real.npz --weights w.pt --lang ko --loss squared_error")
    assert code == 0
    assert any("가" <= letter <= "힣" for letter in out)
    _, out, _ = run(capsys, "audit --model net.py:net --data real.npz --weights w.pt --json -")
    # Nothing leaves the dropped units, so the masks cost nothing.
    assert json.loads(out)["expected"]["penalty"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("extra", ["", "--shape 4", "--data real.npz"])
def test_sites(capsys, folder, extra):
    code, out, err = run(capsys, f"sites --model net.py:net {extra}")
    assert code == 0
    assert "0.5" in out
    assert ("first Linear layer" in err) == (not extra)
    _, out, _ = run(capsys, f"sites --model net.py:net {extra} --json -")
    (site,) = json.loads(out)["sites"]
    assert (site["name"], site["p"], site["units"], site["controllable"]) == ("2", 0.5, 6, True)


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "ok: Threefry-2x32-13 gives ba3e4725 f27d669e, published ba3e4725 f27d669e" in out
    assert "ok: logistic loss over 32 masks" in out
    assert "ok: the compiled kernel and the reference differ in 0 of 444 bits" in out
    assert "the net and the generator are as before" in out
    numbers = json.loads(run(capsys, "doctor --json -")[1])
    assert numbers["healthy"] is True
    assert numbers["seconds"] < 60
    assert numbers["torch_threads"] >= 1
    assert numbers["numba_threads"] >= 1
    assert numbers["kernels_writable"] is True
    assert numbers["packages"]["allmasks"] == allmasks.__version__


def test_doctor_says_what_it_compiles_where_nothing_is_kept_yet(monkeypatch, tmp_path):
    from allmasks import doctor
    from allmasks.kernels.draw import independent

    assert doctor._compiled("random bits")  # needs nothing
    folder = SimpleNamespace(cache_path=tmp_path)
    monkeypatch.setattr(type(independent), "stats", folder)
    assert not doctor._compiled("compiled bits")
    for name in ("_threefry", "_same_bits", "_exactness", "_model"):
        monkeypatch.setattr(doctor, name, lambda: doctor.Check("", True, ""))
    told = []
    assert doctor.doctor(told.append).healthy
    assert [line.partition(":")[0] for line in told] == [
        f"compiling kernels for the check of {name}" for name in ("compiled bits", "exact expectations")
    ]


def test_doctor_reports_a_broken_installation(capsys, monkeypatch):
    monkeypatch.setattr("allmasks.kernels.reference.threefry2x32", lambda *a: (1, 2))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "FAILED: Threefry-2x32-13 gives 00000001 00000002" in out


def test_doctor_sees_a_kernel_that_draws_other_bits(capsys, monkeypatch):
    monkeypatch.setattr("allmasks.kernels.draw.independent", lambda keys, flips, rows, threshold, out: out.fill(1))
    monkeypatch.setattr("allmasks.doctor._kernel_cache", lambda: ("", True))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "FAILED: the compiled kernel and the reference differ in" in out


def test_doctor_tells_which_extras_are_there(capsys, monkeypatch):
    from allmasks import doctor

    listed = [
        "numpy>=1",
        "safetensors>=0.4; extra == 'safetensors'",
        "no-such[x]>=1 ; extra == 'hf'",
        "b; extra == 'dev'",
    ]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: listed)
    assert doctor._extras().keys() == {"safetensors", "hf"}
    assert doctor._extras()["hf"] == {"no-such": "not installed"}
    out = run(capsys, "doctor")[1]
    assert "installed: safetensors" in out
    assert "no-such not installed" in out


# ---- start-up


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"allmasks {allmasks.__version__}\n", "")
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for command in ("audit", "explain", "sites", "doctor"):
        assert command in out
    assert run(capsys, "audit --help")[0] == 0
    assert run(capsys, "")[0] == 2
    assert cli.app is not None


@pytest.mark.parametrize(
    "code",
    [
        "import allmasks",
        "import allmasks.cli; allmasks.cli.main(['--help'])",
        "import allmasks.explain",
    ],
)
def test_light_imports(code):
    heavy = ("torch", "plotly", "numba", "sklearn", "pandas")
    probe = f"import sys; {code}; print('LOADED', [m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "allmasks", "explain", "moments", "--p", "2", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: p is the probability of dropping and must lie in [0, 1), got 2.0\n"


PRINTS = """
import os, sys
from torch import nn

class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        print("made")
        self.add_module("drop\\x1b[31m", nn.Dropout(0.5))
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        print("forward")
        sys.stdout.write("written")
        os.write(1, b"past Python\\n")
        return self.out(getattr(self, "drop\\x1b[31m")(x))
"""


def test_what_a_model_prints_stays_off_stdout(tmp_path):
    (tmp_path / "loud.py").write_text(PRINTS)
    np.savez(tmp_path / "data.npz", X=np.ones((4, 3), np.float32), y=[0, 1, 0, 1])

    def run(*arguments):
        command = [sys.executable, "-m", "allmasks", *arguments]
        wide = os.environ | {"COLUMNS": "160"}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=wide)

    for command in (
        ("sites", "--model", "loud.py:Loud", "--shape", "3"),
        ("audit", "--model", "loud.py:Loud", "--data", "data.npz", "--loss", "cross_entropy"),
    ):
        found = run(*command, "--json", "-")
        assert found.returncode == 0, found.stderr
        json.loads(found.stdout)
        for text in ("made", "forward", "written", "past Python"):
            assert text in found.stderr
    shown = run("sites", "--model", "loud.py:Loud", "--shape", "3")
    assert "\x1b" not in shown.stdout
    assert r"drop\x1b[31m" in shown.stdout
    wrong = run("audit", "--model", "loud.py:Loud\x1b[31m", "--data", "data.npz")
    assert wrong.returncode == 2
    assert "\x1b" not in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["audit", "--lang", "ko", "--masks", "0"], "오류: --masks는 1 이상이어야 하는데 0입니다"),
        (["audit", "--lang=ko", "--data", "x.npz"], "오류: --data을 쓰려면 --model FILE.py:FACTORY도 함께 주십시오"),
        (["evidence", "--lang", "ko", "--seeds", "1"], "오류: --seeds는 2 이상이어야 하는데 1입니다"),
        (["audit", "--lang", "xx"], "error: --lang must be en or ko, got 'xx'"),
    ],
)
def test_errors_are_in_the_language_asked_for(arguments, text, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.strip() == text


@pytest.mark.parametrize(
    "arguments",
    [
        ["moments", "1e200", "1e308"],
        ["scaling", "--", "-1e200"],
        ["ridge", "--w", "1e200", "1", "2", "--x", "1", "2", "-1"],
        ["ensemble", "--x", "1e200", "1", "1"],
        ["ensemble", "--y", "1e200"],
    ],
)
def test_numbers_whose_squares_overflow_are_refused(arguments, capsys):
    assert main(["explain", *arguments]) == 2
    said = capsys.readouterr().err
    assert "must be at most 1e+60 in size, so that squares stay finite" in said
    assert "Warning" not in said
