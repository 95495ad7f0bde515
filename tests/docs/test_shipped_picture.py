"""The picture of quality against cost: it shows what was measured, of what ships, as the tables of the page have it."""

import json
import math
import re

import numpy as np
import pytest

from benchmarks import shipped
from lopt.names import InputError
from tests.test_imports import ROOT

QUALITY = json.loads(shipped.QUALITY.read_text())
PAGE = (ROOT / "docs" / "shipped.md").read_text()
# The first words of a row of the page's tables, by the name in an evaluation.
ROWS = {
    "muon_cosine": "Muon + cosine",
    "prodigy_cosine": "Prodigy + cosine",
    "adam_default": "Adam at 1e-3",
    **{name: f"`{name}`" for name in ("blend", "blend_fit", "blend_cheap", "blend_anytime")},
}


def test_the_figures_are_of_the_weights_that_ship():
    for kept in QUALITY.values():
        assert kept["theta_sha256"].items() <= shipped.shipped_checksums().items(), "run the commands of the page again"


def test_the_tables_of_the_page_have_the_figures_of_the_picture():
    tables = re.split(r"^\| \| training \|.*\n", PAGE, flags=re.MULTILINE)[1:]
    assert len(tables) == len(QUALITY)
    for table, kept in zip(tables, QUALITY.values(), strict=True):
        for name, found in shipped.means(kept).items():
            if name != "adam_cosine":  # what the others are divided by
                row = next(line for line in table.splitlines() if line.startswith(f"| {ROWS[name]}"))
                training, _, validation, _ = map(float, row.strip("| ").split("|")[1:])
                assert training == pytest.approx(found["train"], rel=0.05)
                assert validation == pytest.approx(found["valid"], rel=0.05)
                worst = max(ratios[name]["valid"] for ratios in kept["ratios"].values())
                assert float(row.strip("| ").split("|")[4]) == pytest.approx(worst, rel=0.05)


def test_marks_lie_at_the_mean_loss_and_the_middle_of_the_costs():
    """Two tasks at 0.2 and 0.8: the geometric mean is 0.4; costs of 2 and 8: the middle of a logarithmic axis is 4."""
    ratios = [{"blend": {"train": x, "valid": x}, "adam_cosine": {"train": 1.0, "valid": 0.9}} for x in (0.2, 0.8)]
    ratios[0]["muon_cosine"] = {"train": 1.0, "valid": 1.0}  # not in all tasks, so not drawn
    figure = shipped.draw({"some": {"ratios": dict(enumerate(ratios))}}, {"blend": [2.0, 8.0], "adam": [1.0, 1.0]})
    marks = {
        line.get_label(): np.asarray(line.get_xydata())[0]
        for line in figure.axes[0].lines
        if line.get_marker() != "None"
    }
    assert set(marks) == {"blend", "Adam + cosine, tuned on each task"}
    assert marks["blend"] == pytest.approx([4.0, 0.4])


def test_costs_are_those_over_adam():
    costs = shipped.read_costs(shipped.COSTS)
    assert costs["adam"] == [1.0] * len(costs["adam"])
    assert {drawn.rule for drawn in shipped.DRAWN.values()} == set(costs)
    assert all(math.isfinite(x) and x > 0 for found in costs.values() for x in found)


@pytest.mark.parametrize("text", ["runs/a", "=runs/a", "pool_valid="])
def test_an_evaluation_is_named_by_its_tasks(text):
    with pytest.raises(InputError, match="such as pool_valid=runs/pool_valid"):
        shipped.parse_evaluations([text])


def test_an_evaluation_of_other_weights_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no summary\.json"):
        shipped.read_quality([tmp_path])
    summary = {"checkpoint": "blend", "theta_sha256": "0", "configuration": {"learned": {}}, "tasks": []}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match="blend with weights that do not ship"):
        shipped.read_quality([tmp_path])
