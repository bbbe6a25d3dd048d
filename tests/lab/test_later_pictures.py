"""Chapters 4 to 6 against enumeration and the worked examples."""

import numpy as np
import pytest
from scipy.special import expit

import allmasks as am
from allmasks.explain import ensemble
from allmasks.lab import chapter
from allmasks.lab.pictures.l04_three_errors import expected, fitted


def test_the_exact_one_is_exact_and_the_formula_is_not():
    w, b, X, y = fitted("logistic")
    keep = np.argsort(-abs(w))[:12]
    few = am.expected_score_loss(w[keep], X[:, keep], y, 0.9, intercept=b, method=am.methods.Enumeration())
    by_integral = am.expected_score_loss(w[keep], X[:, keep], y, 0.9, intercept=b, method=am.methods.Fourier())
    assert abs(few.value - by_integral.value) <= by_integral.error + few.error
    answer = chapter(4).compute({"p": 0.95, "model": "logistic"})
    assert abs(answer.value("quadratic") / answer.value("penalty") - 1) > 0.05
    straight = chapter(4).compute({"p": 0.95, "model": "squared"})
    assert straight.value("quadratic") == pytest.approx(straight.value("penalty"), rel=1e-12)
    assert {n.key: n.guarantee for n in straight.numbers}["quadratic"] == "uncontrolled"


def test_the_truth_lies_between_the_bounds():
    w, b, X, y = fitted("softmax")
    for p in (0.1, 0.5, 0.9):
        found = expected("softmax", p, 8)
        exact = am.expected_score_loss(w, X, y, p, loss="cross_entropy", intercept=b, method=am.methods.Enumeration())
        assert found.guarantee == "bounded"
        assert abs(found.value - exact.value) <= found.error + exact.error
    assert found.error > 10 * expected("softmax", 0.1, 8).error


def test_sampling_is_off_by_its_error():
    exact = expected("hidden", 0.5, 512)
    few = expected("hidden", 0.5, 16)
    assert exact.guarantee == few.guarantee == "statistical"
    assert float(few.error) > float(exact.error)
    assert abs(float(few.value) - float(exact.value)) < 4.5 * float(few.error)


def test_better_draws_err_less():
    errors = {
        draws: chapter(5).compute({"k": 256, "draws": draws}).value("observed")
        for draws in ("independent", "antithetic", "latin")
    }
    assert errors["latin"] < errors["independent"]
    answer = chapter(5).compute({"k": 4096})
    assert answer.value("slope") == pytest.approx(-0.5, abs=0.05)
    assert chapter(5).compute({"p": 0.0}).numbers == ()


@pytest.mark.parametrize("net", ["deep", "direct", "linear"])
def test_the_scaled_net_is_the_geometric_mean_where_nothing_bends(net):
    answer = chapter(6).compute({"p": 0.3, "net": net, "x1": 1.0})
    found = ensemble((1.0, 2.0, -1.0), p=0.3)
    reading = found.readings[("deep", "direct", "linear").index(net)]
    assert answer.value("mean") == pytest.approx(found.probabilities @ expit(reading.outputs), abs=1e-15)
    same = abs(answer.value("geometric") - answer.value("scaled")) < 1e-12
    assert same == (net != "deep")
