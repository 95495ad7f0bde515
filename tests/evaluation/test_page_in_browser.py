"""The page of an evaluation in a browser: it loads, sorts, reads values off, switches its axes, fits a phone."""

import json

import pytest

from lopt.evaluation.page import render
from tests.evaluation.browser import MISSING, Browser, browser
from tests.evaluation.page_example import HORIZON, NAMES, TASKS, example, loss

# One browser serves all of these tests.
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(render(example()), encoding="utf-8")
    with browser(folder) as found:
        yield found, folder / "report.html"


@pytest.fixture
def page(chromium):
    found, path = chromium
    found.resize(1280)
    found.open(path)
    return found


PANEL = "#curve-panels figure:nth-child({}) "


def test_the_page_opens_without_errors_and_without_network(chromium):
    found, path = chromium
    found.resize(1280)
    found.log("performance")  # of the page before
    found.open(path)
    messages = [json.loads(entry["message"])["message"] for entry in found.log("performance")]
    asked = [x["params"]["request"]["url"] for x in messages if x["method"] == "Network.requestWillBeSent"]
    asked = [url for url in asked if not url.startswith(("data:", "chrome://"))]  # the browser's own first tab
    assert set(asked) == {path.as_uri()}
    assert found.log("browser") == []
    assert found.texts("h1") == ["nn_adam, evaluated on three tasks"]
    assert found.texts("figure h3") == list(TASKS)
    assert len(found.texts("#curve-panels path.line:not(.leader):not(.cross)")) == len(TASKS) * len(NAMES)


def test_a_click_sorts_each_task_both_ways(page):
    table = "#results table "
    names = f"{table}tbody:nth-of-type(1) tr:not(.group) th"
    column = next(i for i, text in enumerate(page.texts(f"{table}thead th"), 1) if text.startswith("Final loss"))
    header = f"{table}thead th:nth-child({column})"
    final = {label: level for label, _, level, *_ in NAMES.values()}
    assert page.texts(names) == list(final)  # as given
    page.click(f"{header} button")
    assert page.texts(names) == sorted(final, key=lambda name: final[name])
    assert page.run("return document.querySelector(arguments[0]).ariaSort", header) == "ascending"
    page.click(f"{header} button")
    assert page.texts(names) == sorted(final, key=lambda name: -final[name])
    assert page.run("return document.querySelector(arguments[0]).ariaSort", header) == "descending"
    groups = page.texts(f"{table}tbody tr:first-child th")
    assert groups == [f"{task}2,410 parameters" for task in TASKS]  # the task's name stays on top
    # What there is not comes last, either way.
    page.click(f"{table}thead th:nth-child(2) button")
    assert page.texts(names)[-1] == "Adam, cosine"
    page.click(f"{table}thead th:nth-child(2) button")
    assert page.texts(names)[-1] == "Adam, cosine"
    page.click(f"{table}thead th:nth-child(1) button")
    assert page.texts(names) == sorted(final, key=str.lower)


def point(page: Browser, panel: str, share: float) -> list[list[str]]:
    """Points at a panel, at this share of its width; what it then reads: the heading, then name, value and range."""
    page.run("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", panel)
    left, width, middle = page.run(
        "const plot = document.querySelector(arguments[0] + ' svg svg').getBoundingClientRect();"
        "const all = document.querySelector(arguments[0] + 'svg.plot').getBoundingClientRect();"
        "return [plot.left, plot.width, (all.left + all.right) / 2]",
        panel,
    )
    page.move(f"{panel}svg.plot", round(left + share * width - middle), 0)
    assert page.run("return document.querySelector(arguments[0]).offsetHeight", f"{panel}.readout") > 0
    return readout(page, panel)


def readout(page: Browser, panel: str) -> list[list[str]]:
    rows = f"{panel}.readout tr"
    cells = page.run(
        "return [...document.querySelectorAll(arguments[0])].map((x) => [...x.cells].map((y) => y.textContent))", rows
    )
    return [page.texts(f"{panel}.readout b"), *cells]


