"""Chapters 7 to 11: trained as one watches, measured on what was trained, and the claims."""

import json
import sys
from itertools import product
from pathlib import Path

import pytest

import allmasks as am
from allmasks.evidence import CLAIMS
from allmasks.lab import chapter
from allmasks.lab.payload import payload
from allmasks.lab.pictures.l08_units import MEASURES, WIDTH, measured
from allmasks.lab.pictures.l09_against_l2 import ARMS, RATES, recipe
from allmasks.lab.pictures.l10_uncertainty import predicted
from allmasks.lab.protocol import Answer, Progress
from allmasks.lab.training import PICTURES, Recipe, finished, measurable, rows

ROOT = Path(__file__).parents[2]


def told(found, given):
    for lang in ("en", "ko"):
        json.dumps(payload(found, found.compute(given), found.settle(given), lang), allow_nan=False)


def test_training_is_watched_and_ends_with_the_net_that_others_look_at():
    found = chapter(7)
    pictures = list(found.steps({"data": "digits", "p": 0.5}))
    assert len(pictures) == PICTURES
    assert all(isinstance(picture, Answer) for picture in pictures)
    first, last = pictures[0], pictures[-1]
    assert last.value("evaluated") < 0.5 * first.value("evaluated")
    net, seen = finished(Recipe("digits", 0.5, 32))
    assert seen.validation[-1] == last.value("validation")
    x, y, _, _ = rows("digits")
    again = am.expected_loss(measurable(net, 0.5), x.double(), y, "cross_entropy", n_masks=256, seed=5)
    error = next(n.error for n in last.numbers if n.key == "expected")
    assert abs(float(again.value) - last.value("expected")) < 4.5 * (error + float(again.error))
    assert last.value("share") == pytest.approx(last.value("expected") - last.value("evaluated"), abs=1e-9)
    assert net(x).argmax(1).eq(y).double().mean() > 0.9


def test_training_can_be_left_at_any_picture_and_without_dropout_its_share_is_nothing():
    steps = chapter(7).steps({"p": 0.0, "width": 1})
    picture = next(steps)
    steps.close()
    assert abs(picture.value("share")) < 1e-6
    assert len(picture.figure["heat"][0]["z"]) == 28


@pytest.mark.parametrize("measure", MEASURES)
def test_units_are_measured_by_the_instruments(measure):
    found = chapter(8)
    steps = list(found.steps({"measure": measure}))
    assert all(isinstance(step, Progress) for step in steps[:-1])
    answer = steps[-1]
    instrument = measured(Recipe("digits", 0.5, WIDTH), measure)
    value = {"unstable": lambda: instrument.penalty.sum(), "adapted": lambda: instrument.strength}
    value |= {"losing": lambda: instrument.area, "special": lambda: instrument.gini}
    assert answer.numbers[1].value == pytest.approx(float(value[measure]()), rel=1e-12)
    told(found, {"measure": measure, "p": 0.0})


@pytest.mark.slow
def test_strengths_are_matched():
    """Within a quarter of the training loss in eval mode that dropout leaves."""
    for p in RATES[1:]:
        losses = {arm: finished(recipe(arm, p))[1].evaluated[-1] for arm in ARMS}
        assert losses["l2"] == pytest.approx(losses["dropout"], rel=0.25)
        assert losses["l1"] == pytest.approx(losses["dropout"], rel=0.25)


def test_only_l1_makes_weights_zero():
    answer = chapter(9).compute({"p": 0.5})
    assert answer.value("zero_l1") > 0.5
    assert answer.value("zero_dropout") < 0.1
    assert len(answer.figure["heat"]) == 4
    told(chapter(9), {"p": 0.5, "view": "weights"})
    assert answer.value("train_l2") == finished(recipe("l2", 0.5))[1].evaluated[-1]


def test_the_band_is_the_librarys_and_one_mask_has_none():
    answer = chapter(10).compute({"k": 16, "points": 20})
    found = predicted(0.2, 16, 20)
    assert answer.value("std_far") == float(found.std[100])
    for given in ({"k": 1}, {"p": 0.0}, {"p": 0.95, "points": 5}):
        told(chapter(10), given)
    assert "One mask" in chapter(10).compute({"k": 1}).sentence.en
    assert chapter(10).compute({"p": 0.0}).value("std_far") == 0


def test_the_claims_are_those_of_the_documented_run():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import verdicts
    finally:
        sys.path.pop(0)
    kept = json.loads((ROOT / "src/allmasks/lab/verdicts.json").read_text(encoding="utf-8"))
    assert kept == verdicts.read((ROOT / "docs/evidence.md").read_text(encoding="utf-8"))
    assert [row["number"] for row in kept] == [claim.number for claim in CLAIMS]
    answer = chapter(11).compute()
    assert answer.value("claims") == len(CLAIMS)
    assert answer.value("contradicted") == sum(row["verdict"] == "contradicted" for row in kept) == 3
    assert chapter(11).compute({"data": ()}).numbers == ()
    for values in product(chapter(11).controls[0].values, ("notes", "effect")):
        told(chapter(11), dict(zip(("verdict", "order"), values, strict=True)))
