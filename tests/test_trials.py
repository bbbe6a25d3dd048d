"""Finished work on disk: taken only for the same question, and never in halves."""

import errno
import json
import math
import os
import re
import subprocess
import sys
import time

import pytest

from allmasks.trials import Trials, run_trials


def test_a_result_comes_back_as_it_was(tmp_path):
    trials = Trials(tmp_path / "new")
    value = {"a": [0.1, math.inf, 1e-300], "b": None, "c": "차"}
    trials.put({"p": 0.1}, value)
    assert trials.get({"p": 0.1}) == value
    assert trials.get({"p": 0.2}) is None
    assert Trials(None).get({"p": 0.1}) is None
    Trials(None).put(1, 2)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("", "it is no finished trial"),
        ("{", "it is no finished trial"),
        ('{"key": 1}', "it is no finished trial"),
        ("[]", "it is no finished trial"),
        ('{"key": {"p": 0.1}, "result": NaN}', "it is no finished trial"),
        ('{"key": {"p": 0.1}, "result": 6, "digest": "DIGEST"}', "its result was changed afterwards"),
        ('{"key": {"p": 2}, "result": 5, "digest": "DIGEST"}', "it holds another trial's key"),
    ],
)
def test_a_damaged_file_is_refused_by_its_path(tmp_path, damage, why):
    trials = Trials(tmp_path)
    trials.put({"p": 0.1}, 5)
    path = trials.path({"p": 0.1})
    path.write_text(damage.replace("DIGEST", json.loads(path.read_text())["digest"]))
    with pytest.raises(ValueError, match=f"the trial file {re.escape(str(path))} cannot be used: {why}.*delete it"):
        run_trials(lambda x: x + 1, [({"p": 0.1}, (6,))], trials)
    path.unlink()
    assert run_trials(lambda x: x + 1, [({"p": 0.1}, (6,))], trials) == [7]
    assert trials.get({"p": 0.1}) == 7


# A worker cannot import what is defined in a test, unless the folder it is started from says so.
failing = {1: 10, 2: 20}.__getitem__


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_is_raised_says_how_much_is_kept(tmp_path, n_jobs):
    with pytest.raises(KeyError, match="3") as caught:
        run_trials(failing, [(k, (k,)) for k in (1, 2, 3)], Trials(tmp_path), n_jobs=n_jobs)
    note = caught.value.__notes__[-1]
    assert re.fullmatch(
        rf"[012] of these 3 trials are kept in {re.escape(str(tmp_path))}; the same call goes on there", note
    )
    if n_jobs == 1:
        assert note.startswith("2 ")


@pytest.mark.parametrize("n_jobs", [0, 1.5, True])
def test_a_number_of_processes(n_jobs):
    with pytest.raises(ValueError, match=f"n_jobs must be the number of processes, or -1 for all cores, got {n_jobs}"):
        run_trials(failing, [(1, (1,))], Trials(None), n_jobs=n_jobs)


def test_a_full_disk_is_named_with_its_path(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(
        OSError, match=rf"No space left on device: cannot write {re.escape(str(tmp_path))}.*free some"
    ) as e:
        Trials(tmp_path).put(1, 2)
    assert e.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


SLEEPERS = """
import os, sys, time
from allmasks.trials import Trials, run_trials
def sleeper(k):
    print(os.getpid(), flush=True)
    time.sleep(600)
if __name__ == "__main__":
    run_trials(sleeper, [(k, (k,)) for k in range(2)], Trials(None), n_jobs=2)
"""


@pytest.mark.skipif(os.name != "posix", reason="a parent's end is not seen on Windows")
def test_no_worker_outlives_a_killed_parent(tmp_path):
    (tmp_path / "sleepers.py").write_text(SLEEPERS)
    parent = subprocess.Popen([sys.executable, "sleepers.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert parent.pid not in workers
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended but is not yet collected by its new parent is no longer at work.
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_results_keep_their_order_and_are_told(tmp_path):
    trials, told = Trials(tmp_path), []
    trials.put(1, 10)
    assert run_trials(lambda x: 10 * x, [(k, (k,)) for k in (2, 1, 3)], trials, done=told.append) == [20, 10, 30]
    assert told == [1, 2, 3]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json"] * 3
