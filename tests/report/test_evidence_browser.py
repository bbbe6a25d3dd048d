"""The evidence page and the instruments' charts in a real browser, wide and narrow, in both languages."""

import pytest
import torch

from allmasks.diagnose import audit
from allmasks.evidence import CLAIMS
from model_cases import CASES
from report.chromium import browser, needs_browser, opened, scrolled_through
from report.evidence_cases import make_evidence

__all__ = ["browser"]

pytestmark = needs_browser


@pytest.fixture(params=[1280, 390])
def width(browser, request):
    size = {"width": request.param, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield request.param
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def cut_off(browser):
    """Elements that reach beyond the window and are not inside something that scrolls."""
    return browser.execute_script(
        """
        const wide = document.documentElement.clientWidth + 0.5;
        return [...document.querySelectorAll("main *")].filter((e) => {
          const box = e.getBoundingClientRect();
          if (box.width === 0 || e.closest(".scroll")) return false;
          // An invisible part of a chart may be anywhere.
          if (e.closest("svg.main-svg") && !["text"].includes(e.tagName)) return false;
          return box.right > wide || box.left < -0.5;
        }).map((e) => e.tagName + "." + e.getAttribute("class") + ": " + e.textContent.slice(0, 60));
        """
    )


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_evidence_is_drawn_silent_alone_and_whole(browser, tmp_path, width, lang):
    found = make_evidence()
    path = found.to_html(tmp_path / "evidence.html", lang=lang)
    requests, console = opened(browser, path)
    keys = browser.execute_script("return Object.keys(JSON.parse(document.getElementById('figures').textContent))")
    assert len(keys) > 28
    scrolled_through(browser, keys)
    assert requests == [path.as_uri()]
    assert [*console, *browser.get_log("browser")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert cut_off(browser) == []


@pytest.mark.parametrize("lang", ["en", "ko"])
def test_the_instruments_are_drawn_too(browser, tmp_path, width, lang):
    case = next(c for c in CASES if c.name == "two sites, classes")
    with torch.no_grad():
        found = audit(case.build(), (case.x, case.y), case.loss, progress=False)
    path = found.to_html(tmp_path / "audit.html", lang=lang)
    requests, console = opened(browser, path)
    keys = [f"{kind}-{i}" for kind in ("units", "pairs", "shares", "removal") for i in range(2)]
    scrolled_through(browser, keys)
    assert requests == [path.as_uri()]
    assert [*console, *browser.get_log("browser")] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert cut_off(browser) == []


def test_a_cut_off_element_is_noticed(browser, tmp_path, width):
    """The planted fault: a box wider than the window."""
    path = make_evidence(CLAIMS[:1], seeds=4).to_html(tmp_path / "evidence.html")
    opened(browser, path)
    browser.execute_script("document.querySelector('main').insertAdjacentHTML('beforeend', '<div id=wide>x</div>')")
    browser.execute_script("document.getElementById('wide').style.width = '3000px'")
    assert len(cut_off(browser)) == 1
