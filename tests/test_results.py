"""The base of every result: plain numbers, what is shown, notes that a report translates whole."""

import copy
import json
import pickle
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pytest

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.results import ExpectedLoss, Note, Result, plain_numbers


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
