"""What is sent to wandb, taken down by a stand-in: a whole run that is stopped and goes on, and an evaluation."""

import dataclasses
import importlib.machinery
import math
import sys
import types
from typing import Any

import jax
import numpy as np
import pytest

from lopt.evaluation.folder import track_results
from lopt.evaluation.measures import MEASURES
from lopt.meta_training.histograms import BINS, Histograms
from lopt.tracking import is_tracked
from tests.meta_training.test_validation import CONFIG, MadeUp, rows_of, run

pytestmark = pytest.mark.xdist_group("loop")  # the program of its tests


@dataclasses.dataclass
class Sent:
    """One call of `wandb.init`, and what was sent to its run."""

    arguments: dict[str, Any]
    rows: list[tuple[dict[str, Any], int | None]] = dataclasses.field(default_factory=list)
    metrics: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    finished: bool = False

    def log(self, row, step):
        assert not self.finished
        self.rows.append((row, step))

    def define_metric(self, name, summary):
        self.metrics.append((name, summary))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A module in the place of wandb, with all runs that it was asked for."""
    module: Any = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.runs = []
    module.Settings = dict
    module.Image = lambda path: ("picture", path)
    module.Histogram = lambda np_histogram: ("histogram", np_histogram)

    def init(**arguments):
        module.runs.append(Sent(arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_that_goes_on_is_the_same_run(wandb, tmp_path):
    """Every row is sent once, with the numbers of metrics.jsonl, validation scores included; then histograms."""
    workdir = tmp_path / "run"
    run(workdir, MadeUp([3.0, 2.0, 2.5, 2.2, 2.1, 2.4]), stop_after=5, wandb="online")
    run(workdir, MadeUp([2.5, 2.2, 2.1, 2.4]), wandb="online")
    first, second = wandb.runs
    assert first.finished
    assert second.finished
    for sent in (first, second):
        said = {key: sent.arguments[key] for key in ("project", "name", "group", "job_type", "mode", "resume")}
        wanted = {"project": "lopt", "name": "run", "group": "run", "job_type": "train"}
        assert said == wanted | {"mode": "online", "resume": "allow"}
        assert sent.arguments["config"]["optimizer"] == CONFIG.optimizer
        assert ("valid_score", "min") in sent.metrics
        assert ("valid/*", "min") in sent.metrics
    assert first.arguments["id"] == second.arguments["id"] == (workdir / "wandb_id").read_text()
    assert is_tracked(workdir)
    steps = [[step for _, step in sent.rows] for sent in (first, second)]
    assert steps == [list(range(1, 6)), list(range(6, 13))]
    numbers = [{k: x for k, x in row.items() if not isinstance(x, tuple)} for row, _ in first.rows + second.rows]
    finite = [{k: x if math.isfinite(x) else None for k, x in row.items()} for row in numbers]
    assert finite == rows_of(workdir)
    scores = {row["step"]: row["valid/task"] for row in numbers if "valid/task" in row}
    assert scores == {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.2, 10: 2.1, 12: 2.4}
    spread = {step: row for row, step in first.rows + second.rows if "theta/log_learning_rate" in row}
    assert max(spread) == 12
    for row in spread.values():
        kind, (counts, edges) = row["theta/log_learning_rate"]
        assert (kind, counts.sum(), len(counts), len(edges)) == ("histogram", 1, BINS, BINS + 1)


def test_a_run_that_is_not_tracked_makes_no_histograms(tmp_path, monkeypatch):
    monkeypatch.setattr("lopt.meta_training.attempt.Histograms", None)
    run(tmp_path / "run", MadeUp([1.0]), stop_after=2)
    assert not is_tracked(tmp_path / "run")


def test_histograms_are_of_the_parts_of_theta_and_of_their_changes():
    key = jax.random.key(0)
    before = {"mlp": {"w": jax.random.normal(key, (30, 4)), "b": np.zeros(4)}, "scale": np.ones(3)}
    after = jax.tree.map(lambda x: 1.1 * x + 0.5, before)
    spread = Histograms(1000, 0, before)  # every ten steps
    assert spread.row(9, after) == {}
    row = spread.row(10, after)
    assert list(row) == ["theta/mlp", "theta/scale", "update/mlp", "update/scale"]
    flat = [np.concatenate([np.asarray(tree["mlp"][leaf], float).ravel() for leaf in "bw"]) for tree in (before, after)]
    for name, values in (("theta", flat[1]), ("update", flat[1] - flat[0])):
        counts, edges = row[f"{name}/mlp"]
        assert (edges[0], edges[-1]) == pytest.approx((values.min(), values.max()))
        inside = [(values < edge).sum() for edge in edges[1:-1]]
        np.testing.assert_array_equal(np.cumsum(counts)[:-1], inside)
        assert counts.sum() == 124
    assert spread.row(19, after) == {}  # the next is due at 20
    row = spread.row(25, after)
    (still, _), (moved, edges) = (row[f"{name}/scale"] for name in ("theta", "update"))
    assert still.sum() == moved.sum() == 3
    assert edges[0] < 0 < edges[-1]  # no change at all


def test_numbers_that_are_not_finite_are_left_out():
    theta = {"a": np.array([1.0, np.nan, np.inf, 3.0])}
    counts, edges = Histograms(5, 0, theta).row(1, theta)["theta/a"]
    assert (counts.sum(), edges[0], edges[-1]) == (2, 1, 3)
    nothing = {"a": np.full(2, np.nan)}
    assert Histograms(5, 0, nothing).row(1, nothing)["theta/a"].counts.sum() == 0


def test_an_evaluation_is_shown_with_its_run_and_may_be_made_again(wandb, tmp_path):
    (tmp_path / "run" / "eval").mkdir(parents=True)
    (tmp_path / "run" / "wandb_id").write_text("abcd")
    for name in ("curves.png", "trials.png"):
        (tmp_path / "run" / "eval" / name).write_bytes(b"")
    found = dict.fromkeys((*MEASURES, "score", "train_ratio", "valid_ratio"), 0.5) | {"optimizer": "adam"}
    content = {"headline": "It is good.", "setting": {"horizon": 20}, "tasks": [{"name": "digits", "rows": [found]}]}
    for _ in range(2):
        track_results(tmp_path / "run" / "eval", content, "online")
    assert [sent.arguments["group"] for sent in wandb.runs] == ["run", "run"]
    assert {sent.arguments["id"] for sent in wandb.runs} == {(tmp_path / "run" / "eval" / "wandb_id").read_text()}
    for sent in wandb.runs:
        ((row, step),) = sent.rows
        assert step is None  # a step that wandb has already would be dropped
        assert row["curves"] == ("picture", str(tmp_path / "run" / "eval" / "curves.png"))
        assert row["trials"] == ("picture", str(tmp_path / "run" / "eval" / "trials.png"))
        assert row["digits/adam/score"] == 0.5
        assert sent.arguments["config"] == {"headline": "It is good.", "horizon": 20}
