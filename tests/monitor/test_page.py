"""The page as HTML: what stands in it, what is drawn, and that names stay text."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lopt.meta_training.panels import Line, Panel
from lopt.meta_training.plots import running_mean
from lopt.monitor.drawing import drawn
from lopt.monitor.page import content, render
from tests.monitor.example import row, rows, touch, watcher, write


class Texts(HTMLParser):
    """The texts of a page; every tag must be closed."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def embedded(html):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def texts_of(html):
    page = Texts(html)
    assert page.open == []
    return " ".join(" ".join(page.texts).split())


def test_one_run(tmp_path):
    made = [row(step, capped=0.5, valid_score=1 / step) for step in range(1, 41)]
    html = render(watcher(write(tmp_path / "run", made)).look())
    text = texts_of(html)
    assert "Running, outer step 40 of 100; meta-loss 0.0253; best validation 0.025 after step 40." in text
    assert "optimizer: mlp" in text
    assert "50 % of the inner steps are at the cap of the loss" in text
    assert "<code>--outer_learning_rate</code>" in html  # in the advice, as a flag
    assert "outer_learning_rate 0.01" in text  # of the settings
    assert not re.search(r'(src|href|action)="(?!#|data:)', html)  # it stands alone
    assert "connect-src" not in html


def test_what_is_drawn_is_what_the_picture_draws(tmp_path):
    made = [row(step, meta_loss=1 + 0.1 * (-1) ** step) for step in range(1, 41)]
    data = embedded(render(watcher(write(tmp_path / "run", made)).look()))
    panels = {panel["title"]: panel for panel in data["panels"]}
    assert list(panels) == [
        "meta-loss, running mean",
        "signal to noise of the meta-gradient",
        "size of the update, by part of theta",
    ]
    (line,), (trace,) = (panels["meta-loss, running mean"][key] for key in ("lines", "behind"))
    losses = np.array([x["meta_loss"] for x in made])
    np.testing.assert_allclose(line["y"], running_mean(losses, 3), rtol=1e-6)
    np.testing.assert_allclose(trace["y"], losses, rtol=1e-6)
    assert line["x"] == list(range(1, 41))
    assert panels["signal to noise of the meta-gradient"]["y"]["reference"] == 1
    sizes = panels["size of the update, by part of theta"]["lines"]
    assert [(x["label"], x["style"]) for x in sizes] == [("mlp", "c0 d0"), ("lstm", "c1 d1")]
    assert data["every"] is None


def test_panels_that_are_alike_share_an_axis():
    steps = np.arange(0.0, 11)
    panels = [Panel(x, "y", [Line(x, steps, steps * n, 0)], alike=x != "c") for x, n in (("a", 1), ("b", 10), ("c", 2))]
    ranges = [(panel["y"]["low"], panel["y"]["high"]) for panel in drawn(panels)]
    assert ranges == [pytest.approx((-0.06 * top, 1.06 * top)) for top in (100, 100, 20)]


def test_long_runs_are_thinned_to_what_a_screen_shows(tmp_path):
    (line, *_) = content(watcher(write(tmp_path / "run", rows(5000))).look())["panels"][0]["lines"]
    assert len(line["x"]) == 600
    assert (line["x"][0], line["x"][-1]) == (1, 5000)
    assert max(np.diff(line["x"])) <= 9


def test_several_runs_keep_their_colours(tmp_path):
    write(tmp_path / "a", [], seed=0)  # it has not begun
    write(tmp_path / "b", rows(20), seed=1)
    write(tmp_path / "c", rows(100), seed=2, optimizer="lstm")
    runs = watcher(tmp_path).look()
    html = render(runs, every=5.0)
    data = embedded(html)
    assert [(run["label"], run["style"]) for run in data["runs"]] == [("a", "c0 d0"), ("b", "c1 d1"), ("c", "c2 d2")]
    lines = data["panels"][0]["lines"]
    assert [(line["label"], line["style"]) for line in lines] == [("b", "c1 d1"), ("c", "c2 d2")]
    text = texts_of(html)
    assert "1 starting, 1 running, 1 finished." in text
    settings = texts_of(content(runs)["parts"]["settings"])
    assert settings == "Those in which they differ. Run optimizer seed a mlp 0 b mlp 1 c lstm 2"
    assert "connect-src 'self'" in html
    assert data["every"] == 5
    bold = re.findall(r"<td[^>]* class=best>([\d.]+)", html)
    assert bold == ["0.0102"]  # the lowest meta-loss, mean of 1/96 to 1/100


def test_before_the_first_step(tmp_path):
    html = render(watcher(write(tmp_path / "run", [])).look())
    assert "Starting, outer step 0 of 100." in texts_of(html)
    assert "No run has made an outer step yet." in html
    assert embedded(html)["panels"] == []


def test_names_stay_text(tmp_path):
    name = "<b onload='x'>&amp;"
    html = render(watcher(write(tmp_path / name, rows(3), tasks="</script><script>x")).look())
    assert name not in html
    assert "<script>x" not in html
    assert f"{name} <b>" not in html
    assert name in texts_of(html)
    assert embedded(html)["panels"][0]["lines"][0]["label"] == name


EVIL = "<i class='x'>&lt;"


def test_what_files_hold_stays_text(tmp_path):
    """Names, settings and what a run has noted of itself: of one run, and of several."""
    settings = {"tasks": f"{EVIL}tasks", f"{EVIL}name": 1}
    for i in range(2):
        folder = write(tmp_path / f"{EVIL}{i}", rows(3), **settings, seed=i, optimizer=f"{EVIL}{i}")
        items = [{"at": 9, "back_to": 3, "reason": f"{EVIL}reason"}]
        (folder / "run.json").write_text(json.dumps({"recoveries": items}))
        (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | {f"{EVIL}{i}": i})
        )
        touch(folder, 1.0)
    runs = watcher(tmp_path).look()
    for shown, times in ((runs[:1], 10), (runs, 12)):
        parts = content(shown)["parts"].values()
        html = render(shown)
        assert EVIL not in html
        assert "<i" not in "".join(parts)
        assert sum(texts_of(part).count(EVIL) for part in parts) == times
        assert "&amp;amp;" not in html  # escaped once


def test_an_unreadable_run_is_named(tmp_path):
    folder = write(tmp_path / "run", rows(3))
    (folder / "metrics.jsonl").write_text("hello\n")
    html = render(watcher(folder).look())
    assert 'class="grave"' in html
    assert "it cannot be read" in texts_of(html)
