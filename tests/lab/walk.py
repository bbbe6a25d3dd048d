"""Opens the lab in a headless browser, moves what there is to move, and reads what the page then shows."""

import contextlib
import json
import socket
import threading
import time

import uvicorn

from allmasks.lab.app import make_app


@contextlib.contextmanager
def served():
    """The lab on a free port, as its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(make_app(), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


class Walk:
    """One page in the browser."""

    def __init__(self, browser, address, patience=60):
        self.browser, self.patience = browser, patience
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get("about:blank")
        self.at = time.monotonic()
        browser.get(address)
        self.until(lambda: self.count() >= 1)

    def script(self, text, *arguments):
        return self.browser.execute_script(text, *arguments)

    def until(self, true):
        end = time.monotonic() + self.patience
        while not true():
            assert time.monotonic() < end, (self.sentence(), self.browser.get_log("browser"))
            time.sleep(0.005)

    def count(self):
        """How many answers the page has shown."""
        return int(self.script("return document.documentElement.dataset.answers || 0"))

    def move(self, key, value):
        """Set a control as a hand would, by its events, and wait for the answer."""
        before = self.count()
        self.script(
            """
            const [key, value] = arguments;
            const page = JSON.parse(document.getElementById("figures").textContent);
            const control = page.chapter.controls.find((c) => c.key === key);
            if (control.kind === "pick") {
              for (const name of control.values) {
                const box = document.getElementById(`control-${key}-${name}`);
                if (box.checked !== value.includes(name)) box.click();
              }
            } else {
              const input = document.getElementById(`control-${key}`);
              input.value = control.kind === "slide" ? control.values.indexOf(value) : value;
              input.dispatchEvent(new Event(control.kind === "slide" ? "input" : "change", { bubbles: true }));
            }
            """,
            key,
            list(value) if isinstance(value, tuple) else value,
        )
        self.until(lambda: self.count() > before and self.idle())

    def idle(self):
        return self.script("return document.getElementById('stop').hidden")

    def sentence(self):
        return self.script("return document.getElementById('sentence').textContent")

    def numbers(self):
        """The values on the page by their keys."""
        rows = "return [...document.querySelectorAll('#numbers tbody tr')].map((r) => [r.dataset.key, r.dataset.value])"
        return {key: float("nan") if value == "null" else float(value) for key, value in self.script(rows)}

    def values(self, key):
        found = "return JSON.parse(document.getElementById('figures').textContent).chapter.controls"
        return next(c["values"] for c in self.script(found) if c["key"] == key)

    def drawn(self):
        """How many things the picture shows."""
        return self.script(
            "return document.querySelectorAll('#picture .trace path, #picture .layer-below image').length"
        )

    def requests(self):
        """Addresses that were asked for since the page opened; pictures inside the page are none."""
        found = []
        for entry in self.browser.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [url for url in found if not url.startswith(("data:", "about:", "blob:", "chrome:"))]

    def console(self):
        return self.browser.get_log("browser")
