"""The full run on made-up data of the public files' formats: order, budget, resumption, refusals."""

import gzip
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from allmasks.evidence import FULL_CLAIMS, from_lines, run_full, to_lines
from allmasks.evidence.full import campaign, large_nets
from allmasks.evidence.full.claims_at_scale import CONTRASTS, pictures, readings
from allmasks.evidence.full.large_nets import ARMS, Work, experiments, train_one
from allmasks.evidence.full.public_data import find_sources, mnist, sentences, table
from allmasks.report import render_html, render_text


def write_idx(path, array):
    path.write_bytes(
        gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "mnist").mkdir()
    for part, n in (("train", 320), ("t10k", 60)):
        labels = rng.integers(10, size=n).astype(np.uint8)
        images = (rng.random((n, 28, 28)) * 60 + 15 * labels[:, None, None]).astype(np.uint8)
        write_idx(root / "mnist" / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(root / "mnist" / f"{part}-labels-idx1-ubyte.gz", labels)
    for name, words in (("pos", ["good", "fine"]), ("neg", ["bad", "poor"])):
        lines = [" ".join([*rng.choice(words, 2), *rng.choice(["a", "b", "c\x85d"], 4)]) for _ in range(60)]
        (root / f"cr.{name}.gz").write_bytes(gzip.compress("\n".join(lines).encode("latin-1")))
    X = rng.normal(size=(150, 3))
    np.savez(root / "made.npz", X=X, y=X[:, 0] + 0.1 * rng.normal(size=150))
    np.savez(root / "classes.npz", X=X, y=rng.integers(3, size=150))
    return root


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(large_nets, "_STEPS", dict.fromkeys(large_nets.SIZES, 2))
    monkeypatch.setattr(large_nets, "_WIDTH", 8)
    steps_of = large_nets.steps_of
    for module in (large_nets, campaign):
        monkeypatch.setattr(module, "steps_of", lambda e: min(steps_of(e), 3))


def test_data_are_read_as_they_are_distributed(folder):
    sources = find_sources(folder)
    train, test = mnist(sources.mnist)
    assert train.x.shape == (320, 784)
    assert test.y.shape == (60,)
    assert 0 <= train.x.min() <= train.x.max() <= 1
    words = sentences(sources.text)
    assert words.x.shape[0] == 120
    assert words.y.sum() == 60
    assert [name for name, _ in sources.tables] == ["made"]
    assert table(folder / "made.npz").y.std() == pytest.approx(1, abs=1e-5)
    assert experiments(sources) == ("mnist 100", "mnist 300", "text cr", "mnist conv 3000", "table made")


def test_a_trial_is_its_name(folder, short):
    sources = find_sources(folder)
    state = torch.get_rng_state()
    for experiment in experiments(sources):
        one, two = (train_one(Work(experiment, "dropout", 1), sources) for _ in range(2))
        assert one | {"seconds": 0} == two | {"seconds": 0}
        assert one["test_loss"] != train_one(Work(experiment, "none", 1), sources)["test_loss"]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({train_one(Work("mnist 100", arm, 0), sources)["test_loss"] for arm in ARMS}) >= 4


def test_pilots_first_then_what_power_asks_for_and_again_nothing(folder, short, tmp_path):
    found = run_full(folder, trials=tmp_path, budget=None)
    keys = {finding.key for finding in found.findings}
    assert keys == {"overfitting", "max_norm", "regression"}
    assert found.more == ()
    by_size = [r for f in found.findings for r in f.readings if r.dataset == "mnist 100"]
    assert min(len(r.values) for r in by_size) >= 10
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run_full(folder, trials=tmp_path, budget=1e-3)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    assert [f.readings for f in again.findings] == [f.readings for f in found.findings]
    back = from_lines(to_lines(found), FULL_CLAIMS)
    assert [f.verdict for f in back.findings] == [f.verdict for f in found.findings]
    assert render_text(back) == render_text(found)
    for lang in ("en", "ko"):
        assert "1,024" in render_html(back, lang)


def test_the_order_does_not_look_at_effects(folder, short):
    """Effects moved by any amount, the same for all seeds: the same trials are asked for."""
    asked = []
    for shift in (0.0, 5.0):
        plan = campaign._Campaign(find_sources(folder), campaign.Trials(None))
        rng = np.random.default_rng(1)
        order = []
        while (wave := plan.next(1, 1e9)) and len(order) < 150:
            (work,) = wave
            order.append(work)
            # In 64ths, so that sums are exact.
            value = round(64 * float(rng.normal())) / 4096 + shift * (work.arm == "dropout")
            scores = dict.fromkeys(("train_accuracy", "test_accuracy", "test_loss", "test_rmse"), value)
            plan.results[work.experiment, work.arm, work.seed] = scores | {"seconds": 1.0}
        asked.append(order)
    assert asked[0] == asked[1]
    pilots = [work.seed < campaign.PILOT for work in asked[0]]
    assert pilots == sorted(pilots, reverse=True)


def test_readings_pair_the_seeds_that_both_arms_have():
    results = {
        ("mnist 100", arm, seed): {"train_accuracy": 1.0, "test_accuracy": 0.5 + 0.01 * seed * gain, "test_loss": 1.0}
        for arm, gain, seeds in (("none", 1, range(4)), ("dropout", 3, range(1, 6)))
        for seed in seeds
    }
    accuracy = next(c for c in CONTRASTS if c.criterion.key == "accuracy")
    assert readings(accuracy, "mnist 100", results) == pytest.approx([0.02, 0.04, 0.06])
    gap = next(c for c in CONTRASTS if c.criterion.key == "gap")
    assert readings(gap, "mnist 100", results) == pytest.approx([0.02, 0.04, 0.06])
    error, gain = pictures(results)["overfitting"]
    assert error.series[0].y == pytest.approx([100 * (1 - 0.515)])
    assert gain.series[0].y == pytest.approx([4.0])


def test_what_does_not_fit_is_left_and_listed(folder, short, tmp_path):
    with pytest.raises(ValueError, match="the budget ended after 0 trials, before anything could be compared"):
        run_full(folder, budget=1e-6, trials=tmp_path)


def test_what_cannot_be_run_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="--scale full needs data: give --data DIR"):
        run_full(None)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run_full(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no data that the full run is made for"):
        run_full(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        write_idx(tmp_path / f"{name}-ubyte.gz", np.zeros((2, 28, 28)[: 3 if "images" in name else 1], np.uint8))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: no whole gzip file"):
        run_full(tmp_path)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match="no idx file of bytes in 3 dimensions"):
        run_full(tmp_path)


def test_a_full_disk_is_told_and_loses_nothing(folder, short, tmp_path, monkeypatch):
    from allmasks import trials

    written = trials.write_text
    count = []

    def full(path, text):
        count.append(path)
        if len(count) > 4:
            raise OSError(28, f"No space left on device: cannot write {path}")
        written(path, text)

    monkeypatch.setattr(trials, "write_text", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_full(folder, trials=tmp_path)
    assert any("are kept in" in note for note in caught.value.__notes__)
    assert len(list(tmp_path.glob("*.json"))) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_two_runs_on_one_folder(tmp_path):
    refused = pytest.raises(ValueError, match="another run is going on in")
    with campaign.held(tmp_path), refused, campaign.held(tmp_path):
        pass
    with campaign.held(tmp_path):
        pass


@pytest.mark.slow
def test_killed_ten_times_nothing_is_lost_or_repeated(folder, tmp_path):
    code = (
        "import sys\n"
        "from allmasks.evidence.full import campaign, large_nets\n"
        "large_nets._STEPS = dict.fromkeys(large_nets.SIZES, 2); large_nets._WIDTH = 8\n"
        "large_nets.steps_of = campaign.steps_of = lambda e: 3\n"
        "campaign.run_full(sys.argv[1], trials=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path)]
    stamps = {}
    for k in range(10):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while (
            process.poll() is None and time.monotonic() < end and len(list(tmp_path.glob("[!.]*.json"))) < 8 * (k + 1)
        ):
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        process.wait()
        kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*.json")}
        assert stamps.items() <= kept.items()
        stamps = kept
    assert len(stamps) >= 60
    subprocess.run(command, check=True, capture_output=True)
    assert stamps.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("[!.]*.json")}.items()
