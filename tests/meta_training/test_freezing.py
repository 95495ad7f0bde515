"""Frozen parts of theta are neither perturbed nor updated; a run starts from another one's theta."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.distributed import PairLayout
from lopt.meta_training.checkpoint import Checkpoints
from lopt.meta_training.config import MetaTrainConfig
from lopt.meta_training.freezing import split_theta
from lopt.meta_training.loop import Invocation, train
from lopt.meta_training.steps import outer_steps
from lopt.names import InputError
from lopt.types import TaskMixture
from tests.toy_family import Quadratic

LAYOUT = PairLayout(2)
TASKS = TaskMixture((Quadratic(),), (1.0,))
CONFIG = MetaTrainConfig(
    optimizer="learnable_adam:learning_rate=0.05", tasks="quadratic", num_pairs=4, truncation=5, horizon="10:20",
    outer_steps=2, outer_schedule="constant",
)  # fmt: skip


def replace(**settings):
    return dataclasses.replace(CONFIG, **settings)


def test_split_and_rebuild():
    theta = {"a": {"x": jnp.ones(2), "xy": jnp.zeros(1)}, "b": jnp.full(3, 2.0)}
    free, rebuild = split_theta(theta, ("a/x",))
    assert sorted(free) == ["a/xy", "b"]
    again = rebuild({path: leaf + 1 for path, leaf in free.items()})
    assert jax.tree.map(lambda x: x.tolist(), again) == {"a": {"x": [1, 1], "xy": [1]}, "b": [3, 3, 3]}
    assert sorted(split_theta(theta, ("a",))[0]) == ["b"]
    whole, same = split_theta(theta, ())
    assert whole is theta
    assert same(theta) is theta


@pytest.mark.parametrize("estimator", ["pes", "tbptt"])
def test_frozen_parts_stay_and_the_others_move_as_if_they_were_alone(estimator):
    training = replace(freeze="logit_b1, logit_b2", estimator=estimator).build(TASKS, LAYOUT)
    state = training.init(0, ({},))
    before = jax.tree.map(np.asarray, state.theta)
    state, metrics = outer_steps(training, state, ({},), 2)
    assert state.theta["logit_b1"] == before["logit_b1"]
    assert state.theta["logit_b2"] == before["logit_b2"]
    assert state.theta["log_learning_rate"] != before["log_learning_rate"]
    # Perturbed along one axis alone, PES's credit has one number a pair.
    if estimator == "pes":
        assert state.estimator_states[0].credit.shape == (4, 1)
    np.testing.assert_allclose(metrics["update_norm"][:2], np.full(2, 0.01), rtol=0.5)  # Adam's first steps


def test_a_run_starts_from_another_ones_theta(tmp_path):
    first = train(CONFIG.build(TASKS, LAYOUT), CONFIG, Invocation(workdir=tmp_path / "first"))
    config = replace(init_from=str(tmp_path / "first"), freeze="logit_b1,logit_b2", seed=3)
    training = config.build(TASKS, LAYOUT)
    train(training, config, Invocation(workdir=tmp_path / "second"))
    thetas = []
    for name in ("first", "second"):
        with Checkpoints(tmp_path / name) as checkpoints:
            run_training = (CONFIG if name == "first" else config).build(TASKS, LAYOUT)
            thetas.append(checkpoints.restore(run_training.template(({},)))[1].theta)
    assert first.finished
    assert thetas[0]["logit_b1"] == thetas[1]["logit_b1"]
    np.testing.assert_raises(AssertionError, np.testing.assert_allclose, thetas[0]["logit_b1"], np.log(9), rtol=1e-4)
    np.testing.assert_allclose(thetas[1]["log_learning_rate"], thetas[0]["log_learning_rate"], atol=0.03)
    assert thetas[1]["log_learning_rate"] != thetas[0]["log_learning_rate"]


def test_a_theta_of_another_form_is_refused_before_anything_is_written(tmp_path):
    train(CONFIG.build(TASKS, LAYOUT), CONFIG, Invocation(workdir=tmp_path / "first"))
    other = replace(optimizer="learnable_adam:schedule_terms=2", init_from=str(tmp_path / "first"))
    with pytest.raises(InputError, match="schedule"):
        train(other.build(TASKS, LAYOUT), other, Invocation(workdir=tmp_path / "second"))
    assert not (tmp_path / "second").exists()
    missing = replace(init_from=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="nothing"):
        train(missing.build(TASKS, LAYOUT), missing, Invocation(workdir=tmp_path / "second"))


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("logit_b", "cannot freeze 'logit_b'.*logit_b1"),
        ("logit_b1,logit_b2,log_learning_rate", "nothing of theta to train"),
    ],
)
def test_freezing_what_is_not_there_or_all_of_it(freeze, message):
    with pytest.raises(InputError, match=message):
        replace(freeze=freeze)
