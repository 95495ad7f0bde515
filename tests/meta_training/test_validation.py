"""Validation in a run: when, what it writes, which theta it keeps, and that resuming equals not stopping."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lopt
from lopt.distributed import PairLayout
from lopt.meta_training import validation
from lopt.meta_training.attempt import Invocation
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.exports import Exports
from lopt.meta_training.loop import train
from lopt.meta_training.recovery import Record
from lopt.meta_training.run import Run
from lopt.meta_training.steps import outer_steps
from lopt.meta_training.validation import EMA_SCORE, FALL, FALLS, SCORE, Best, Schedule, Standing
from lopt.meta_training.workdir import finished_steps
from lopt.names import InputError
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.trained.pretrained import load_pretrained
from lopt.types import TaskMixture
from tests.meta_training.times import without_times
from tests.toy_family import Bowl, Quadratic

pytestmark = pytest.mark.xdist_group("loop")  # most tests share a program
TASKS = TaskMixture((Quadratic(),), (1.0,))
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20", outer_steps=12,
    outer_schedule="constant", valid_tasks="made up", valid_every=2, theta_ema=0.9,
)  # fmt: skip


class MadeUp:
    """Scores from a list; remembers the thetas that it was asked about."""

    def __init__(self, scores, average=9.0):
        self.scores, self.average, self.asked = list(scores), average, []

    def prepare(self, thetas, stopped):
        assert not stopped()

    def score(self, thetas):
        self.asked.append([float(theta["log_learning_rate"]) for theta in thetas])
        score = self.scores.pop(0)
        rows = [{SCORE: score, "valid/task": score}, {SCORE: self.average}]
        return rows[: len(thetas)]


def run(workdir, validator, config=CONFIG, **options):
    return train(config.build(TASKS, PairLayout(2)), config, Invocation(workdir, **options), validator)


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_rows_exports_and_checkpoints_and_a_resumed_run_bit_for_bit(tmp_path):
    scores = [3.0, 2.0, 2.5, 2.2, 2.1, 2.4]
    whole, parts, validator = tmp_path / "whole", tmp_path / "parts", MadeUp(scores)
    run(whole, validator, checkpoint_every=3)
    rows = rows_of(whole)
    assert [(row["step"], row[SCORE]) for row in rows if SCORE in row] == list(
        zip(range(2, 13, 2), scores, strict=True)
    )
    assert [row["step"] for row in rows if EMA_SCORE in row and "valid/task" in row] == [2, 4, 6, 8, 10, 12]
    assert sorted(finished_steps(whole / "checkpoints")) == [4, 9, 12]  # the best, and the latest two
    best, newest, average = Run.open(whole).best, load_pretrained(whole), load_pretrained(whole / "export-ema")
    assert (best.name, best.card["outer_steps"]) == ("whole-best", 4)
    assert best.card["validation"] == {"step": 4, "score": 2.0, "theta": "newest", "tasks": "made up"}
    assert float(best.theta["log_learning_rate"]) == validator.asked[1][0]
    assert [float(x.theta["log_learning_rate"]) for x in (newest, average)] == validator.asked[-1]

    run(parts, MadeUp(scores[:2]), stop_after=5, checkpoint_every=2)
    run(parts, MadeUp(scores[2:]), checkpoint_every=4)
    assert list(map(without_times, rows_of(whole))) == list(map(without_times, rows_of(parts)))
    for name in (f"export{kind}/theta.safetensors" for kind in ("", "-ema", "-best")):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    states = []
    for workdir in (whole, parts):
        with Checkpoints(workdir) as checkpoints:
            _, state = checkpoints.restore(CONFIG.build(TASKS, PairLayout(2)).template(({},)))
            states.append(jax.tree.map(np.asarray, (state.theta, state.theta_ema)))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_the_average_is_exported_as_the_best_where_its_score_is_lower(tmp_path):
    rule = LearnableAdam()
    theta = rule.init_theta(jax.random.key(0))
    state: Any = SimpleNamespace(theta=theta, theta_ema=jax.tree.map(lambda x: x + 1, theta))
    exports = Exports(tmp_path, rule, CONFIG, (), Record(tmp_path / "run.json"))
    for averaged, added in ((True, 1), (False, 0)):
        exports.writer(2, state, Best(2, 1.0, averaged))()
        best = load_pretrained(tmp_path / "export-best")
        assert best.card["validation"]["theta"] == ("average" if averaged else "newest")
        jax.tree.map(lambda x, y, added=added: np.testing.assert_array_equal(x, y + added), best.theta, theta)
    assert load_pretrained(tmp_path / "export-ema").card["theta"] == "average"


def test_an_average_is_that_of_all_thetas():
    config = MetaTrainConfig(**{**CONFIG.__dict__, "valid_tasks": ""})
    training = config.build(TASKS, PairLayout(2))
    state = training.init(0, ({},))
    average = np.asarray(state.theta["log_learning_rate"], np.float64)
    for _ in range(5):
        state, _ = outer_steps(training, state, ({},), 1, jnp.float32(1))
        average = 0.9 * average + 0.1 * np.asarray(state.theta["log_learning_rate"], np.float64)
    found: Any = state.theta_ema
    np.testing.assert_allclose(found["log_learning_rate"], average, rtol=1e-6)
    assert float(found["log_learning_rate"]) != float(state.theta["log_learning_rate"])


def test_a_state_without_an_average_is_as_it_was_before_there_were_any():
    """The paths that a checkpoint stores: those of the older versions."""
    template = MetaTrainConfig(**{**CONFIG.__dict__, "theta_ema": 0.0}).build(TASKS, PairLayout(2)).template(({},))
    paths = {jax.tree_util.keystr(path)[:8] for path, _ in jax.tree.leaves_with_path(template)}
    assert paths == {".theta['", ".optimiz", ".estimat", ".step", ".key"}


def test_a_run_that_has_no_best_theta_says_so(tmp_path):
    with pytest.raises(InputError, match="no theta of this run has been validated"):
        _ = Run(tmp_path, 1, 2).best


def test_the_score_has_fallen_off_after_some_in_a_row_and_not_before():
    assert (FALL, FALLS) == (2.0, 2)
    standing = Standing({"step": i, SCORE: score} for i, score in enumerate([1.0, 2.1, 1.9, 2.1], 1))
    assert (standing.falls, standing.fallen_off) == (1, None)
    assert not standing.observe({"step": 5, "meta_loss": 1.0})  # a row without a validation changes nothing
    assert not standing.observe({"step": 6, SCORE: 2.01})
    assert "2.01, and was 1 after outer step 1" in str(standing.fallen_off)
    assert standing.observe({"step": 7, SCORE: 5.0, EMA_SCORE: 0.9})  # the average has not fallen off
    assert (standing.fallen_off, standing.best, standing.shown) == (None, (7, 0.9, True), (0.9, 0.9))


def test_validations_take_a_tenth_of_the_time():
    """0.5 s each, outer steps of 0.01 s: N 0.01 = 9 0.5, N = 450. The first dispatch compiles, and is left out."""
    kept = []
    schedule = Schedule(None, 10_000, kept.append)
    assert schedule.needs_timing
    schedule.note_validation(0.5)
    schedule.note_steps(1, 100.0)
    schedule.note_steps(40, 0.4)
    assert (kept, schedule.next_step(41), schedule.is_due(41), schedule.is_due(10_000)) == ([], 10_000, False, True)
    schedule.note_steps(40, 0.4)
    assert kept == [450]
    assert [schedule.next_step(step) for step in (81, 449, 450, 9_999)] == [450, 450, 900, 10_000]
    assert [step for step in range(1, 10_001) if schedule.is_due(step)] == [*range(450, 10_000, 450), 10_000]
    given = Schedule(7, 20, kept.append)
    given.note_steps(100, 1.0)
    assert ([step for step in range(1, 21) if given.is_due(step)], given.needs_timing) == ([7, 14, 20], False)
    assert kept == [450]


def test_a_run_finds_its_interval_once_and_keeps_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "FEWEST_STEPS", 2)
    config = MetaTrainConfig(**{**CONFIG.__dict__, "valid_every": 0})
    run(tmp_path, MadeUp([3.0] * 99), config, stop_after=6)
    assert json.loads((tmp_path / "run.json").read_text())["valid_every"] >= 1
    (tmp_path / "run.json").write_text(json.dumps({"valid_every": 5, "recoveries": []}))
    run(tmp_path, MadeUp([3.0] * 99), config)
    assert [row["step"] for row in rows_of(tmp_path) if SCORE in row and row["step"] > 6] == [10, 12]
    (tmp_path / "run.json").write_text(json.dumps({"valid_every": 0}))
    with pytest.raises(InputError, match=r"run\.json, in which a run keeps how often it validates"):
        Record.read(tmp_path)


def test_the_whole_of_it_with_trainings_of_a_bowl(tmp_path):
    """Through the front door: a theta that does better on a quadratic does better on a bowl."""
    names = ("num_pairs", "truncation", "horizon", "outer_steps", "outer_schedule", "theta_ema")
    settings: dict[str, Any] = {name: CONFIG.__dict__[name] for name in names}
    settings |= {"workdir": tmp_path / "run", "valid_every": 6, "valid_horizon": 40, "valid_seeds": 2}
    settings |= {"valid_tasks": Bowl(), "cache": tmp_path / "cache"}
    trained = lopt.meta_train("learnable_adam", Quadratic(), **settings)
    history = trained.history
    scores = history[SCORE][[5, 11]]
    assert scores[1] < scores[0] < 10
    assert np.isfinite(history[SCORE]).sum() == 2
    assert trained.best.card["validation"] == {
        "step": 12,
        "score": scores[1],
        "theta": "newest",
        "tasks": "tests.toy_family:Bowl",
    }
    assert len(list((tmp_path / "cache").iterdir())) == 1
    np.testing.assert_allclose(history["valid/bowl"][11], scores[1])
    with pytest.raises(InputError, match=r'valid_tasks: there "tests.toy_family:Bowl", asked ""'):
        lopt.meta_train("learnable_adam", Quadratic(), **{**settings, "valid_tasks": ""})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"valid_horizon": 19}, "valid_horizon must be at least 20, not 19"),
        ({"valid_every": -1}, "valid_every must be at least 0"),
        ({"valid_seeds": 0}, "valid_seeds must be at least 1"),
        ({"max_recoveries": -1}, "max_recoveries must be at least 0"),
        ({"theta_ema": 1.0}, "theta_ema must be at least 0 and below 1, not 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        MetaTrainConfig(**setting)
