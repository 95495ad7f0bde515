"""The training function against optax in a plain loop; what an evaluation keeps equal between optimizers."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import as_optax, evaluate, scores
from lopt.distributed import PairLayout
from lopt.evaluate import Adam, Evaluation, Learned
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.types import Task

RATE = 0.02
LAYOUTS = [PairLayout(2, sequential=True), PairLayout(1, sequential=False)]


@dataclasses.dataclass(frozen=True)
class Bowl:
    """mean(|w - batch|^power), w and batch `[8]`: noisy batches around the data set's value, a scale for each task."""

    power: int = 2
    start: float = 1.0
    noise: float = 0.3
    traces: ClassVar[list[str]] = []

    @property
    def name(self):
        return "bowl"

    @property
    def streams(self):
        return False

    def load(self, seed=0, block=0):
        return {"train": jnp.ones(8), "valid": jnp.full(8, 1.5)}

    def sample(self, key):
        return {"scale": jax.random.uniform(key, minval=0.5, maxval=2)}

    def task(self, config):
        def loss(params, key, batch):
            del key
            return config["scale"] * jnp.mean(jnp.abs(params["w"] - batch) ** self.power)

        def metrics(params, key, batch):
            self.traces.append(self.name)
            return {"accuracy": jnp.mean(params["w"] > 0)}

        return Task(lambda key: {"w": self.start + jax.random.normal(key, (8,))}, loss, lambda x: x, metrics)

    def sample_batch(self, data, key, config, split):
        return data[split] + self.noise * jax.random.normal(key, (8,))


def learnable_adam(rate=RATE):
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=rate)
    return optimizer, optimizer.init_theta(jax.random.key(0))


def plain_loop(transformation, family, data, key, num_steps):
    """Trains one task as anybody would."""
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config = family.sample(config_key)
    task = family.task(config)
    params = task.init(params_key)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, key):
        batch_key, loss_key = jax.random.split(key)
        batch = family.sample_batch(data, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        updates, state = transformation.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for t in range(num_steps):
        params, state, value = step(params, state, jax.random.fold_in(steps_key, t))
        losses.append(float(value))
    loss = jax.jit(lambda key: task.loss(params, key, family.sample_batch(data, key, config, "valid")))
    return losses, np.mean([loss(key) for key in jax.random.split(jax.random.key(0), evaluate.VALID_BATCHES)])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_runs_equal_a_plain_loop(layout):
    family = Bowl()
    optimizer = OPTIMIZERS["learnable_adam"](learning_rate=RATE, schedule_terms=1)  # a rule that reads the horizon
    initial_theta = optimizer.init_theta(jax.random.key(0))
    theta = {**initial_theta, "schedule": jnp.array([1.5])}
    curves = Evaluation(20, 2, seed=3, learning_rates=(1e-3, RATE), layout=layout).task_curves(
        optimizer, theta, initial_theta, family, family.load()
    )
    assert curves.num_params == 8
    for runs, transformation, seed in [
        (curves.at_rate(0), optax.with_extra_args_support(optax.adam(1e-3)), 1),
        (curves.learned, as_optax(optimizer, theta, num_steps=20), 0),
        (curves.untrained, as_optax(optimizer, initial_theta, num_steps=20), 1),
    ]:
        key = jax.random.fold_in(jax.random.key(3), seed)
        losses, valid_loss = plain_loop(transformation, family, family.load(), key, 20)
        np.testing.assert_allclose(runs.loss[seed], losses, rtol=1e-5)
        np.testing.assert_allclose(runs.valid_loss[seed], valid_loss, rtol=1e-5)
    assert not np.isclose(curves.adam_tuning.loss[0], curves.adam_grid.loss[0]).any()  # other seeds
    assert np.isfinite(curves.adam_long.valid_accuracy).all()


def test_adam_in_disguise_is_adam():
    """On a straight slope of 780 steps both averages of the speed-up lag by the same 19 steps: see `speed_up`."""
    family, (optimizer, theta) = Bowl(power=1, start=100.0), learnable_adam()
    curves = Evaluation(780, 2, learning_rates=(RATE,), layout=LAYOUTS[0]).task_curves(
        optimizer, theta, theta, family, family.load()
    )
    for ours, theirs in zip(curves.learned, curves.at_rate(0), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(curves.adam_long.loss[:, :780], curves.adam_grid.loss[0], rtol=1e-6)
    result = scores.score_task(curves)
    assert abs(result.speed_up - 1) <= 1 / 780
    assert result.ratios["best_adam_by_mean_loss"] == pytest.approx(1, rel=1e-5)


def test_one_program_for_each_task_and_kind_of_optimizer():
    optimizer, theta = learnable_adam()
    family = Bowl(start=2.0)
    evaluation = Evaluation(20, 2, learning_rates=(1e-3, 0.1, 1e30), layout=LAYOUTS[0])
    Bowl.traces.clear()
    curves = evaluation.task_curves(optimizer, theta, theta, family, family.load())
    assert len(Bowl.traces) == 2  # Adam, with its grid, both sets of seeds and the long runs; and the learned rule
    again = dataclasses.replace(evaluation, seed=1).task_curves(optimizer, theta, theta, Bowl(start=2.0), family.load())
    assert len(Bowl.traces) == 2
    assert not np.isclose(curves.learned.loss, again.learned.loss).any()
    # A rate that overflows has diverged, and does not disturb the rest.
    assert scores.diverged(curves.adam_grid.loss).tolist() == [[False] * 2, [False] * 2, [True] * 2]


def test_rules_are_equal_by_value():
    assert Learned(learnable_adam()[0]) == Learned(learnable_adam()[0])
    assert hash(Adam()) == hash(Adam())


@pytest.mark.parametrize(("settings", "message"), [({"horizon": 19}, "horizon"), ({"num_seeds": 0}, "num_seeds")])
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Evaluation(**{"horizon": 100, **settings})
