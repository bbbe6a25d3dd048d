"""The base of every result: plain numbers, what is shown, notes that a report translates whole."""

import copy
import json
import math
import pickle
import re
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.results import ExpectedLoss, Note, Result, plain_numbers, with_error


@dataclass(frozen=True, repr=False)
class Shown(Result):
    value: float
    hidden: float
    notes: tuple[str, ...] = ()
    _left_out: ClassVar[tuple[str, ...]] = ("hidden",)

    def _rows(self):
        return [("value", f"{self.value:g}"), ("a < b", "x & y")]


@dataclass(frozen=True)
class Plain(Result):
    method: object
    inner: Shown
    array: np.ndarray


def test_a_result_shows_its_rows_and_its_notes():
    shown = Shown(1.5, 2.0, ("One thing.",))
    assert repr(shown) == "Shown\n  value  1.5\n  a < b  x & y\n  note   One thing."
    html = shown._repr_html_()
    assert html.startswith("<table><tr>")
    assert html.endswith("</table>")
    assert "<th style='text-align:left'>a &lt; b</th><td>x &amp; y</td>" in html
    assert html.count("<tr>") == 3


def test_one_without_rows_is_the_dataclass_it_is():
    plain = Plain(None, Shown(1.0, 2.0), np.zeros(2))
    assert repr(plain).startswith("Plain(method=None, inner=Shown\n")
    assert plain._repr_html_() is None


def test_plain_numbers_hold_methods_by_their_repr_and_leave_out_what_is_to_be():
    plain = Plain(MonteCarlo(n_masks=8), Shown(float("nan"), 2.0), np.array([[1.0, np.inf]]))
    assert plain.to_dict() == {
        "method": "MonteCarlo(n_masks=8, sampler=LatinHypercube())",
        "inner": {"value": None, "notes": []},
        "array": [[1.0, None]],
    }


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.23138, 0.00061, "0.23138 ± 0.00061"),
        (0.23138, 0.0143, "0.231 ± 0.014"),
        (0.23138, 0.0096, "0.2314 ± 0.0096"),
        (0.5, 0.5, "0.50 ± 0.50"),
        (12.3456, 1.2, "12.3 ± 1.2"),
        (12345.6, 42.0, "12346 ± 42"),
        (12345.6, 421.0, "12350 ± 420"),
        (123.4, 99.7, "123 ± 100"),
        (1.2345e8, 42.0, "(1.23450000 ± 0.00000042)e8"),
        (0.1845859, 1.5e-6, "0.1845859 ± 1.5e-06"),
        (0.1845859, 4e-6, "0.1845859 ± 4.0e-06"),
        (18.0, 2e-15, "18 ± 2e-15"),
        (0.1234567891, 2.4e-16, "0.1234567891 ± 2.4e-16"),
        (-0.0, 0.0, "0 ± 0"),
        (0.25, 0.0, "0.25 ± 0"),
        (1.2e-7, 3e-8, "(1.20 ± 0.30)e-7"),
        (1e-17, 2e-15, "(0.0 ± 2.0)e-15"),
        (-0.0421, 0.003, "-0.0421 ± 0.0030"),
        (0.25, math.nan, "0.25 ± unknown"),
        (math.nan, 0.1, "–"),
        (math.inf, 0.1, "inf ± 0.1"),
    ],
)
def test_value_digits_follow_the_error(value, error, shown):
    assert with_error(value, error) == shown


@given(st.floats(-1e9, 1e9), st.floats(1e-12, 1e6))
def test_what_is_shown_is_true(value, error):
    shown = with_error(value, error)
    number_text = r"(-?[\d.]+(?:e[-+]?\d+)?)"
    match = re.fullmatch(rf"\(?{number_text} ± {number_text}\)?(?:e(-?\d+))?", shown)
    assert match, shown
    scale = 10.0 ** int(match[3] or 0)
    # Half a unit of the error's second digit, or the tenth digit of the value.
    assert abs(float(match[1]) * scale - value) <= 0.06 * error + 1e-9 * abs(value)
    assert float(match[2]) * scale == pytest.approx(error, rel=0.06)


def test_a_note_is_its_sentence():
    note = Note("{k} of {{x}}: {why}.", k=3, why=Note("so {n}", n=1))
    assert note == "3 of {x}: so 1."
    assert f"{note}" == "3 of {x}: so 1."
    assert hash(note) == hash("3 of {x}: so 1.")
    assert json.loads(json.dumps([note])) == ["3 of {x}: so 1."]
    assert type(plain_numbers((note,))[0]) is str


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda note: pickle.loads(pickle.dumps(note))])
def test_a_note_that_was_copied_can_still_be_translated(again):
    note = again(Note("{k}: {why}", k=3, why=Note("so")))
    assert note == "3: so"
    assert note.said({"{k}: {why}": "{why} ({k})", "so": "darum"}.get) == "darum (3)"


def test_the_notes_of_a_sampled_loss_know_their_templates():
    found = am.expected_score_loss(np.ones(2), np.ones((3, 2)), np.ones(3), 0.5, method=MonteCarlo(n_masks=1))
    (note,) = found.notes
    assert note.template == "One mask cannot show an error, so it is nan; draw 2 or more."
    assert isinstance(found, ExpectedLoss)
    assert list(found.to_dict()) == [field.name for field in fields(found)]
