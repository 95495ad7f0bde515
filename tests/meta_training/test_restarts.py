"""Restarts in a run: rows say how many, and programs, blocks, devices and resuming are as without them."""

import dataclasses

import jax
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.estimators import PES
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.loop import Invocation, train
from lopt.meta_training.objective import Objective
from lopt.meta_training.steps import outer_steps
from lopt.names import InputError
from lopt.types import TaskMixture
from tests.meta_training import test_loop, test_outer

RISE = 1e-4  # the toy's losses hardly rise
LAYOUTS = [PairLayout(1), PairLayout(2), PairLayout(2, sequential=False)]


def restarting(layout):
    plain = test_outer.of_one_family(layout)
    assert isinstance(plain.estimator, PES)
    estimator = dataclasses.replace(plain.estimator, restarts=0.8, restart_rise=RISE)
    return dataclasses.replace(plain, estimator=estimator, objective=Objective("train", weight="late:2"))


def test_one_trace_blocks_and_devices(caplog):
    found = []
    for layout in LAYOUTS:
        caplog.clear()
        with jax.log_compiles(), caplog.at_level("WARNING"):
            whole, (rows,) = test_outer.run(restarting(layout), 8)
            parts, part_rows = test_outer.run(restarting(layout), 1, 5, 2)
        for event in ("Finished tracing", "Compiling"):
            assert sum(event in message and "_one_program" in message for message in caplog.messages) == 1
        test_outer.assert_same(whole, parts, rtol=0)
        joined = {name: np.concatenate([part[name] for part in part_rows]) for name in rows}
        test_outer.assert_same(rows, joined, rtol=0)
        found.append((whole, rows["restarted"]))
    assert found[0][1].max() > 0
    for whole, restarted in found[1:]:
        np.testing.assert_array_equal(restarted, found[0][1])
        test_outer.assert_same(found[0][0], whole, rtol=1e-5, atol=1e-5)


def test_without_them_there_is_no_row():
    training = dataclasses.replace(restarting(LAYOUTS[0]), estimator=test_outer.of_one_family(LAYOUTS[0]).estimator)
    _, metrics = outer_steps(training, training.init(0, ({},)), ({},), 1)
    assert "restarted" not in metrics


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    config = dataclasses.replace(
        test_loop.CONFIG, estimator=f"nres:restarts=1.0:restart_rise={RISE}:staggered=False", outer_steps=8
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    test_loop.run(whole, config)
    for _ in range(2):
        test_loop.run(parts, config, stop_after=3, checkpoint_every=1)
    assert test_loop.run(parts, config).finished
    (step, state), (other_step, other_state) = test_loop.saved(whole, config), test_loop.saved(parts, config)
    assert step == other_step == 8
    for a, b in zip(state, other_state, strict=True):
        np.testing.assert_array_equal(a, b)
    restarted = [[row["restarted"] for row in test_loop.rows_of(folder)] for folder in (whole, parts)]
    assert restarted[0] == restarted[1]
    assert max(restarted[0]) > 0


def test_a_final_loss_is_refused_before_anything_is_written(tmp_path):
    config = MetaTrainConfig(optimizer="learnable_adam", estimator="pes:restarts=0.5", meta_loss="final")
    training = config.build(TaskMixture(test_loop.TASKS.families, (1.0,)), PairLayout())
    with pytest.raises(InputError, match="restarts compare the losses"):
        train(training, config, Invocation(workdir=tmp_path / "x"))
    assert not (tmp_path / "x").exists()
