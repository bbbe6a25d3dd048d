"""The lab's pages for everyone: by axe-core, on paper, at projector size, as an address and as Python."""

import base64
import contextlib
import io
from urllib.parse import unquote

import pytest

pytest.importorskip("uvicorn", reason="pip install 'allmasks[lab]'")

from allmasks.lab import chapter
from lab.walk import Walk, served
from report.chromium import browser, needs_browser
from report.test_access import axe, violations

__all__ = ["axe", "browser"]

pytestmark = needs_browser
DARK = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}


@pytest.fixture(scope="module")
def lab():
    with served() as address:
        yield address


@pytest.fixture
def dark(browser):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", DARK)
    yield
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize(("key", "lang"), [("one-mask", "en"), ("linear-is-ridge", "ko"), ("training", "en")])
def test_contrast_keyboard_and_structure(browser, lab, axe, key, lang):
    Walk(browser, f"{lab}/{key}?lang={lang}")
    assert violations(browser, axe) == []


@pytest.mark.parametrize(("key", "lang"), [("monte-carlo", "ko"), ("claims", "en")])
def test_the_same_in_the_dark(browser, lab, axe, dark, key, lang):
    Walk(browser, f"{lab}/{key}?lang={lang}")
    assert violations(browser, axe) == []


def test_on_paper_the_picture_is_light_and_within_the_margins(browser, lab, dark):
    walk = Walk(browser, f"{lab}/all-masks?lang=en#p=0.3")
    ink = "document.querySelector('#picture .xtick text, #picture .x2tick text').style.fill"
    wide = "document.querySelector('#picture .main-svg').width.baseVal.value"
    walk.script(f"window.addEventListener('beforeprint', () => {{ window.onpaper = [{ink}, {wide}]; }})")
    before = walk.script(f"return {ink}")
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    color, width = walk.script("return window.onpaper")
    assert color == "rgb(27, 31, 36)"
    assert color != before
    assert width <= 180 / 25.4 * 96  # A4 within its margins
    assert walk.script(f"return {ink}") == before
    assert walk.sentence() == chapter(2).compute({"p": 0.3}).sentence.en


def test_projector_size_is_larger_and_travels_with_the_address(browser, lab):
    walk = Walk(browser, f"{lab}/monte-carlo?lang=en")
    size = "return parseFloat(getComputedStyle(document.getElementById('sentence')).fontSize)"
    label = "return parseFloat(document.querySelector('#picture .xtick text').style.fontSize)"
    small = walk.script(size), walk.script(label)
    walk.script("document.getElementById('projector').click()")
    walk.until(lambda: walk.script(label) > small[1])
    assert walk.script(size) == 1.5 * small[0]
    assert walk.script("return document.documentElement.scrollWidth <= window.innerWidth")
    again = Walk(browser, browser.current_url)
    assert browser.current_url.endswith("#projector=1")
    assert again.script(size) == 1.5 * small[0]
    assert again.script("return document.getElementById('projector').getAttribute('aria-pressed')") == "true"


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (1, {"p": 0.3, "n": 10}),
        (2, {"d": 4}),
        (3, {"p": 0.3, "features": ("bmi", "bp")}),
        (4, {"p": 0.3}),
        (5, {"p": 0.3, "k": 64}),
        (6, {"net": "direct"}),
    ],
)
def test_what_is_copied_runs_and_prints_the_numbers_of_the_page(browser, lab, number, state):
    """From an address with a state: the code, the data of the picture, and the address itself."""
    found = chapter(number)
    given = "&".join(f"{k}={','.join(v) if isinstance(v, tuple) else v}" for k, v in state.items())
    walk = Walk(browser, f"{lab}/{found.key}?lang=en#{given}")
    assert walk.sentence() == found.compute(state).sentence.en
    walk.script(
        """window.copied = [];
        Object.defineProperty(navigator, "clipboard", {
          value: { writeText: async (text) => window.copied.push(text) },
        });
        document.getElementById("copy-code").click();
        document.getElementById("copy-address").click();"""
    )
    walk.until(lambda: walk.script("return window.copied.length") == 2)
    code, address = walk.script("return window.copied")
    printed, space = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(compile(code, found.key, "exec"), space)
    said = [float(word) for word in printed.getvalue().replace("[", " ").replace("]", " ").split() if _number(word)]
    shown = {n.key: n.value for n in found.compute(state).numbers}
    assert len(space["picture"]) == len(found.compute(state).figure["data"])
    for key in ("mean1", "variance1", "expected", "penalty", "observed", "geometric", "scaled"):
        if key in shown:
            assert any(abs(value - shown[key]) <= 1e-7 * (1 + abs(value)) for value in said), (key, shown[key], said)
    assert unquote(address).endswith("#" + given)
    assert Walk(browser, address).sentence() == found.compute(state).sentence.en


def _number(word):
    try:
        return float(word) == float(word)
    except ValueError:
        return False
