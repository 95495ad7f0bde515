"""One training against optax in a plain loop, with what a task does to gradients, and what a rule judges."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from optax import contrib

from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.runs import train
from lopt.types import Task
from tests.toy_family import Bowl

STEPS, RATE = 12, 0.3


@dataclasses.dataclass(frozen=True)
class Corrupted(Bowl):
    """Its gradients come at a third of their size, and never above 0.2."""

    @property
    def name(self):
        return "corrupted"

    def task(self, config) -> Task:
        return super().task(config)._replace(corrupt=optax.chain(optax.scale(1 / 3), optax.clip(0.2)))


def by_hand(family, transformation, key, *, corrupt, averaged):
    """Trains one task as anybody would: losses, and the mean losses of its parameters on 16 batches, by steps done."""
    config_key, params_key, steps_key = jax.random.split(key, 3)
    config, data = family.sample(config_key), family.load()
    task = family.task(config)
    params = task.init(params_key)
    state = transformation.init(params)
    losses, valid = [], []

    @jax.jit
    def step(params, state, key):
        batch_key, loss_key = jax.random.split(key)
        batch = family.sample_batch(data, batch_key, config, "train")
        value, grads = jax.value_and_grad(task.loss)(params, loss_key, batch)
        grads = jax.tree.map(lambda g: (g / 3).clip(-0.2, 0.2) if corrupt else g, grads)
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def judge(params, key):
        return task.loss(params, key, family.sample_batch(data, key, config, "valid"))

    for t in range(STEPS):
        params, state, value = step(params, state, jax.random.fold_in(steps_key, t))
        losses.append(float(value))
        judged = contrib.schedule_free_eval_params(state, params) if averaged else params
        valid.append(np.mean([judge(judged, key) for key in jax.random.split(jax.random.key(0), 16)]))
    return losses, np.array(valid)


@pytest.mark.parametrize(
    ("family", "name", "plain"),
    [
        (Corrupted(), "sgdm", optax.sgd(RATE, momentum=0.9)),
        (Bowl(), "schedule_free_adamw", contrib.schedule_free_adamw(RATE, weight_decay=0.01)),
    ],
)
def test_gradients_are_corrupted_and_averages_are_judged(family, name, plain):
    key = jax.random.key(5)
    averaged = name == "schedule_free_adamw"
    corrupt = isinstance(family, Corrupted)
    losses, valid = by_hand(family, plain, key, corrupt=corrupt, averaged=averaged)
    run = jax.jit(train, static_argnums=(0, 2, 7))
    at = [STEPS * i // 20 - 1 for i in range(1, 21)]  # before the second step none is done at some of the moments
    for num_points, shown in ((20, at), (1, [-1]), (0, []), (7, [STEPS * i // 7 - 1 for i in range(1, 8)])):
        found = run(
            BASELINES[name], np.float32(RATE), family, family.load(), key, np.int32(STEPS), np.int32(num_points), STEPS
        )
        np.testing.assert_allclose(found.loss, losses, rtol=1e-5)
        wanted = [valid[i] if i >= 0 or shown == [-1] else None for i in shown]
        measured = found.valid_losses[20 - num_points :]
        for x, y in zip(measured, wanted, strict=True):
            if y is not None:
                np.testing.assert_allclose(x, y, rtol=1e-5)
        assert np.isnan(found.valid_losses[: 20 - num_points]).all()
        assert np.isnan(found.valid_accuracy) == (num_points == 0)
    found = run(BASELINES[name], np.float32(RATE), family, family.load(), key, np.int32(0), np.int32(20), STEPS)
    assert all(np.isnan(x).all() for x in found)
    # Each of the two is far from what it would be without.
    _, otherwise = by_hand(family, plain, key, corrupt=False, averaged=False)
    assert abs(otherwise[-1] - valid[-1]) > 0.01 * valid[-1]
