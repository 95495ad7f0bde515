"""A real browser for tests, with nothing but the standard library (Debian: chromium, chromium-driver)."""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

MISSING = (
    ""
    if shutil.which("chromium") and shutil.which("chromedriver")
    else ("no chromium and chromedriver here: apt-get install chromium chromium-driver")
)


class Browser:
    """Chromium through chromedriver's HTTP interface (W3C WebDriver)."""

    FLAGS = (
        "--headless",
        "--no-sandbox",  # for root, as in a container
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-prefers-reduced-motion",
        "--hide-scrollbars",  # as on a phone, where they take no room
    )

    def __init__(self, port: str, profile: Path):
        self.address = f"http://127.0.0.1:{port}/session"
        options = {"args": [*self.FLAGS, f"--user-data-dir={profile}"]}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": logs}}
        self.address += "/" + self.call("POST", "", {"capabilities": wanted})["sessionId"]

    def call(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self.call("POST", "/url", {"url": path.as_uri()})

    def log(self, kind: str) -> list[dict]:
        return self.call("POST", "/se/log", {"type": kind})

    def run(self, script: str, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command: str, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector: str) -> dict:
        return self.call("POST", "/element", {"using": "css selector", "value": selector})

    def click(self, selector: str) -> None:
        (element,) = self.find(selector).values()
        self.call("POST", f"/element/{element}/click", {})

    def move(self, selector: str, x: int, y: int) -> None:
        """The mouse to a place relative to an element's centre."""
        move = {"type": "pointerMove", "origin": self.find(selector), "x": x, "y": y, "duration": 0}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self.call("POST", "/actions", {"actions": [mouse]})

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent)"
        return self.run(script, selector)

    def resize(self, width: int, height: int = 900) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.run("await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a new profile under a folder; it and its driver are gone afterwards."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with driver:
        try:
            assert driver.stdout
            port = next(found[1] for line in driver.stdout if (found := re.search(r"successfully on port (\d+)", line)))
            page = Browser(port, folder / "profile")
            try:
                yield page
            finally:
                page.call("DELETE", "")
        finally:
            driver.terminate()
