"""A run of the claims: whole, resumed, killed, in parallel, and with nothing switched on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allmasks.evidence import CLAIMS, run
from allmasks.evidence.runner import choose
from allmasks.evidence.shared_nets import Settings

FEW = ["ridge", "freedom", "moments", "l1", "shrinkage"]


def numbers(found):
    """Everything but wall-clock times."""
    values = found if isinstance(found, dict) else found.to_dict()
    return {k: v for k, v in values.items() if k not in ("seconds", "step_seconds")}


def test_claims_are_numbered_named_and_said_in_both_languages():
    assert [claim.number for claim in CLAIMS] == list(range(1, 29))
    assert len({claim.key for claim in CLAIMS}) == 28
    for claim in CLAIMS:
        texts = [claim.title, claim.sentence, claim.section, claim.note, *(c.text for c in claim.criteria)]
        assert all(text.en.strip() and text.ko.strip() for text in texts), claim.key
        assert any("가" <= letter <= "힣" for letter in claim.sentence.ko), claim.key
        assert all(criterion.minimum > 0 for criterion in claim.criteria), claim.key
        assert len({criterion.key for criterion in claim.criteria}) == len(claim.criteria)


@pytest.mark.parametrize("quick", [False, True])
def test_every_data_set_list_has_at_least_two_real_ones(quick):
    settings = Settings(quick=quick)
    assert min(len(settings.datasets), len(settings.linear_datasets)) >= 2
    assert len(Settings().seeds) >= 10
    known = {*settings.arms, *(f"family:{n}" for n in ("dropout", "L2", "L1", "both")), "middle:L2", "middle:L1"}
    known |= {"drop0.1"}  # left out of a quick run
    for claim in CLAIMS:
        assert {*claim.needs, *claim.probes} <= known, claim.key


def test_exact_claims_hold_and_nothing_is_computed_twice(tmp_path):
    first = run(["ridge", "freedom"], seeds=4, quick=True, trials=tmp_path)
    assert first["ridge"].verdict == "holds"
    assert first["freedom"].verdict != "contradicted"
    for reading in first["ridge"].readings:
        if reading.criterion == "identity":
            assert max(map(abs, reading.values)) < 1e-13
    stamps = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(stamps) == 4 * 2 * 2
    again = run(["freedom", "ridge"], seeds=4, quick=True, trials=tmp_path)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == stamps
    assert numbers(again) == numbers(first)
    assert "Linear model, squared loss: dropout is ridge" in repr(first)


def test_other_seeds_are_other_trials(tmp_path):
    one = run(["freedom"], seeds=[0, 1], quick=True, trials=tmp_path)
    two = run(["freedom"], seeds=[2, 3], quick=True, trials=tmp_path)
    assert one["freedom"].readings[0].values != two["freedom"].readings[0].values


def test_a_claim_that_does_not_exist():
    with pytest.raises(ValueError, match="no claim 'riddge'; the claims are 1 moments, 2 ridge"):
        choose(["riddge"])
    with pytest.raises(ValueError, match="no claim was named"):
        choose([])
    with pytest.raises(ValueError, match="seeds must be at least 2 different seeds"):
        run(["ridge"], seeds=1)


def test_more_data_by_a_folder(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 12))
    np.savez(tmp_path / "mine.npz", X=X, y=X[:, 0] + 0.1 * rng.normal(size=120))
    found = run(["ridge"], seeds=2, quick=True, data=tmp_path)
    assert {reading.dataset for reading in found["ridge"].readings} == {"diabetes", "breast_cancer", "mine"}
    assert found.datasets == ("digits", "breast_cancer")


def command(folder, *more):
    return [
        *(sys.executable, "-m", "allmasks", "evidence", "--claims", ",".join(FEW), "--quick", "--seeds", "2"),
        *("--jobs", "1", "--out", str(folder), *more),
    ]


@pytest.mark.slow
def test_killed_at_ten_random_moments_it_ends_with_the_same_numbers(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    subprocess.run(command(whole), check=True, capture_output=True, env=environment)
    lasted = time.monotonic() - began
    draw, stamps = random.Random(0), {}
    for _ in range(10):
        process = subprocess.Popen(
            command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        try:  # the later ones have little left to do
            process.wait(draw.uniform(0.2, 0.75) * lasted)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = {file.name: file.stat().st_mtime_ns for file in (killed / "trials").glob("[!.]*.json")}
        assert stamps.items() <= kept.items()  # none lost, none written again
        stamps = kept
    assert stamps
    subprocess.run(command(killed), check=True, capture_output=True, env=environment)
    final = {file.name: file.stat().st_mtime_ns for file in (killed / "trials").glob("[!.]*.json")}
    assert stamps.items() <= final.items()
    assert set(final) == {file.name for file in (whole / "trials").iterdir()}
    results = [json.loads((folder / "evidence.json").read_text(encoding="utf-8")) for folder in (whole, killed)]
    assert numbers(results[0]) == numbers(results[1])


@pytest.mark.slow
def test_two_processes_give_the_same_numbers_as_one(tmp_path):
    one = run(["l1", "inference", "ridge"], seeds=2, quick=True)
    two = run(["l1", "inference", "ridge"], seeds=2, quick=True, n_jobs=2, trials=tmp_path)
    assert numbers(one) == numbers(two)


@pytest.mark.slow
def test_with_nothing_switched_on_no_comparison_is_seen(tmp_path):
    """p = 0 as "dropout", λ = 0 as L2 and L1, other seeds in every arm."""
    found = run(seeds=6, quick=True, null=True, trials=tmp_path, n_jobs=int(os.environ.get("ALLMASKS_JOBS", "1")))
    comparative = {f.key: f.verdict for f in found.findings if f.comparative}
    assert len(comparative) >= 16
    assert set(comparative.values()) <= {"absent", "undecided"}, comparative
    for finding in found.findings:
        criteria = {criterion.key: criterion for criterion in finding.criteria}
        for reading in finding.readings:
            assert reading.says in ("absent", "undecided") or not criteria[reading.criterion].comparative, (
                finding.key,
                reading,
            )
    assert Path(tmp_path).exists()
