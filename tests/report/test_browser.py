"""The report in a real browser: drawn, silent, and alone with its file."""

import json
import shutil

import pytest

from allmasks.report import write
from report.cases import make_audit

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver is installed"),
]
CHARTS = ("build-up", "sites", "convergence", "rate", "examples")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,900",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser, path):
    """Open a file and return the addresses it asked for and what the console said."""
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    requests = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        # Only this page's own: the browser's start page may still be loading its parts.
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"] == path.as_uri():
            requests.append(message["params"]["request"]["url"])
    console = browser.get_log("browser")
    return [url for url in requests if not url.startswith("data:")], console


def drawn(browser, key):
    """How many bars, points or lines the chart shows with a size."""
    return browser.execute_script(
        """
        const shapes = document.querySelectorAll(`[id="${arguments[0]}"] .plot-container svg .trace path`);
        return [...shapes].filter((s) => { const b = s.getBBox(); return b.width + b.height > 0; }).length;
        """,
        key,
    )


@pytest.mark.parametrize("lang", ["en", "ko"])
@pytest.mark.parametrize("exact", [False, True])
def test_drawn_silent_and_alone(browser, tmp_path, lang, exact):
    path = write(make_audit(exact=exact), tmp_path / "report.html", lang=lang)
    requests, console = opened(browser, path)
    assert requests == [path.as_uri()]
    assert console == []
    for key in CHARTS:
        assert drawn(browser, key) > 1, key


def test_names_stay_text(browser, hostile, tmp_path):
    requests, console = opened(browser, write(hostile, tmp_path / "report.html"))
    assert (len(requests), console) == (1, [])
    assert browser.find_element("css selector", "h1").text == "<script>alert(1)</script>"
    labels = browser.execute_script("return [...document.querySelectorAll('#sites .ytick')].map(t => t.textContent)")
    assert labels == ["a</script><b>", "$x$ & [red]y[/red]"]


def test_a_chart_answers_the_pointer(browser, sampled, tmp_path):
    opened(browser, write(sampled, tmp_path / "report.html"))
    browser.execute_script("Plotly.Fx.hover('sites', [{curveNumber: 0, pointNumber: 1}])")
    text = browser.execute_script("return document.querySelector('#sites .hoverlayer').textContent")
    assert "block1.drop" in text
    assert "0.0211 ± 0.0003 nats" in text


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_follows_the_theme(browser, sampled, tmp_path, width, scheme):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
    try:
        opened(browser, write(sampled, tmp_path / "report.html", lang="ko"))
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
