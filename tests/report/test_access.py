"""The pages for everyone: contrast and keyboard by axe-core, light and dark, and on paper."""

import base64
import importlib.util
from pathlib import Path

import pytest
import torch

from allmasks.diagnose import audit
from allmasks.evidence import CLAIMS
from allmasks.report import render_html
from model_cases import CASES
from report.cases import make_audit
from report.chromium import browser, needs_browser, opened, scrolled_through
from report.evidence_cases import make_evidence

__all__ = ["browser"]

pytestmark = needs_browser
MOST = 1_500_000
"""Bytes of a page."""


@pytest.fixture(scope="module")
def axe():
    found = importlib.util.find_spec("axe_core_python")
    if found is None:
        pytest.skip("axe-core is not installed: pip install 'allmasks[test]'")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pages():
    case = next(c for c in CASES if c.name == "two sites, classes")
    with torch.no_grad():
        found = audit(case.build(), (case.x, case.y), case.loss, progress=False)
    return {"audit": found, "evidence": make_evidence(CLAIMS[:6])}


def charts(browser):
    return browser.execute_script("return Object.keys(JSON.parse(document.getElementById('figures').textContent))")


def violations(browser, axe):
    # By the driver: the page's own policy lets no other script in.
    browser.execute_script(axe)
    told = browser.execute_async_script(
        "const done = arguments[0]; axe.run(document).then((r) => done(r.violations.map("
        "(v) => v.id + ': ' + v.nodes.slice(0, 3).map((n) => n.html.slice(0, 120)).join(' | '))));"
    )
    # How charts drawn as SVG nest is their library's own affair; what they say stands in the tables.
    return [text for text in told if ".main-svg" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("name", ["audit", "evidence"])
def test_contrast_keyboard_and_structure(browser, tmp_path, axe, pages, name, lang, scheme):
    theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    try:
        opened(browser, pages[name].to_html(tmp_path / "page.html", lang=lang))
        scrolled_through(browser, charts(browser)[:3])
        assert violations(browser, axe) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_faint_word_is_noticed(browser, tmp_path, axe):
    """The planted fault: gray on white, and a picture without words."""
    opened(browser, make_audit().to_html(tmp_path / "page.html"))
    browser.execute_script("document.querySelector('.lead').style.color = '#bbbbbb'")
    browser.execute_script("document.querySelector('main').insertAdjacentHTML('beforeend', '<div role=img>x</div>')")
    found = violations(browser, axe)
    assert any(text.startswith("color-contrast") for text in found)
    assert any(text.startswith("role-img-alt") for text in found)


def test_on_paper_every_chart_in_light_colors(browser, tmp_path, pages):
    """From a dark screen: what is printed is light and whole, and the screen is afterwards as before."""
    theme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    try:
        opened(browser, pages["audit"].to_html(tmp_path / "page.html"))
        browser.execute_script(
            """
            window.onpaper = [];
            window.addEventListener("beforeprint", () => {
              const ink = (key) => document.querySelector(`[id="${key}"] .xtick text`).style.fill;
              const keys = Object.keys(JSON.parse(document.getElementById("figures").textContent));
              const wide = (key) => document.querySelector(`[id="${key}"] .main-svg`).width.baseVal.value;
              window.onpaper = keys.map((key) => [ink(key), wide(key)]);
              window.stillclosed = document.querySelectorAll("details:not([open])").length;
            });
            """
        )
        closed = "return document.querySelectorAll('details:not([open])').length"
        before = browser.execute_script(closed)
        pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
        assert pdf.startswith(b"%PDF")
        onpaper = browser.execute_script("return window.onpaper")
        assert len(onpaper) == len(charts(browser))
        assert {ink for ink, _ in onpaper} == {"rgb(27, 31, 36)"}
        assert max(width for _, width in onpaper) <= 180 / 25.4 * 96  # A4 within its margins
        assert browser.execute_script("return window.stillclosed") == 0
        assert browser.execute_script(closed) == before
        ink = browser.execute_script("return document.querySelector('#sites .xtick text').style.fill")
        assert ink == "rgb(232, 235, 238)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_weight_of_a_page(pages, lang):
    for name, found in {**pages, "evidence": make_evidence()}.items():
        assert len(render_html(found, lang).encode()) <= MOST, name
