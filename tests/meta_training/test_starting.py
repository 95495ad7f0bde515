"""Theta from the middle of a run, and how many checkpoints a run keeps."""

import shutil
from typing import Any

import numpy as np
import pytest

import lopt
from lopt.names import InputError
from tests.toy_family import Quadratic

SMALL: Any = {"num_pairs": 2, "sigma": 0.1, "truncation": 5, "checkpoint_every": 1, "outer_schedule": "constant"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three outer steps that keeps every checkpoint; in a folder of which orbax would make a pattern."""
    folder = tmp_path_factory.mktemp("starting") / "run[1]"
    return lopt.meta_train(
        "learnable_sgd", Quadratic(), workdir=folder, outer_steps=3, horizon="10:20", keep_checkpoints=0, **SMALL
    )


def steps(run):
    return sorted(int(path.name) for path in (run.workdir / "checkpoints").iterdir())


def test_as_many_checkpoints_are_kept_as_asked_for(run, tmp_path):
    assert steps(run) == [1, 2, 3]
    settings: Any = {**SMALL, "outer_steps": 3, "horizon": "10:20"}
    one = lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path, keep_checkpoints=1, **settings)
    assert steps(one) == [3]
    assert all(np.array_equal(one.theta[name], run.theta[name]) for name in run.theta)
    with pytest.raises(InputError, match="checkpoint_every must be at least 1, not 0"):
        lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path, **{**settings, "checkpoint_every": 0})
    with pytest.raises(InputError, match="keep_checkpoints must be at least 0"):
        lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path, keep_checkpoints=-1, **settings)


def test_a_run_starts_from_the_middle_of_another_with_a_longer_horizon(run, tmp_path):
    """With an outer rate of next to nothing it stays there; the theta of step 2 is not that of step 3."""
    stopped = lopt.meta_train(
        "learnable_sgd", Quadratic(), workdir=tmp_path / "two", outer_steps=3, stop_after=2, horizon="10:20", **SMALL
    )
    other = lopt.meta_train(
        "learnable_sgd",
        Quadratic(dim=5),
        workdir=tmp_path / "other",
        init_from=str(run.workdir / "checkpoints" / "2"),
        outer_steps=1,
        horizon="20:40",
        outer_learning_rate=1e-12,
        **SMALL,
    )
    for name, there in stopped.theta.items():
        np.testing.assert_allclose(other.theta[name], there, rtol=1e-6)
    assert any(abs(run.theta[name] - there) > 1e-4 for name, there in stopped.theta.items())


@pytest.mark.parametrize(
    ("rule", "step", "message"),
    [
        ("learnable_sgd", "7", r"there is no checkpoint .*; there are those of steps 1, 2, 3"),
        ("learnable_adam", "2", "a theta that is not one of this optimizer"),
    ],
)
def test_what_is_no_checkpoint_of_the_rule_is_refused(run, rule, step, message, tmp_path):
    place = str(run.workdir / "checkpoints" / step)
    with pytest.raises(InputError, match=message):
        lopt.meta_train(rule, Quadratic(), workdir=tmp_path / "x", init_from=place, horizon="10:20", **SMALL)
    assert not (tmp_path / "x").exists()


def test_a_run_goes_on_where_what_it_started_from_is_gone(run, tmp_path):
    start = tmp_path / "start" / "checkpoints"
    shutil.copytree(run.workdir / "checkpoints", start)
    settings: Any = {**SMALL, "outer_steps": 2, "horizon": "10:20", "init_from": str(start / "2")}
    first = lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path / "x", stop_after=1, **settings)
    shutil.rmtree(start)
    second = lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path / "x", **settings)
    assert (first.step, second.step) == (1, 2)
    with pytest.raises(InputError):
        lopt.meta_train("learnable_sgd", Quadratic(), workdir=tmp_path / "y", **settings)
