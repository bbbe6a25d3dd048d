"""A headless browser that tells what a page asked for and what its console said."""

import json
import shutil
import time

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed"),
    pytest.mark.skipif(DRIVER is None, reason="no chromedriver is installed"),
]


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
    # Selenium would otherwise report its use to its makers, and look for a newer driver.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_AVOID_STATS", "true")
        patch.setenv("SE_OFFLINE", "true")
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


def scrolled_through(browser, keys):
    """Bring each chart near the window, as a reader does, and wait until it is drawn."""
    for key in keys:
        browser.execute_script("document.getElementById(arguments[0]).scrollIntoView()", key)
        until = time.monotonic() + 10
        while drawn(browser, key) < 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert drawn(browser, key) >= 1, key
