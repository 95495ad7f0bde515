"""Going back to a good checkpoint: at which rate, how often, and that a run that was stopped goes on the same way."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.meta_training.attempt import Invocation
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.health import StuckError
from lopt.meta_training.loop import train
from lopt.meta_training.steps import outer_steps
from lopt.meta_training.validation import SCORE
from lopt.meta_training.workdir import finished_steps
from lopt.trained.pretrained import load_pretrained
from lopt.types import TaskMixture
from tests.meta_training.times import without_times
from tests.toy_family import Quadratic

pytestmark = pytest.mark.xdist_group("loop")  # most tests share a program
TASKS = TaskMixture((Quadratic(),), (1.0,))
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20", outer_steps=12,
    outer_schedule="constant", valid_tasks="made up", valid_every=2, theta_ema=0.9,
)  # fmt: skip


class Script:
    """The score at each outer step, by a list for each way through the run; asked in order."""

    def __init__(self, *scores):
        self.scores = list(scores)

    def prepare(self, thetas, stopped):
        pass

    def score(self, thetas):
        return [{SCORE: self.scores.pop(0)}, {SCORE: 1e6}][: len(thetas)]


def run(workdir, validator=None, config=CONFIG, **options):
    return train(config.build(TASKS, PairLayout(2)), config, Invocation(workdir, **options), validator)


def changed(**changes):
    return MetaTrainConfig(**{**CONFIG.__dict__, **changes})


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_goes_back_to_its_best_checkpoint_and_on_at_half_the_rate(tmp_path, caplog):
    """Validated at 2, 4, ...: the best is of 4; 6 and 8 are too high; not from the checkpoint of 5, from 4 on again.

    Stopped at 7, while the score is too high, it goes the same way.
    """
    scores, whole, parts = [3.0, 2.0, 4.1, 4.1, 2.9, 1.9, 2.0, 2.0], tmp_path / "whole", tmp_path / "parts"
    assert run(whole, Script(*scores), checkpoint_every=5).finished
    assert "Going back to outer step 4, with 0.5 times the outer learning rate" in caplog.text
    rows = rows_of(whole)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["step"]: row[SCORE] for row in rows if SCORE in row} == {2: 3, 4: 2, 6: 2.9, 8: 1.9, 10: 2.0, 12: 2.0}
    told = [(row.get("recovered"), row.get("outer_rate_scale")) for row in rows]
    assert told == [(None, None)] * 4 + [(1, 0.5)] * 8
    (recovery,) = json.loads((whole / "run.json").read_text())["recoveries"]
    assert (recovery["at"], recovery["back_to"]) == (8, 4)
    assert "the validation score is 4.1, and was 2 after outer step 4" in recovery["reason"]
    assert load_pretrained(whole).card["recoveries"] == [recovery]
    assert load_pretrained(whole / "export-best").card["validation"]["step"] == 8
    assert sorted(finished_steps(whole / "checkpoints")) == [8, 10, 12]

    run(parts, Script(*scores[:3]), stop_after=7)
    run(parts, Script(*scores[3:]))
    assert list(map(without_times, rows)) == list(map(without_times, rows_of(parts)))
    states = []
    for workdir in (whole, parts):
        with Checkpoints(workdir) as checkpoints:
            _, state = checkpoints.restore(CONFIG.build(TASKS, PairLayout(2)).template(({},)))
            states.append(jax.tree.map(np.asarray, (state.theta, state.theta_ema)))
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("left", ["older", "none"])
def test_exports_that_a_kill_has_kept_from_being_written_are_written_by_the_next_start(tmp_path, left):
    """A checkpoint is complete before its exports are: here the kill is between the two, at the last outer step."""
    names = ("export", "export-ema", "export-best")
    config = changed(outer_steps=4)
    run(tmp_path, Script(3.0), config, stop_after=2)
    older = {name: shutil.copytree(tmp_path / name, tmp_path / "older" / name) for name in names}
    assert run(tmp_path, Script(2.0), config).finished
    whole = {name: (tmp_path / name / "theta.safetensors").read_bytes() for name in names}
    for name in names:
        shutil.rmtree(tmp_path / name)
        if left == "older":
            shutil.copytree(older[name], tmp_path / name)
    (tmp_path / ".export.previous").mkdir()
    if left == "none":
        shutil.copytree(older["export"], tmp_path / ".export.previous", dirs_exist_ok=True)
    assert run(tmp_path, Script(), config).finished
    for name in names:
        assert (tmp_path / name / "theta.safetensors").read_bytes() == whole[name]
        assert load_pretrained(tmp_path / name).card["outer_steps"] == 4
    assert load_pretrained(tmp_path / "export-best").card["validation"]["step"] == 4
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run(tmp_path, Script(), config).finished
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_it_stops_with_the_reason_after_as_many_times_as_it_may(tmp_path):
    scores = [2.0, 4.1, 4.1, 4.1, 4.1]
    with pytest.raises(StuckError, match=r"was 2 after outer step 2.*; going back to a checkpoint, times 1, has"):
        run(tmp_path, Script(*scores), changed(max_recoveries=1))
    assert 2 in finished_steps(tmp_path / "checkpoints")
    assert load_pretrained(tmp_path / "export-best").card["validation"]["step"] == 2
    assert [row.get("recovered") for row in rows_of(tmp_path)] == [None, None, 1, 1, 1, 1]


def test_a_scale_of_a_half_is_half_the_step():
    """Theta moves by half as much; the outer optimizer's moments do not see the rate."""
    training, found = CONFIG.build(TASKS, PairLayout(2)), []
    first = training.init(0, ({},))
    start = np.asarray(first.theta["log_learning_rate"])
    for scale in (1.0, 0.5):
        state = jax.tree.map(jnp.copy, first)  # outer_steps takes it
        state, metrics = outer_steps(training, state, ({},), 1, jnp.float32(scale))
        moved = np.asarray(state.theta["log_learning_rate"]) - start
        found.append((moved, metrics["update_norm"][0], jax.tree.map(np.asarray, state.optimizer_state)))
    (whole, norm, moments), (half, half_norm, half_moments) = found
    assert abs(whole) > 1e-3
    np.testing.assert_allclose(half, whole / 2, rtol=1e-4)
    np.testing.assert_allclose(half_norm, norm / 2, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, moments, half_moments)
