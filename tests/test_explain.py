"""The worked examples: the founding numbers to the digit, and formula against enumeration everywhere."""

import importlib
import io
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape
from rich.console import Console

from allmasks.explain import TOPICS, Picture, Table, ensemble, moments, montecarlo, ridge, scaling
from allmasks.samplers import Independent

REALS = st.floats(-100, 100)
RATES = st.floats(0, 0.99)


def text(result, lang="en"):
    console = Console(file=io.StringIO(), width=120)
    result.page(lang).show(console)
    return console.file.getvalue()


def test_moments_of_the_notes():
    found = moments([2, -1, 3], p=0.5)
    for mean, variance, std in [
        (found.mean, found.variance, found.std),
        (found.enumerated_mean, found.enumerated_variance, found.enumerated_std),
    ]:
        assert mean.tolist() == [2, -1, 3]
        assert variance.tolist() == [4, 1, 9]
        assert std.tolist() == [2, 1, 3]
    assert (found.n_masks, found.max_difference) == (8, 0)
    assert sorted(set(found.outputs[:, 0])) == [0, 4]
    shown = text(found)
    assert "mean over 8 masks" in shown
    assert "111" in shown


@given(st.lists(st.tuples(REALS, RATES), min_size=1, max_size=6))
@settings(max_examples=40, deadline=None)
def test_moments_by_formula_and_over_all_masks(pairs):
    h, p = (np.array(v) for v in zip(*pairs, strict=True))
    found = moments(h, p)
    np.testing.assert_allclose(found.enumerated_mean, h, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.enumerated_variance, p / (1 - p) * h**2, rtol=1e-9, atol=1e-9)
    assert found.n_masks == 2 ** np.count_nonzero(p)
    assert math.isclose(found.probabilities.sum(), 1)


def test_ridge_of_the_notes():
    found = ridge(w=[1, -1, 2], x=[1, 2, -1], y=0, p=0.5)
    assert (found.data_term, found.penalty, found.expected_loss, found.enumerated) == (9, 9, 18, 18)
    assert found.per_feature_penalty.tolist() == [1, 4, 4]
    assert "expected loss = 9 + 9" in text(found)


@given(st.lists(st.tuples(REALS, REALS), min_size=1, max_size=6), REALS, RATES)
@settings(max_examples=40, deadline=None)
def test_ridge_by_formula_library_and_over_all_masks(pairs, y, p):
    w, x = (np.array(v) for v in zip(*pairs, strict=True))
    found = ridge(w, x, y, p)
    scale = 1 + found.enumerated
    assert found.data_term + found.penalty == pytest.approx(found.enumerated, rel=1e-10, abs=1e-10 * scale)
    assert abs(found.expected_loss - found.enumerated) <= 1e-10 * scale
    assert found.fit.max_difference < 1e-10


def test_ridge_weights_are_those_of_all_masked_copies():
    fit = ridge().fit
    np.testing.assert_allclose(fit.listed, fit.ridge, rtol=1e-12)
    assert np.abs(fit.plain - fit.ridge).max() > 0.1
    # p = 0.5: the factor p / (1 - p) is 1, so each strength is the column's sum of squares.
    assert fit.penalty_weights.tolist() == [16, 8, 16]


@pytest.mark.parametrize("loss", ["logistic", "squared_error"])
def test_k_masks_against_all_of_them(loss):
    study = montecarlo(loss=loss)
    assert [point.n_masks for point in study.points] == [2**i for i in range(13)]
    assert (study.n_features, study.guarantee) == (100, "exact")
    for point in study.points:
        # The RMS of n means has a relative standard error of 1 / sqrt(2 n), a little more while they are not Gaussian.
        n_means = 64 * 4096 / point.n_masks
        assert point.observed_error == pytest.approx(point.predicted_error, rel=0.01 + 4.5 / math.sqrt(2 * n_means))
    assert study.slope == pytest.approx(-0.5, abs=0.05)
    assert study.check.exact == pytest.approx(study.check.enumerated, abs=1e-12)
    assert study.check.n_masks == 4096
    assert study.survey.observed_error == pytest.approx(study.survey.predicted_error, rel=0.16)
    assert study.years_to_list == pytest.approx(4.017e13, rel=1e-3)


class TooMany(Independent):
    """Keeps units one part in twenty too often."""

    def draw(self, seed, site, masks, examples, keep_prob):
        return super().draw(seed, site, masks, examples, np.asarray(keep_prob) * 1.05)


def test_the_exact_value_is_what_the_masks_average_to(monkeypatch):
    def z():
        study = montecarlo()
        return (study.grand_mean - study.exact) / study.grand_error

    assert abs(z()) < 4.5
    # By its full name: the package's attribute of that name is the function.
    monkeypatch.setattr(importlib.import_module("allmasks.explain.montecarlo"), "Independent", TooMany)
    assert abs(z()) > 4.5


