"""The report in a real browser: drawn, silent, and alone with its file."""

import pytest

from allmasks.report import write
from report.cases import make_audit
from report.chromium import browser, needs_browser, opened, scrolled_through

__all__ = ["browser"]

pytestmark = needs_browser
CHARTS = ("build-up", "sites", "convergence", "rate", "examples")


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("exact", [False, True])
def test_drawn_silent_and_alone(browser, tmp_path, lang, exact):
    path = write(make_audit(exact=exact), tmp_path / "report.html", lang=lang)
    requests, console = opened(browser, path)
    assert requests == [path.as_uri()]
    assert console == []
    scrolled_through(browser, CHARTS)
    assert browser.get_log("browser") == []


def test_names_stay_text(browser, hostile, tmp_path):
    requests, console = opened(browser, write(hostile, tmp_path / "report.html"))
    assert (len(requests), console) == (1, [])
    assert browser.find_element("css selector", "h1").text == "<script>alert(1)</script>"
    scrolled_through(browser, ["sites"])
    labels = browser.execute_script("return [...document.querySelectorAll('#sites .ytick')].map(t => t.textContent)")
    assert labels == ["a</script><b>", "$x$ & [red]y[/red]"]


def test_a_chart_answers_the_pointer(browser, sampled, tmp_path):
    opened(browser, write(sampled, tmp_path / "report.html"))
    scrolled_through(browser, ["sites"])
    browser.execute_script("Plotly.Fx.hover('sites', [{curveNumber: 0, pointNumber: 1}])")
    text = browser.execute_script("return document.querySelector('#sites .hoverlayer').textContent")
    assert "block1.drop" in text
    assert "0.02112 ± 0.00030 nats" in text


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_follows_the_theme(browser, sampled, tmp_path, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    try:
        opened(browser, write(sampled, tmp_path / "report.html", lang="ko"))
        scrolled_through(browser, CHARTS)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        ink = browser.execute_script("return getComputedStyle(document.querySelector('#sites .xtick text')).fill")
        assert ink == ("rgb(232, 235, 238)" if scheme == "dark" else "rgb(27, 31, 36)")
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_what_is_not_inside_cannot_be_fetched(browser, sampled, tmp_path):
    """The planted fault: a page that does reach out is noticed by the same log, and stopped by the page's policy."""
    path = write(sampled, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8").replace("<footer>", '<img src="http://127.0.0.1:9/x.png"><footer>', 1)
    path.write_text(text, encoding="utf-8")
    requests, console = opened(browser, path)
    assert len(requests) + len(console) > 1
    assert any("Content Security Policy" in line["message"] for line in console)
