"""Finished work on disk: taken only for the same question, and never in halves."""

import math

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


@pytest.mark.parametrize("damage", ["", "{", '{"key": 1}', "[]", '{"key": {"p": 2}, "result": 3}'])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    trials = Trials(tmp_path)
    trials.put({"p": 0.1}, 5)
    trials.path({"p": 0.1}).write_text(damage)
    assert run_trials(lambda x: x + 1, [({"p": 0.1}, (6,))], trials) == [7]
    assert trials.get({"p": 0.1}) == 7


def test_results_keep_their_order_and_are_told(tmp_path):
    trials, told = Trials(tmp_path), []
    trials.put(1, 10)
    assert run_trials(lambda x: 10 * x, [(k, (k,)) for k in (2, 1, 3)], trials, done=told.append) == [20, 10, 30]
    assert told == [1, 2, 3]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json"] * 3
