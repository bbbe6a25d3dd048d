"""Every chapter in a real browser, in both languages, served and static: moved, silent, alone, and with the library's
numbers. One chapter of each kind is in the quick suite."""

import math

import pytest

pytest.importorskip("uvicorn", reason="pip install 'allmasks[lab]'")

from allmasks.lab import chapter, chapters
from allmasks.lab.document import LARGEST, computed, file_name, static_page
from lab.walk import Walk, served
from report.chromium import browser, needs_browser

__all__ = ["browser"]

only_with_browser = needs_browser[1:]
QUICK = (2,)


def both(numbers):
    return [
        pytest.param(
            c.number, lang, id=f"{c.key}-{lang}", marks=[] if c.number in QUICK and lang == "ko" else [pytest.mark.slow]
        )
        for c in chapters()
        if c.number in numbers
        for lang in ("en", "ko")
    ]


pytestmark = only_with_browser


@pytest.fixture(scope="module")
def lab():
    with served() as address:
        yield address


def three(values, kind):
    """Three values that a control is moved to: both ends and one between; of a pick nothing, one, all."""
    if kind == "pick":
        return (), (values[-1],), tuple(values)
    return list(dict.fromkeys([values[0], values[len(values) // 2], values[-1]]))


def moved(walk, found):
    """Move every control to three values; after each the numbers are those of the functions called directly."""
    settings = found.start
    for control in found.controls:
        values = list(control.values) if control.kind == "pick" else walk.values(control.key)
        for value in three(values, control.kind):
            if settings[control.key] == value or (control.kind == "pick" and set(settings[control.key]) == set(value)):
                continue
            walk.move(control.key, value)
            settings = settings | {control.key: control.settle(value)}
            answer = next(found.steps(settings)) if found.live else found.compute(settings)
            assert walk.sentence() == answer.sentence[walk.lang]
            seen = walk.numbers()
            assert list(seen) == [n.key for n in answer.numbers]
            for number in answer.numbers:
                same = seen[number.key] == number.value or (math.isnan(seen[number.key]) and math.isnan(number.value))
                assert same, (number, seen[number.key])
    return settings


def opened(driver, address, lang):
    walk = Walk(driver, address)
    walk.lang = lang
    walk.until(walk.idle)
    assert walk.drawn() >= 1
    return walk


@pytest.mark.parametrize(("number", "lang"), both(range(1, 12)))
def test_served(browser, lab, number, lang):
    found = chapter(number)
    walk = opened(browser, f"{lab}/{found.key}?lang={lang}", lang)
    moved(walk, found)
    assert walk.console() == []
    assert all(url.startswith(lab) for url in walk.requests())


@pytest.mark.parametrize(("number", "lang"), both(range(1, 12)))
def test_static(browser, tmp_path, number, lang):
    found = chapter(number)
    path = tmp_path / file_name(found, lang)
    path.write_text(static_page(found, lang, computed(found)), encoding="utf-8")
    assert path.stat().st_size <= LARGEST
    walk = opened(browser, path.as_uri(), lang)
    moved(walk, found)
    assert walk.console() == []
    assert walk.requests() == [path.as_uri()]


def test_an_address_holds_the_state_and_a_wrong_one_does_not_matter(browser, lab):
    walk = opened(browser, f"{lab}/one-mask?lang=en#p=.31&n=10&h=one&x=1", "en")
    assert walk.sentence().startswith("With p = 0.31")
    walk.move("p", 0.8)
    assert browser.current_url.endswith("#p=0.8&n=10&h=one")
    again = opened(browser, f"{lab}/one-mask?lang=en#p=cat&n=1e9&h=<script>", "en")
    assert again.sentence().startswith("With p = 0.5")
    assert again.console() == []


@pytest.mark.slow
def test_training_is_stopped_and_begun_again(browser, lab):
    walk = opened(browser, f"{lab}/training?lang=en", "en")
    walk.script("document.getElementById('go').click()")
    walk.until(lambda: walk.count() > 3)
    walk.script("document.getElementById('stop').click()")
    assert walk.idle()
    seen = walk.count()
    walk.move("width", 4)
    assert walk.count() <= seen + 2
    walk.script("document.getElementById('go').click()")
    walk.until(lambda: "Step 312" in walk.sentence())
    assert walk.console() == []


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_phone_shows_it_whole(browser, lab, lang):
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for found in chapters():
            walk = opened(browser, f"{lab}/{found.key}?lang={lang}", lang)
            assert walk.script("return document.documentElement.scrollWidth") <= 390, found.key
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_question_is_checked_and_a_server_that_is_gone_is_said(browser):
    with served() as address:
        walk = opened(browser, f"{address}/one-mask?lang=en", "en")
        for given, told in (("", "Write a number."), ("0.5", "Not yet."), ("0,8", "Right.")):
            walk.script(
                """document.getElementById('given').value = arguments[0];
                document.querySelector('#question button').click();""",
                given,
            )
            assert walk.script("return document.getElementById('verdict').textContent").startswith(told)
    walk.script("document.getElementById('again-n').click()")
    walk.until(lambda: "does not answer" in walk.sentence())
