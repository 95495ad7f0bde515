"""All figures have one style, and the page that shows one says in words what it shows and which command makes it."""

import re
from pathlib import Path

import numpy as np
import pytest

from lopt.figures import COLOURS
from lopt.inspect.__main__ import draw_response
from tests.test_imports import ROOT, sources

PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.(?:png|svg|jpg))\)")
PAGES = {
    str(page.relative_to(ROOT)): PICTURE.findall(page.read_text())
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
# What a page must say where it shows a picture of a folder or a file; `results/NAME/` of an experiment says its module.
COMMANDS = {
    "docs/demo.png": "make demo",
    "docs/monitor.png": "lopt monitor",
    "docs/weights.png": "lopt monitor runs/weights --png=docs/weights.png",
    "docs/tasks.png": "python -m benchmarks.tasks",
    "results/evaluation": "make report",
    "results/shipped": "python -m benchmarks.shipped",
    "results/sweeps": "--out=results/sweeps",
}
DRAWING = [*sources("lopt", "tasks", "benchmarks", "experiments", "docs"), "docs/matplotlibrc"]


@pytest.mark.parametrize("source", DRAWING)
def test_colours_are_those_of_the_reports_or_grey(source):
    """In a file that makes a page the colours are in its style sheet, lopt/page/style.css, which has the same."""
    found = re.findall(r"[\"'](#?[0-9a-f]{6})[\"']", (ROOT / source).read_text())
    for colour in {"#" + text.lstrip("#") for text in found if text.startswith("#") or source.endswith("rc")}:
        assert colour in COLOURS or len({colour[1:3], colour[3:5], colour[5:7]}) == 1, colour


@pytest.mark.parametrize("page", [page for page, pictures in PAGES.items() if pictures])
def test_a_page_says_what_a_picture_shows_and_what_makes_it(page):
    text = (ROOT / page).read_text()
    for words, target in PAGES[page]:
        assert len(words.split()) > 3, f"{target} has no text for those who cannot see it"
        picture = ((ROOT / page).parent / target).resolve().relative_to(ROOT)
        place = str(picture) if str(picture) in COMMANDS else str(picture.parent)
        command = COMMANDS.get(place, f"python -m experiments.{picture.parent.name}")
        assert command in text, f"{page} shows {target} and does not name {command}"


def test_all_experiments_are_shown():
    shown = {Path(target).parent.name for _, target in PAGES["docs/paper.md"]}
    assert shown == {file.parent.name for file in (ROOT / "results").glob("*/numbers.json")}


def test_the_signs_of_a_response_can_be_told_in_grey():
    """Where the update is minus the gradient, plus is left and minus right; what is not finite moves neither."""
    values = np.linspace(-3, 3, 7)
    updates = np.broadcast_to(-values, (7, 7)).copy()
    updates[0, 0] = np.inf
    plane = draw_response(values, updates).axes[1]
    places = {text.get_text(): text.xy for text in plane.texts}  # type: ignore[attr-defined]
    assert places["\N{MINUS SIGN}"] == pytest.approx((14 / 6, 0))  # (1 + 4 + 9) / (1 + 2 + 3)
    assert places["+"][0] < 0
