"""Every chapter: its numbers are the library's, its controls bring nothing down, its code prints what it shows."""

import contextlib
import io
import json
import math
import re
from itertools import product

import numpy as np
import pytest

import allmasks as am
from allmasks.lab import chapter, chapters
from allmasks.lab.payload import payload
from allmasks.lab.protocol import Answer
from allmasks.language import Text
from allmasks.masks import MaskLaw

KEYS = [c.key for c in chapters()]
QUICK = [c.key for c in chapters() if not c.long]


def extremes(control):
    """The ends of a slider, all of a choice; of a pick nothing, one, all."""
    if control.kind == "slide":
        return control.values[0], control.values[-1]
    return ((), control.values[:1], control.values) if control.kind == "pick" else control.values


def check(found, answer, settings):
    """An answer that any page can show."""
    assert isinstance(answer, Answer)
    for lang in ("en", "ko"):
        told = payload(found, answer, settings, lang)
        json.dumps(told, allow_nan=False)
        assert len(told["sentence"]) > 20
        assert "nan" not in told["sentence"]
    assert re.search("[가-힣]", answer.sentence.ko)
    assert len({n.key for n in answer.numbers}) == len(answer.numbers)
    for number in answer.numbers:
        assert (number.error is None) == (number.guarantee is None), number
        assert number.error is None or number.guarantee == "uncontrolled" or number.error >= 0, number


@pytest.mark.parametrize("key", QUICK)
def test_no_control_brings_it_down(key):
    found = chapter(key)
    for values in product(*map(extremes, found.controls)):
        given = dict(zip((c.key for c in found.controls), values, strict=True))
        check(found, found.compute(given), found.settle(given))


@pytest.mark.parametrize("key", KEYS)
def test_it_is_one_idea_with_few_handles_in_both_languages(key):
    found = chapter(key)
    assert 1 <= len(found.controls) <= 3
    words = [
        found.title,
        found.asks,
        found.says,
        found.section,
        found.to_try,
        found.question.text,
        found.question.where,
    ]
    words += [control.label for control in found.controls]
    words += [found.terms] if found.terms is not None else []
    assert found.terms is not None or found.number > 5  # what a newcomer reads first
    for text in words:
        assert isinstance(text, Text)
        assert text.en.strip()
        assert text.ko.strip()
    assert all(re.search("[가-힣]", text.ko) for text in words)
    assert set(found.start) == {control.key for control in found.controls}
    for control in found.controls:
        assert control.settle(control.start) == control.start
        assert set(control.grid) <= set(control.values)
        assert control.start in control.stops


@pytest.mark.parametrize("key", QUICK)
def test_the_code_prints_what_the_picture_says(key):
    found = chapter(key)
    answer, said = found.compute(), io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(found.code(**found.settle()), key, "exec"), {"__name__": "copied"})
    printed = [float(v) for v in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", said.getvalue())]
    wanted = {1: ("mean1", "variance3"), 2: ("expected", "penalty"), 3: ("expected", "w_bmi", "lambda_s5"), 11: ()}
    for number in wanted.get(found.number, ("expected",)):
        value = answer.value(number)
        assert any(math.isclose(value, v, rel_tol=1e-6) for v in printed), (number, value, said.getvalue())


@pytest.mark.parametrize("key", QUICK)
def test_the_question_has_an_answer_that_the_page_shows(key):
    question = chapter(key).question
    assert math.isfinite(question.answer())
    assert question.tolerance >= 0


def test_controls_refuse_what_they_cannot_be():
    found = chapter("linear-is-ridge")
    assert found.settle({"p": "0.3", "features": "s5,bmi"}) == {"p": 0.3, "features": ("bmi", "s5"), "scale": "equal"}
    for given, told in (
        ({"p": 1}, "p must lie in 0 … 0.95, got 1"),
        ({"p": "nan"}, "p must lie in"),
        ({"p": "x"}, "p must be a number, got 'x'"),
        ({"scale": "no"}, "scale must be one of equal, own, got 'no'"),
        ({"features": ["age"]}, "features must be one of"),
        ({"q": 1}, "has the controls p, features, scale; there is no 'q'"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            found.settle(given)
    with pytest.raises(ValueError, match=r"n must be a whole number, got 1\.5"):
        chapter(1).settle({"n": 1.5})
    with pytest.raises(ValueError, match="there is no chapter 'x'; there are 1 one-mask, 2 all-masks"):
        chapter("x")


def test_one_mask_is_the_notes_example():
    answer = chapter(1).compute({"p": 0.5, "n": 5000})
    assert [answer.value(f"mean{j}") for j in (1, 2, 3)] == [2, -1, 3]
    assert [answer.value(f"variance{j}") for j in (1, 2, 3)] == [4, 1, 9]
    number = next(n for n in answer.numbers if n.key == "sample")
    assert abs(number.value - 3) < 4.5 * number.error or abs(number.value) < 3
    seen = [chapter(1).compute({"p": 0.5, "n": n}).figure["data"][1]["y"] for n in range(1, 9)]
    assert {tuple(row) for row in seen} <= {tuple(v) for v in product((0, 4), (0, -2), (0, 6))}
    assert len({tuple(row) for row in seen}) > 2


@pytest.mark.parametrize("p", [0.0, 0.3, 0.95])
@pytest.mark.parametrize("d", [1, 5, 10])
@pytest.mark.parametrize("loss", ["squared_error", "logistic"])
def test_all_masks_are_listed(p, d, loss):
    """The library's mean is that of the networks in the grid, each by its probability."""
    from allmasks.lab.pictures.l02_all_masks import losses_of_all

    answer = chapter(2).compute({"p": p, "d": d, "loss": loss})
    masks, probabilities, losses = losses_of_all(d, p, loss)
    assert len(masks) == answer.value("count") == 2**d
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert answer.value("expected") == pytest.approx(probabilities @ losses, rel=1e-12)
    assert answer.value("penalty") == pytest.approx(answer.value("expected") - answer.value("at_mean"), abs=1e-12)
    law = MaskLaw(0.5, (d,))
    assert np.array_equal(masks, law.enumerate())


@pytest.mark.parametrize("scale", ["equal", "own"])
@pytest.mark.parametrize("features", [("bmi",), ("bmi", "s5"), ("bmi", "bp", "s3", "s5")])
def test_dropout_is_ridge(scale, features):
    from allmasks.lab.pictures.l03_linear_is_ridge import data, paths

    answer = chapter(3).compute({"p": 0.7, "features": features, "scale": scale})
    X, y = data(features, scale)
    w = np.array([answer.value(f"w_{name}") for name in features])
    lams = np.array([answer.value(f"lambda_{name}") for name in features])
    assert np.allclose(w, np.linalg.solve(X.T @ X + np.diag(lams), X.T @ y), rtol=1e-10)
    listed = am.expected_score_loss(w, X, y, 0.7, loss="squared_error", method=am.methods.Enumeration())
    assert answer.value("expected") == pytest.approx(listed.value, rel=1e-12)
    found = paths(features, scale)
    same = np.allclose(found["dropout"], found["ridge"], rtol=1e-8)
    assert same == (scale == "equal" or len(features) == 1)
    sd = X.std(axis=0)
    assert np.allclose(abs(found["lasso"] * sd).sum(axis=1), abs(found["dropout"] * sd).sum(axis=1), rtol=1e-6)


def test_nothing_chosen_is_a_sentence():
    answer = chapter(3).compute({"features": ()})
    assert answer.numbers == ()
    assert "choose at least one" in answer.sentence.en
