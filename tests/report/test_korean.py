"""A Korean report is Korean: no English sentence is left in it, whatever the audit noted."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import allmasks as am
from allmasks.language import translator
from allmasks.report import render_html, render_text
from allmasks.report.text import said
from allmasks.results import Note
from report.cases import make_audit
from report.evidence_cases import make_evidence
from report.test_html import Page

# Names, and what the page quotes as code.
_NAMES = re.compile(r"\w+\([^()]*(\([^()]*\))?[^()]*\)|[\w.]*[._]\w+")


def english(texts):
    """Texts with three or more lower-case English words in a row: a sentence that was not translated."""
    return [text for text in texts if re.search(r"\b[A-Za-z]?[a-z']{2,}([ ,;:]+[a-z']{2,}){2,}", _NAMES.sub("#", text))]


def strings(value):
    if isinstance(value, dict):
        return [text for one in value.values() for text in strings(one)]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


def left(html):
    page = Page(html)
    attributes = [a[k] for _, a in page.tags for k in ("aria-label", "title", "alt") if k in a]
    return english([*page.words, *attributes, *strings(page.figures())])


class AlwaysOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 2)

    def forward(self, x):
        return self.out(F.dropout(x, 0.5))


class NotInTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2))

    def forward(self, x):
        if self.training:
            raise RuntimeError("boom")
        return self.body(x)


MODELS = {
    "plain": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)),
    "alpha": lambda: nn.Sequential(nn.AlphaDropout(0.5), nn.Linear(3, 2)),
    "wide": lambda: nn.Sequential(nn.Linear(3, 600), nn.Dropout(0.5), nn.Linear(600, 2)),
    "one unit": lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.5), nn.Linear(1, 2)),
    "always on": AlwaysOn,
    "not in training": NotInTraining,
    "none": lambda: nn.Linear(3, 2),
}
EXPECTED_NOTES = {"plain": 0, "alpha": 2, "wide": 1, "one unit": 1, "always on": 1, "not in training": 1, "none": 1}


@pytest.mark.parametrize("name", MODELS)
def test_no_english_is_left_in_an_audit(name):
    data = torch.linspace(-1, 1, 30).reshape(10, 3), torch.arange(10) % 2
    audit = am.audit(MODELS[name](), data, "cross_entropy", progress=False)
    assert len(audit.notes) == EXPECTED_NOTES[name]
    for note in audit.notes:
        assert re.search("[가-힣]", said(note, translator("ko"))), note
    assert left(render_html(audit, "ko")) == []
    assert english(render_text(audit, "ko").splitlines()) == []


@pytest.mark.parametrize(("how", "count"), [({"shuffle": True}, 1), ({"sampler": RandomSampler(range(10), True)}, 4)])
def test_no_english_is_left_of_what_a_loader_does(how, count):
    data = TensorDataset(torch.linspace(-1, 1, 30).reshape(10, 3), torch.arange(10) % 2)
    audit = am.audit(MODELS["plain"](), DataLoader(data, 4, **how), loss="cross_entropy", progress=False)
    assert len(audit.notes) == count
    assert left(render_html(audit, "ko")) == []


def test_english_would_be_seen():
    """The same page in English, and one sentence that no catalog knows."""
    assert len(left(render_html(make_audit(), "en"))) > 10
    note = "This one is not in the catalog."
    assert left(render_html(make_audit(notes=(note,)), "ko")) == [note]


@pytest.mark.parametrize("options", [{}, {"quick": True, "null": True}], ids=["whole", "quick"])
def test_no_english_is_left_in_the_evidence(options):
    found = make_evidence(**options)
    assert left(render_html(found, "ko")) == []
    assert english(render_text(found, "ko", width=140).splitlines()) == []


def test_a_note_is_said_whole():
    """Template, fields and the reason within it, which is a note of its own."""
    why = Note("it has a single unit")
    note = Note("{site} was not measured unit by unit: {why}.", site="drop{x}", why=why)
    assert note == "drop{x} was not measured unit by unit: it has a single unit."
    assert said(note, str) == note
    assert said(note, translator("ko")) == "drop{x}: 유닛별로 측정하지 않았습니다(유닛이 하나뿐입니다)."
    assert said(str(note), translator("ko")) == note


def test_figures_hold_text_that_is_read():
    assert json.dumps(strings({"a": ["x", {"b": "y"}], "c": 1})) == '["x", "y"]'
