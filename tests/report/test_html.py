"""One file, nothing else: escaped, no network, both languages, whole or not there."""

import json
import math
import os
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
import torch

from allmasks.language import translator
from allmasks.report import render_html, write
from allmasks.report.audit_charts import all_charts
from report.cases import EVIL_MODEL, EVIL_SITE, make_audit, make_site


class Page(HTMLParser):
    """Tags, attributes, visible text and scripts, as a browser would see them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self.inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self.inside.append(tag)
            self.scripts.append("")

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def figures(self):
        at = next(i for i, (_, a) in enumerate(t for t in self.tags if t[0] in ("script", "style")) if "id" in a)
        return json.loads(self.scripts[at])


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_nothing_is_fetched(sampled, lang):
    page = Page(render_html(sampled, lang))
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base"), tag
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data"):
                assert value.startswith("data:"), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    styles = [text for (tag, _), text in zip(_blocks(page), page.scripts, strict=True) if tag == "style"]
    assert styles
    assert not re.search(r"url\(|@import|http", "".join(styles))
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "script-src 'sha256-" in policy


def _blocks(page):
    return [(tag, attributes) for tag, attributes in page.tags if tag in ("script", "style")]


def test_names_are_escaped_everywhere(hostile):
    text = render_html(hostile)
    page = Page(text)
    assert EVIL_MODEL not in text
    assert EVIL_SITE not in text
    assert "<i>note</i>" not in text
    # The parser saw three scripts and one style, and no element of the names.
    assert [tag for tag, _ in _blocks(page)] == ["style", "script", "script", "script"]
    assert not any(tag in ("b", "i") for tag, _ in page.tags)
    # A reader sees the names as they are.
    for words in (EVIL_MODEL, EVIL_SITE, "<i>note</i>", "[red]y[/red]"):
        assert words in page.text
    # Plotly reads markup of its own.
    figures = page.figures()
    assert "a&lt;/script&gt;&lt;b&gt;" in figures["sites"]["layout"]["yaxis"]["ticktext"]
    assert all(EVIL_SITE not in t for t in figures["sites"]["data"][0]["hovertext"])


def test_the_numbers_are_in_the_page_without_any_script(sampled):
    page = Page(render_html(sampled))
    for words in [
        "0.23138 ± 0.00061",
        "0.18214",
        "0.04924 ± 0.00061",
        "21.28 ± 0.21",
        "statistical (Monte Carlo standard error)",
        "MonteCarlo(sampler=LatinHypercube()), 1,024 masks an example",
        "0.02112 ± 0.00030",
        "0.00407 ± 0.00061",
        sampled.explanation,
        "median",
    ]:
        assert words in page.text


def test_korean(sampled):
    text = render_html(sampled, "ko")
    page = Page(text)
    assert ("html", {"lang": "ko"}) in page.tags
    for words in ["기대 손실", "가중치 스케일링 손실", "페널티", "몬테카를로 표준 오차", "상호작용", "용어"]:
        assert words in page.text
    assert "weight-scaling" not in page.text
    assert page.figures()["convergence"]["layout"]["xaxis"]["title"]["text"] == "마스크 수 K"


def test_the_charts_draw_the_numbers(sampled):
    charts = {chart.key: chart for chart in all_charts(sampled, translator("en"))}
    assert list(charts) == ["build-up", "sites", "convergence", "rate", "examples"]
    bars = charts["build-up"].figure["data"][0]
    ends = [base + x for base, x in zip(bars["base"], bars["x"], strict=True)]
    # Each bar begins where the last ended, and the steps add up to the expected loss.
    assert bars["base"][1:-1] == pytest.approx(ends[:-2])
    assert ends[-2] == pytest.approx(ends[-1]) == pytest.approx(0.23138)
    alone, saved = charts["sites"].figure["data"]
    assert alone["x"] == [one.alone for one in sampled.per_site]
    assert saved["error_x"]["array"] == [one.saved_error for one in sampled.per_site]
    assert sum(charts["examples"].figure["data"][0]["y"]) == len(sampled.expected.per_example)
    rate = charts["rate"].figure["data"]
    assert rate[1]["y"] == pytest.approx([abs(p.value - sampled.reference) for p in sampled.convergence])


@pytest.mark.parametrize("exact", [False, True])
def test_plotly_knows_every_attribute(exact):
    colors = {"accent", "second", "muted", "strong", "total", "ink", "page", "band", "shade"}
    for chart in all_charts(make_audit(exact=exact), translator("ko")):
        text = json.dumps(chart.figure, allow_nan=False)
        assert set(re.findall(r'"@(\w+)"', text)) <= colors
        go.Figure(json.loads(re.sub(r'"@\w+"', '"#123456"', text)))
        assert all(len(row) == len(chart.header) for row in chart.rows)


def test_small_penalties_are_drawn_large():
    audit = make_audit()
    small = make_audit(
        per_site=tuple(type(o)(o.site, o.alone / 50, 1e-5, o.saved / 50, 1e-5, o.guarantee) for o in audit.per_site),
        interaction=0.0,
        expected=_replace(audit.expected, value=torch.tensor(0.18214 + 0.04517 / 50)),
    )
    chart = all_charts(small, translator("en"))[0]
    low, high = chart.figure["layout"]["xaxis"]["range"]
    assert 0 < low < 0.18214
    assert 0.18214 < high < 0.19
    assert "The axis does not begin at zero." in chart.caption


def _replace(expected, **changes):
    from dataclasses import replace

    return replace(expected, **changes)


def test_unknown_numbers_leave_no_nan():
    audit = make_audit(interaction_error=math.nan, penalty_share=math.nan, penalty_share_error=math.nan)
    page = Page(render_html(audit))
    assert "± unknown" in page.text
    assert "share of the loss" not in page.text
    assert "nan" not in re.findall(r"\w+", page.text)
    assert page.figures()["build-up"]["data"][0]["error_x"]["array"][4] == 0


def test_without_random_sites_or_spread():
    audit = make_audit(
        sites=(make_site("lstm", controllable=False, reason="fused <kernel>"),),
        per_site=(),
        convergence=(),
        expected=_replace(make_audit().expected, per_example=torch.zeros(4)),
    )
    page = Page(render_html(audit))
    assert page.figures() == {}
    assert "cannot be controlled: fused <kernel>" in page.text


def test_the_file_is_written_whole(sampled, tmp_path):
    path = tmp_path / "보고서.html"
    assert write(sampled, path) == path
    assert path.read_text(encoding="utf-8") == render_html(sampled)
    assert sampled.to_html(str(path), lang="ko") == path
    assert '<html lang="ko">' in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["보고서.html"]


def test_a_failure_leaves_the_old_file(sampled, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", _fail)
    with pytest.raises(OSError, match="disk full"):
        write(sampled, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def _fail(*_arguments):
    raise OSError("disk full")


def test_bad_paths_say_why(sampled, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing does not exist; create it first"):
        write(sampled, tmp_path / "missing" / "report.html")
    with pytest.raises(IsADirectoryError, match="is a folder: give a file name"):
        write(sampled, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is not a folder"):
        write(sampled, tmp_path / "file" / "report.html")
    with pytest.raises(ValueError, match="lang must be one of en, ko, got 'de'"):
        write(sampled, tmp_path / "report.html", lang="de")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_unwritable_folder_says_so(sampled, tmp_path, monkeypatch):
    # Patched, since a test that runs as root may write everywhere.
    def refuse(*_arguments, **_options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot write in .* \(Read-only file system\); choose another folder"):
        write(sampled, tmp_path / "report.html")
