"""Raw readings and back: the same run, judged again."""

import dataclasses
from pathlib import Path

import pytest

from allmasks.evidence import from_lines, to_lines
from allmasks.report import render_html, render_text
from allmasks.report.evidence_terminal import verdict_table
from report.evidence_cases import make_evidence


def test_there_and_back():
    found = make_evidence()
    again = from_lines(to_lines(found))
    for one, two in zip(found.findings, again.findings, strict=True):
        # What the cases leave out, power, is worked out; all else is as it was.
        for a, b in zip(one.readings, two.readings, strict=True):
            assert dataclasses.replace(b, spread=0, power=0, seeds_needed=0) == dataclasses.replace(
                a, spread=0, power=0, seeds_needed=0
            ) or (a.absence_p_value != a.absence_p_value and a.says == b.says and a.values == b.values)
        assert one.verdict == two.verdict
        assert len(one.pictures) == len(two.pictures)
    assert to_lines(from_lines(to_lines(again))) == to_lines(again)
    assert render_text(found) == render_text(again)
    assert "more seeds would settle it" in render_html(again)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: "", "these are no raw readings"),
        (lambda text: "not json", "these are no raw readings"),
        (lambda text: text.replace('"claim": "ridge"', '"claim": "fridge"'), "no claim 'fridge'"),
        (lambda text: text.replace('"minimum": 0.02', '"minimum": 0.01'), "is not what it was; run it again"),
    ],
)
def test_other_lines_are_refused(spoil, said):
    with pytest.raises(ValueError, match=said):
        from_lines(spoil(to_lines(make_evidence())))


def test_the_page_in_the_docs_is_made_from_the_raw_readings():
    docs = Path(__file__).parents[2] / "docs"
    found = from_lines((docs / "evidence/small.jsonl").read_text(encoding="utf-8"))
    assert verdict_table(found) in (docs / "evidence.md").read_text(encoding="utf-8")
    assert len(found.findings) == 28
    assert all(0 <= reading.power <= 1 for finding in found.findings for reading in finding.readings)