def test_all_thinned_networks():
    found = ensemble()
    deep, direct, linear = found.readings
    assert found.n_masks == len(deep.outputs) == 16
    assert found.probabilities.tolist() == [1 / 16] * 16
    assert (deep.average, deep.weight_scaling, deep.gap) == (2.75, 3.5, -0.75)
    assert (direct.gap, linear.gap) == (0, 0)
    assert deep.average == np.mean(deep.outputs)
    # Jensen: the loss of single networks is that of their average plus the variance.
    assert found.expected_loss == pytest.approx(found.average_loss + deep.std**2, rel=1e-14)
    assert found.weight_scaling_loss == (3.5 - 1) ** 2


@given(st.lists(REALS, min_size=3, max_size=3), st.floats(0, 0.9))
@settings(max_examples=40, deadline=None)
def test_linear_nets_have_no_gap(x, p):
    _, direct, linear = ensemble(x, p=p).readings
    for reading in (direct, linear):
        assert abs(reading.gap) <= 1e-11 * (1 + np.abs(reading.outputs).max())


def test_scaling_table_of_the_notes():
    found = scaling([2, -1, 3], p=0.5)
    inverted, classic, none = found.schemes
    assert inverted.train_scale.tolist() == [2, 2, 2]
    assert inverted.inference_scale.tolist() == [1, 1, 1]
    assert inverted.train_mean.tolist() == inverted.inference.tolist() == [2, -1, 3]
    assert classic.train_mean.tolist() == classic.inference.tolist() == [1, -0.5, 1.5]
    assert (inverted.difference, classic.difference, none.difference) == (0, 0, 1.5)


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_every_topic_reads_and_dumps(topic):
    result = TOPICS[topic](**({"n_features": 10, "replicates": 4} if topic == "montecarlo" else {}))
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))
    lines = text(result).splitlines()
    assert len(lines) > 8
    assert max(len(line.rstrip()) for line in lines) <= 120


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: moments([1], p=1.0), r"must lie in \[0, 1\), got 1\.0"),
        (lambda: moments([1], p=math.nan), r"must lie in \[0, 1\), got nan"),
        (lambda: scaling([1], p=-0.1), r"must lie in \[0, 1\), got -0\.1"),
        (lambda: moments([1, 2, 3], p=[0.5, 0.2]), r"one rate or one for each of the 3 numbers of h, got 2 rates"),
        (lambda: moments([]), r"h must be a list of one or more numbers"),
        (lambda: moments([math.inf]), r"h must be finite, got inf"),
        (lambda: moments(np.ones(17)), r"17 units have 2\*\*17 masks .* give at most 16 numbers"),
        (lambda: ridge([1, 2], [1]), r"same length, got 2 weights and 1 inputs"),
        (lambda: ridge([math.nan], [1]), r"w must be finite, got nan"),
        (lambda: ensemble([1, 2]), r"x must be 3 numbers, the inputs of the example net, got 2"),
        (lambda: montecarlo(p=0), r"p = 0 drops nothing"),
        (lambda: montecarlo(0), r"must lie in 1 … 1000, got 0"),
        (lambda: montecarlo(loss="hinge"), r'loss must be "logistic" or "squared_error", got \'hinge\''),
        (lambda: montecarlo(replicates=1), r"replicates must lie in 2 … 1024, got 1"),
        (lambda: montecarlo(seed=-1), r"seed must lie in"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


ALL = [moments, ridge, scaling, ensemble, lambda: montecarlo(12, replicates=4)]


@pytest.mark.parametrize("topic", ALL)
def test_every_word_of_a_topic_is_said_in_korean(topic):
    """No sentence stays English, and every number of the English page stands in the Korean one."""
    found = topic()
    english, korean = text(found), text(found, "ko")
    latin = re.findall(r"[A-Za-z]{4,}", korean)
    assert set(latin) <= {"ReLU", "Fourier"}
    for number in re.findall(r"\d+\.\d{3,}", english):
        assert number in korean


@pytest.mark.parametrize("topic", ALL)
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_topic_is_a_page_with_its_picture_and_every_cell(topic, lang, tmp_path):
    found = topic()
    page = found.to_html(tmp_path / "topic.html", lang).read_text(encoding="utf-8")
    assert f'<html lang="{lang}">' in page
    assert 'id="picture-0"' in page
    for part in found.page(lang).parts:
        if isinstance(part, Table):
            for row in part.rows:
                assert all(f">{escape(cell)}<" in page for cell in row)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page)[1])
    (picture,) = [part for part in found.page(lang).parts if isinstance(part, Picture)]
    drawn = figures["picture-0"]["data"]
    assert [one["y"] for one in drawn] == [list(series.y) for series in picture.series]


def test_a_topic_reads_as_its_page():
    assert "mean over 8 masks" in repr(moments())


def test_a_topic_in_another_language_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lang must be one of en, ko, got 'fr'"):
        moments().to_html(tmp_path / "topic.html", "fr")
    assert not (tmp_path / "topic.html").exists()
