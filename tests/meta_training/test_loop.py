"""The loop: resuming equals not stopping, signals, what it writes, and what it refuses."""

import json
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.health import StuckError
from lopt.meta_training.loop import Invocation, train
from lopt.meta_training.stopwatch import KEYS, RATE
from lopt.names import InputError
from lopt.trained.pretrained import load_pretrained
from lopt.types import TaskMixture
from tests.meta_training.times import without_times
from tests.toy_family import Quadratic

TASKS, DATA = TaskMixture((Quadratic(),), (1.0,)), ({},)
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20", outer_steps=4,
    outer_schedule="constant",
)  # fmt: skip


def run(workdir, config=CONFIG, **options):
    training = config.build(TASKS, PairLayout(2))
    return train(training, config, Invocation(workdir=workdir, **options))


def saved(workdir, config=CONFIG):
    with Checkpoints(workdir) as checkpoints:
        step, state = checkpoints.restore(config.build(TASKS, PairLayout(2)).template(DATA))
    return step, [np.asarray(jax.random.key_data(x) if x.dtype == jax.random.key(0).dtype else x)
                  for x in jax.tree.leaves(state)]  # fmt: skip


def rows_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_and_two_steps_are_four_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole) == (4, True, None, whole / "export")
    assert run(parts, stop_after=2, checkpoint_every=1) == (2, False, None, parts / "export")
    with open(parts / "metrics.jsonl", "a") as file:  # as a killed run leaves it: rows after its checkpoint
        file.write('{"step": 3, "meta_loss": 7}\n{"step": 4, "meta')
    assert run(parts).finished
    (step, state), (other_step, other_state) = saved(whole), saved(parts)
    assert step == other_step == 4
    for a, b in zip(state, other_state, strict=True):
        np.testing.assert_array_equal(a, b)
    rows, other_rows = ([without_times(row) for row in rows_of(folder)] for folder in (whole, parts))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows == other_rows
    for name in ("theta.safetensors",):
        assert (whole / "export" / name).read_bytes() == (parts / "export" / name).read_bytes()
    pretrained = load_pretrained(parts)
    np.testing.assert_array_equal(pretrained.theta["log_learning_rate"], state[0])
    assert (pretrained.card["outer_steps"], pretrained.card["horizon"]) == (4, [10, 20])


def test_a_finished_run_is_left_as_it_is_and_may_grow_without_a_schedule(tmp_path):
    run(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert run(tmp_path).finished
    assert {p: p.stat().st_mtime_ns for p in before} == before
    longer = MetaTrainConfig(**{**CONFIG.__dict__, "outer_steps": 6})
    assert run(tmp_path, longer).step == 6


def test_rows_say_where_the_time_went(tmp_path):
    """Every block of outer steps ends with a row of seconds; all of them are within the time of the call."""
    started = time.monotonic()
    run(tmp_path, stop_after=2, checkpoint_every=1)
    run(tmp_path)
    elapsed = time.monotonic() - started
    rows = rows_of(tmp_path)
    timed = [row for row in rows if KEYS[0] in row]
    assert {0, 1} <= {rows.index(row) for row in timed}  # blocks of one step each
    for row in timed:
        assert set(KEYS) <= row.keys()
        assert all(row[key] >= 0 for key in KEYS)
        assert row["seconds_training"] > 0
    assert sum(row[key] for row in timed for key in KEYS if key != RATE) < elapsed
    assert rows[0]["seconds_compiling"] > rows[1]["seconds_compiling"]  # the step's program is there by then
    assert rows[0]["inner_steps"] == 4 * 2 * 5
    assert rows[0][RATE] == pytest.approx(rows[0]["inner_steps"] / rows[0]["seconds_training"])


def test_another_config_is_refused_with_the_difference(tmp_path):
    run(tmp_path, stop_after=1)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"}
    other = MetaTrainConfig(**{**CONFIG.__dict__, "sigma": 0.02})
    with pytest.raises(InputError, match=r"sigma: there 0\.01, asked 0\.02"):
        run(tmp_path, other)
    scheduled = MetaTrainConfig(**{**CONFIG.__dict__, "outer_schedule": "cosine", "outer_steps": 6})
    with pytest.raises(InputError, match="outer_steps: there 4, asked 6"):
        run(tmp_path, scheduled)
    assert {p: p.read_bytes() for p in files} == files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_a_restart_goes_on(tmp_path, number):
    config = MetaTrainConfig(**{**CONFIG.__dict__, "outer_steps": 1_000_000})
    before = signal.getsignal(number)

    def when_running():
        while not (tmp_path / "metrics.jsonl").exists() or not (tmp_path / "metrics.jsonl").stat().st_size:
            threading.Event().wait(0.05)
        os.kill(os.getpid(), number)

    threading.Thread(target=when_running, daemon=True).start()
    outcome = run(tmp_path, config, checkpoint_every=1_000_000)
    assert (outcome.finished, outcome.signal) == (False, number)
    assert signal.getsignal(number) is before
    assert saved(tmp_path, config)[0] == outcome.step > 0
    assert run(tmp_path, config, stop_after=1).step == outcome.step + 1


def test_one_run_a_workdir(tmp_path):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another command is using"):
            run(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_theta_that_is_not_finite_is_not_saved(tmp_path):
    config = MetaTrainConfig(
        **{**CONFIG.__dict__, "outer_optimizer": "sgd", "outer_clip_norm": 0.0, "outer_learning_rate": 3e38,
           "outer_steps": 50}
    )  # fmt: skip
    with pytest.raises(StuckError, match=r"not finite after outer step.*; going back to a checkpoint, times 2, has"):
        run(tmp_path, config, checkpoint_every=1000)
    assert not (tmp_path / "export").exists()
    recoveries = json.loads((tmp_path / "run.json").read_text())["recoveries"]
    assert [recovery["back_to"] for recovery in recoveries] == [0, 0]  # a quarter of the rate is too much as well


def test_a_final_loss_is_refused_before_anything_is_written(tmp_path):
    config = MetaTrainConfig(**{**CONFIG.__dict__, "estimator": "truncated_es", "meta_loss": "final"})
    with pytest.raises(InputError, match="final-loss"):
        run(tmp_path / "x", config)
    assert not (tmp_path / "x").exists()
