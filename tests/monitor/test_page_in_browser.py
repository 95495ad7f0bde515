"""The page in a browser, served while a run goes on: it draws, asks for what is new, and keeps what a person chose."""

import json
import threading

import pytest

from lopt.monitor.serve import Site
from tests.evaluation.browser import MISSING, Browser, browser
from tests.monitor.example import row, rows, touch, watcher, write

# One browser serves all of these tests.
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def served(tmp_path):
    for seed in range(3):
        made = [row(step, valid_score=1 / step) for step in range(1, 41)]
        write(tmp_path / f"seed={seed}", made, seed=seed)
    with Site(watcher(tmp_path).look, every=0.1) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield site, tmp_path
        site.shutdown()
        thread.join()


def visit(found: Browser, url: str, width: int = 1280) -> None:
    found.log("browser")  # of the page before
    found.resize(width)
    found.call("POST", "/url", {"url": url})


def wait_for(found: Browser, condition: str) -> None:
    script = f"""const done = arguments[arguments.length - 1]; const end = Date.now() + 10000;
    const look = () => ({condition}) ? done(true) : Date.now() > end ? done(false) : setTimeout(look, 20); look();"""
    assert found.call("POST", "/execute/async", {"script": script, "args": []}), condition


LINES = "document.querySelectorAll('#curves figure:nth-child(1) path.line:not(.leader):not(.behind)').length"


def test_it_draws_asks_and_keeps_what_was_chosen(chromium, served):
    site, folder = served
    visit(chromium, site.url)
    assert chromium.texts("h1") == ["3 runs"]
    assert chromium.texts("#curves h3")[:2] == ["meta-loss, running mean", "validation score"]
    assert chromium.run(f"return {LINES}") == 3
    chromium.click("#curves .legend button")  # one run is not to be shown
    assert chromium.run(f"return {LINES}") == 2
    chromium.click("#runs thead th:nth-child(3) button")  # by outer steps, the lowest first
    first = "document.querySelector('#runs tbody tr th').textContent.trim()"
    with open(folder / "seed=0" / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps(row(step)) + "\n" for step in range(41, 61)))
    touch(folder / "seed=0", 1.0)
    wait_for(chromium, "document.querySelector('#runs').textContent.includes('60 of 100')")
    assert chromium.run(f"return {first}") == "seed=1"  # the order is kept: seed=0 is the last one now
    assert chromium.run(f"return {LINES}") == 2
    assert chromium.texts("#curves figure:nth-child(1) .plot text.x-label") == ["outer step"]
    write(folder / "seed=3", rows(10), seed=3)
    wait_for(chromium, "document.querySelectorAll('#curves .legend button').length === 4")
    assert chromium.texts("h1") == ["4 runs"]
    assert chromium.run(f"return {LINES}") == 3
    assert chromium.log("browser") == []


def test_a_server_that_has_gone_is_told(chromium, served):
    site, _ = served
    visit(chromium, site.url)
    site.shutdown()
    site.server_close()
    wait_for(chromium, "document.getElementById('asked').textContent.startsWith('No answer from the monitor')")


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_a_desktop_and_a_phone(chromium, served, width):
    site, _ = served
    visit(chromium, site.url, width)
    assert chromium.run("return document.documentElement.scrollWidth") == width
    assert chromium.run("return document.querySelector('#curves figure').clientWidth") > 0.4 * width