def test_pointing_at_a_step_reads_every_value_in_order(page):
    (heading,), *rows = point(page, PANEL.format(1), 1000 / (HORIZON - 10))
    assert heading == "step 1,000"
    known = {NAMES[name][0]: loss(name, 1.0, 1000) for name in NAMES}
    finite = {label: y for label, y in known.items() if y is not None}
    assert [row[0] for row in rows] == [*sorted(finite, key=lambda label: finite[label]), "Same rule, untrained"]
    for label, value, _ in rows[:-1]:
        assert float(value) == pytest.approx(finite[label], rel=1e-3)
    low, high = (float(x) for x in rows[0][2].split(" \N{EN DASH} "))
    assert (low, high) == pytest.approx((0.8 * finite[rows[0][0]], 1.3 * finite[rows[0][0]]), rel=1e-2)
    assert rows[-1][1] == "diverged"


def test_keys_read_values_too(page):
    panel = PANEL.format(2)
    page.run("document.querySelector(arguments[0]).focus()", f"{panel}svg.plot")
    for key, heading in (("\ue011", "step 0"), ("\ue014", "step 10"), ("\ue014", "step 20"), ("\ue010", "step 1,990")):
        keys = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        page.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": keys}]})
        assert readout(page, panel)[0] == [heading]


def test_switches_change_the_axes(page):
    labels = f"{PANEL.format(1)}.y-label"
    ticks = f"{PANEL.format(1)}text[text-anchor=end]:not(.x-label)"
    assert page.texts(labels) == ["training loss (log)"]
    assert "0.01" in page.texts(ticks)
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.click("input[name=split][value=validation] + span")
    assert page.texts(labels) == ["validation loss (log)"]
    (heading,), *rows = point(page, PANEL.format(1), 1.0)
    assert heading == "step 2,000"
    assert float(rows[0][1]) == pytest.approx(2 * 0.01, rel=1e-3)
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.click("input[name=split][value=training] + span")
    page.click("input[name=y][value=linear] + span")
    assert page.texts(labels) == ["training loss (linear)"]
    assert page.texts(ticks)[0] == "0"
    page.click("input[name=x][value=seconds] + span")
    # 1,990 steps of the learned optimizer, 0.25 * (1.9 + 0.1) ms each, are the longest.
    assert page.texts(".x-label")[0] == "training time, ms"
    (heading,), *rows = point(page, PANEL.format(1), 1.0)
    assert heading == "995 ms"
    assert [row[2] for row in rows if row[0] == "Adam"] == ["ended"]
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.click("input[name=x][value=FLOPs] + span")
    assert page.texts(".x-label")[0] == "training cost, GFLOP"
    (heading,), *_ = point(page, PANEL.format(1), 1.0)
    assert heading == f"{1990 * 2.5e6 * 2.5 / 1e9:.1f} GFLOP"  # Muon's


def test_the_legend_hides_a_line_everywhere(page):
    page.run("document.querySelector('#curves').scrollIntoView()")
    page.click("#curves .legend [data-name=untrained]")
    pressed = "return [...document.querySelectorAll('.legend [data-name=untrained]')].map((x) => x.ariaPressed)"
    assert page.run(pressed) == ["false", "false"]
    assert len(page.texts("#curve-panels path.line:not(.leader):not(.cross)")) == len(TASKS) * (len(NAMES) - 1)
    assert "Same rule, untrained" not in [row[0] for row in point(page, PANEL.format(1), 0.5)[1:]]
    page.run("document.querySelectorAll('#curves .legend [aria-pressed=true]').forEach((x) => x.click())")
    assert page.texts("path.line") == []  # panels without a line are panels
    assert page.log("browser") == []


def test_a_phone_scrolls_down_only(page):
    page.resize(390, 844)
    assert page.run("return [document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    # The values stand under the panel: at first the last ones, then those of the step that is touched.
    assert readout(page, PANEL.format(1))[0] == ["step 1,990"]
    (heading,), *rows = point(page, PANEL.format(1), 500 / (HORIZON - 10))
    assert heading == "step 500"
    assert float(rows[0][1]) == pytest.approx(loss("learned", 1.0, 500), rel=1e-3)
    assert page.log("browser") == []
