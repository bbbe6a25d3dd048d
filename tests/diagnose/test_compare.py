"""Arms at their best: chosen on validation data, judged on test data, and no winner where there is none."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.diagnose import STANDARD_ARMS, Outcome, effective_penalty, unit_penalty
from allmasks.diagnose.paired import holm, interval, p_value
from model_cases import CASES


def draw(*key):
    return float(np.random.default_rng(list(key)).normal())


def fit(seed, p=0.0, l2=0.0, l1=0.0, start=0.0, until=1.0):
    """A training whose truth is known: best at p = .35, l2 = 1e-3; noise shared by the arms of one seed."""
    noise = 0.05 * draw(seed, 1) + 0.003 * draw(seed, int(1e6 * p), int(1e6 * l2), int(1e6 * l1))
    loss = 1 - 0.2 * (p > 0) + (p - 0.35) ** 2 * (p > 0) - 0.1 * (l2 == 1e-3) + noise
    return Outcome(validation=loss, test=loss + 0.5, accuracy=0.9, penalty=[p, 2 * p])


def test_each_arm_at_the_strength_that_validation_chooses():
    found = am.compare(fit, seeds=12)
    assert [arm.name for arm in found.arms] == list(STANDARD_ARMS)
    assert found["dropout"].setting == {"p": 0.35}
    assert found["L2"].setting == {"l2": 1e-3}
    assert found["dropout + L2"].setting["l2"] == 1e-3
    assert found.winner == "dropout + L2"
    row = next(d for d in found.differences if (d.a, d.b) == ("none", "dropout"))
    assert row.low < 0.2 < row.high
    assert row.error < 0.005  # pairing takes the shared noise away
    np.testing.assert_allclose(found["dropout"].penalty, [0.35, 0.7])
    assert "winner: dropout + L2" in repr(found)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("when", ["early", "late", "always"])
def test_dropout_for_a_part_of_training_is_an_arm_of_its_own(when):
    """Masks help in one half of training and hurt in the other; the arms differ in nothing but that half."""
    worth = {"early": (-0.2, 0.1), "late": (0.1, -0.2), "always": (-0.2, -0.2)}[when]
    asked = set()

    def halves(seed, p=0.0, start=0.0, until=1.0):
        asked.add((start, until))
        covered = max(0.0, min(until, 0.5) - start), max(0.0, until - max(start, 0.5))
        gain = sum(w * 2 * c for w, c in zip(worth, covered, strict=True)) * (p > 0) * (1 - (p - 0.35) ** 2)
        loss = 1 + gain + 0.05 * draw(seed, 2) + 0.002 * draw(seed, int(1e3 * p), int(10 * start), int(10 * until))
        return Outcome(validation=loss, test=loss)

    found = am.compare(halves, ["none", "dropout", "early dropout", "late dropout"], seeds=8)
    assert asked == {(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)}
    assert found.winner == {"early": "early dropout", "late": "late dropout", "always": "dropout"}[when]
    if when != "always":
        share = {"early": {"until": 0.5}, "late": {"start": 0.5}}[when]
        assert found[found.winner].setting == {"p": 0.35} | share


def test_the_choice_does_not_look_at_test_data():
    def tempted(seed, s=0):
        return Outcome(validation=float(s) + 0.01 * draw(seed, s), test=-10.0 * s)

    found = am.compare(tempted, {"one": [{"s": 0}, {"s": 1}], "none": {}}, seeds=4)
    assert found["one"].setting == {"s": 0}


def identical(seed, arm=0):
    value = draw(seed, arm)
    return Outcome(validation=value, test=value)


def test_identical_arms_seldom_have_a_winner():
    """Two arms that differ in their seeds alone, 200 repeats: a winner in at most 7 %."""
    winners = sum(
        am.compare(identical, {"a": {"arm": 1}, "b": {"arm": 2}}, seeds=range(10 * r, 10 * r + 10)).winner is not None
        for r in range(200)
    )
    assert winners <= 14
    # The same test sees a difference of one and a half standard deviations.
    assert (
        am.compare(lambda seed, arm=0: Outcome(1.0, draw(seed, arm) + 2 * arm), {"a": {}, "b": {"arm": 1}}).winner
        == "a"
    )


def test_equal_results_have_no_winner():
    assert am.compare(lambda seed: Outcome(1.0, 1.0), {"a": {}, "b": {}}).winner is None


def test_a_comparison_resumes(tmp_path):
    calls = []

    def counted(seed, p=0.0):
        calls.append(seed)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return Outcome(p + draw(seed), p + draw(seed, 1))

    arms = {"none": {}, "dropout": [{"p": 0.1}, {"p": 0.2}]}
    with pytest.raises(KeyboardInterrupt):
        am.compare(counted, arms, seeds=3, cache=tmp_path, name="counted")
    # Its list of calls has grown: without a name it would be another function.
    found = am.compare(counted, arms, seeds=3, cache=tmp_path, name="counted")
    assert len(calls) == 6 + 4
    np.testing.assert_array_equal(found["none"].test, [draw(seed, 1) for seed in range(3)])


def test_effective_penalty_gives_the_unit_penalty_back():
    case = next(c for c in CASES if c.name == "two sites, classes")
    net = case.build()
    lam = effective_penalty(net, (case.x, case.y), case.loss)
    (units,) = unit_penalty(net, (case.x, case.y), case.loss, sites="5")
    np.testing.assert_allclose(lam * (net[6].weight.detach().numpy() ** 2).sum(0), units.penalty, atol=1e-14)
    with pytest.raises(ValueError, match="no dropout site feeds a Linear"):
        effective_penalty(
            nn.Sequential(nn.Linear(3, 1)).double(), (torch.ones(2, 3).double(), torch.ones(2, 1)), "logistic"
        )


def test_bad_requests():
    with pytest.raises(ValueError, match="unknown arm 'L3': the standard arms are 'none', 'L2'"):
        am.compare(fit, ["none", "L3"])
    with pytest.raises(ValueError, match="needs at least two arms"):
        am.compare(fit, ["none"])
    with pytest.raises(ValueError, match="arm 'b' has no settings"):
        am.compare(fit, {"a": {}, "b": []})
    with pytest.raises(TypeError, match=r"must return an allmasks.diagnose.Outcome, got float"):
        am.compare(lambda seed: 1.0, {"a": {}, "b": {}})
    with pytest.raises(ValueError, match="both must be finite losses"):
        am.compare(lambda seed: Outcome(1.0, float("inf")), {"a": {}, "b": {}})


def test_settings_chosen_by_the_losses_that_are_judged():
    """20 settings against 1, all equal in truth: the luckiest of 20 wins far too often, and the result says why."""

    def lucky(seed, arm=0, s=0):
        value = draw(seed, arm, s)
        return Outcome(validation=value, test=value)

    arms = {"many": [{"arm": 1, "s": s} for s in range(20)], "one": {"arm": 2}}
    found = [am.compare(lucky, arms, seeds=range(10 * r, 10 * r + 10)) for r in range(100)]
    assert sum(c.winner == "many" for c in found) > 10
    assert all(c.notes[0].startswith("many: the setting was chosen by the same losses") for c in found)
    assert "note  many: the setting was chosen" in repr(found[0])

    def apart(seed, arm=0, s=0):
        return Outcome(validation=draw(seed, arm, s), test=draw(seed, arm, s, 1))

    found = [am.compare(apart, arms, seeds=range(10 * r, 10 * r + 10)) for r in range(100)]
    assert sum(c.winner is not None for c in found) <= 14
    assert not any(c.notes for c in found)


def test_a_cache_answers_only_for_the_same_function(tmp_path):
    def outcome(value):
        return lambda seed, p=0.0: Outcome(value + p + 1e-3 * seed, value + p + 1e-3 * seed)

    arms = {"a": {}, "b": {"p": np.float32(0.5)}}
    one, two = (am.compare(outcome(v), arms, seeds=3, cache=tmp_path) for v in (1.0, 2.0))
    assert (one["a"].test[0], two["a"].test[0]) == (1.0, 2.0)
    assert one["b"].setting == {"p": 0.5}


def test_a_fit_that_raises_is_named(tmp_path):
    def breaks(seed, p=0.0):
        if p == 0.2 and seed == 1:
            raise RuntimeError("out of memory")
        return Outcome(1.0, 1.0)

    with pytest.raises(RuntimeError, match="out of memory") as caught:
        am.compare(breaks, {"a": {}, "b": [{"p": 0.1}, {"p": 0.2}]}, seeds=2, cache=tmp_path)
    assert caught.value.__notes__ == [
        "raised by fit(seed=1, p=0.2)",
        f"5 of these 6 trials are kept in {tmp_path}; the same call goes on there",
    ]


def test_settings_that_are_none():
    for arms in ({"a": {}, "b": {"p"}}, {"a": {}, "b": "p"}, {"a": {}, "b": [{"p": 0.1}, 0.2]}):
        with pytest.raises(TypeError, match="arm 'b' must be a dict of keywords for fit, or a list of such dicts"):
            am.compare(fit, arms)
    with pytest.raises(TypeError, match=r"arm 'b': p=<function .* names a trial, so it must be numbers"):
        am.compare(fit, {"a": {}, "b": {"p": draw}})
    with pytest.raises(TypeError, match="arm 'b': settings are keywords for fit, and 1 is no name"):
        am.compare(fit, {"a": {}, "b": {1: 2}})


def test_student_and_holm():
    from scipy.stats import ttest_1samp

    x = np.random.default_rng(0).normal(0.5, 1, 12)
    assert p_value(x) == pytest.approx(ttest_1samp(x, 0, alternative="greater").pvalue)
    assert interval(x)[2:] == pytest.approx(tuple(ttest_1samp(x, 0).confidence_interval(0.95)))
    corrected = holm([0.01, np.nan, 0.5, 0.02])
    np.testing.assert_allclose(corrected, [0.03, np.nan, 0.5, 0.04])
