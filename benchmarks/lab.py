"""How long a control of the lab takes from its event to the changed number in the page, in headless Chromium.

    python benchmarks/lab.py [--moves 30] [--chapters 1,2]

Prints median and worst of the moves of each control of chapters 1 to 6, in milliseconds, then how many pictures
a second training draws. The page itself takes the time, so that no driver's overhead is in it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

# In place of this folder, whose file of the same name would hide the tests' `lab`.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

MOVE = """
const done = arguments[arguments.length - 1];
const [key, place] = arguments;
const page = JSON.parse(document.getElementById("figures").textContent);
const control = page.chapter.controls.find((c) => c.key === key);
const box = document.querySelectorAll(`[id^="control-${key}-"]`)[place % control.values.length];
const input = document.getElementById(`control-${key}`);
const start = performance.now();
new MutationObserver((_, watch) => {
  watch.disconnect();
  // The next frame has it on the screen.
  requestAnimationFrame(() => done(performance.now() - start));
}).observe(document.documentElement, { attributes: true, attributeFilter: ["data-answers"] });
if (control.kind === "pick") box.click();
else {
  if (control.kind === "slide") input.value = place;
  else input.selectedIndex = place;
  input.dispatchEvent(new Event(control.kind === "slide" ? "input" : "change", { bubbles: true }));
}
"""


def browser():
    from selenium import webdriver

    os.environ.update(SE_AVOID_STATS="true", SE_OFFLINE="true")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    profile = tempfile.mkdtemp()
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=30)
    parser.add_argument("--chapters", default="1,2,3,4,5,6")
    given = parser.parse_args()
    from allmasks.lab import chapter
    from allmasks.lab.app import warm
    from lab.walk import Walk, served

    warm()
    driver = browser()
    driver.set_script_timeout(60)
    print("| chapter | control | median, ms | worst, ms |\n|---|---|---|---|")
    with served() as address:
        for number in given.chapters.split(","):
            found = chapter(number)
            Walk(driver, f"{address}/{found.key}?lang=en")
            for control in found.controls:
                n = len(control.values)
                places = [(i * 7 + 3) % n if n > 7 else (i + 1) % n for i in range(given.moves)]
                times = [driver.execute_async_script(MOVE, control.key, place) for place in places]
                name = control.label.en
                print(f"| {found.number} | {name} | {median(times):.0f} | {max(times):.0f} |", flush=True)
        page = Walk(driver, f"{address}/training?lang=en")
        for _warm in range(2):
            before, start = page.count(), time.monotonic()
            page.script("document.getElementById('go').click()")
            time.sleep(0.1)
            page.until(page.idle)
            pictures = page.count() - before
            rate = pictures / (time.monotonic() - start)
        print(f"\ntraining: {rate:.1f} pictures a second")
    driver.quit()
    print("load:", os.getloadavg())


if __name__ == "__main__":
    main()
