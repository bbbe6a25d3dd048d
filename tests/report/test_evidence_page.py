"""The evidence page: every claim, both languages, escaped, no network; and the terminal's table."""

import json

import numpy as np
import pytest

from allmasks.evidence import CLAIMS
from allmasks.language import translator
from allmasks.report import render_html, render_text
from allmasks.report.diagrams import ANALOGIES, DIAGRAMS, drawing
from allmasks.report.evidence_charts import effects, picture_chart
from allmasks.report.evidence_terminal import verdict_table
from report.evidence_cases import make_evidence
from report.test_html import Page


@pytest.fixture(scope="module")
def found():
    return make_evidence()


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_every_claim_is_there_with_its_verdict(found, lang):
    page, _ = Page(render_html(found, lang)), translator(lang)
    for finding in found.findings:
        for text in (finding.title, finding.sentence, finding.note, *(c.text for c in finding.criteria)):
            assert " ".join(text[lang].split()) in page.text, finding.key
        assert finding.sentence.ko in page.text  # the notes' own words, in either language
    anchors = {attributes["id"] for tag, attributes in page.tags if tag == "section" and "id" in attributes}
    assert anchors == {f"claim-{claim.number}" for claim in CLAIMS}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{anchor}" for anchor in anchors}
    for key, words in ANALOGIES.items():
        assert _(words) in page.text, key
    assert [tag for tag, _attributes in page.tags].count("svg") == len(DIAGRAMS)


def test_nothing_is_fetched_and_names_are_escaped(found):
    text = render_html(found)
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base"), tag
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith(("data:", "#")), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    assert "<b>points</b>" not in text
    assert "&lt;b&gt;points&lt;/b&gt;" in json.dumps(page.figures())


def test_effects_are_drawn_in_units_of_their_threshold(found):
    finding = found["overfitting"]
    figure = effects(finding, translator("en"))
    drawn = {(y, round(x, 9)) for trace in figure["data"] for x, y in zip(trace["x"], trace["y"], strict=True)}
    minimum = {criterion.key: criterion.minimum for criterion in finding.criteria}
    for i, reading in enumerate(finding.readings):
        effect = max(-6.0, min(6.0, reading.mean / minimum[reading.criterion]))
        assert (i, round(effect, 9)) in drawn
    assert {trace["name"] for trace in figure["data"]} <= {"for", "against", "absent", "undecided"}


def test_a_diagram_carries_the_verdicts():
    picture = drawing(DIAGRAMS["competition"], {"competition": "contradicted", "concentration": "undecided"}, str)
    assert picture.count(">contradicted</text>") == 2
    assert picture.count(">undecided</text>") == 1
    known = {claim.key for claim in CLAIMS}
    for key, diagram in DIAGRAMS.items():
        assert {key, *(claim for row in diagram.rows for _words, claim in row if claim)} <= known
    assert set(ANALOGIES) <= known


def test_a_null_run_and_a_quick_one_say_so():
    text = render_text(make_evidence(CLAIMS[:2], null=True, quick=True))
    assert "A null run: every treatment is switched off." in text
    assert "A quick run" in text


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_table_on_the_terminal(found, lang):
    text = render_text(found, lang, width=140)
    for finding in found.findings:
        assert finding.title[lang] in text
    assert translator(lang)("contradicted") in text
    assert max(map(len, text.splitlines())) <= 140


def test_the_table_for_the_documentation(found):
    lines = verdict_table(found).splitlines()
    assert len(lines) == 2 + len(found.findings)
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines[2:])
    assert "**a** (at least 0.005) digits " in lines[2 + 5]


def test_numbers_leave_as_json(found, tmp_path):
    numbers = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert numbers["findings"][0]["title"] == {"en": found.findings[0].title.en, "ko": found.findings[0].title.ko}
    assert found.to_html(tmp_path / "e.html", lang="ko").read_text(encoding="utf-8") == render_html(found, "ko")
    with pytest.raises(ValueError, match="lang must be one of en, ko, got 'fr'"):
        render_html(found, "fr")


def test_kinds_stand_side_by_side_with_nothing_between_them():
    picture = next(p for f in make_evidence().findings for p in f.pictures if p.categories)
    chart = picture_chart("kinds", picture, "en", str)
    data, axis = chart.figure["data"], chart.figure["layout"]["xaxis"]
    assert [trace["mode"] for trace in data] == ["markers"] * 3
    np.testing.assert_allclose([trace["x"] for trace in data], [[-0.2, 0.8], [0.0, 1.0], [0.2, 1.2]], atol=1e-15)
    assert [trace["error_y"]["array"] for trace in data] == [[0.25, 0.5]] * 3
    assert [trace["error_y"]["arrayminus"] for trace in data] == [[0.5, 0.5]] * 3
    assert (axis["tickvals"], axis["ticktext"], axis["range"]) == ([0, 1], ["first", "second"], [-0.5, 1.5])
    assert chart.rows == (("first", "1", "2", "3"), ("second", "2", "2", "2"))
    assert picture_chart("kinds", picture, "ko", str).rows[1][0] == "둘째"
