"""Shipped optimizers that are meant for use: what is loaded by default, and that no training ends above its start."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.pool import read_mixture
from lopt.trained.folders import DEFAULT, shipped_folders
from lopt.trained.shipped import PURPOSES, listed

NAMES = [name for name, row in lopt.shipped().items() if row.purpose]


def test_those_with_a_purpose_ship_and_come_first():
    assert list(PURPOSES) == NAMES == list(shipped_folders())[: len(NAMES)]
    assert NAMES[0] == DEFAULT
    lines = listed(lopt.shipped()).splitlines()
    assert [line.split()[0] for line in lines[: len(NAMES)]] == NAMES
    assert all(any(line.startswith(f"{name} ") for line in lines) for name in shipped_folders())


@pytest.mark.parametrize("load", [lopt.load, lopt.scale_by_learned])
def test_without_a_name_it_is_the_default(load):
    params, grads = {"w": jnp.ones((3, 2))}, {"w": jnp.arange(6.0).reshape(3, 2)}
    updates = []
    for tx in (load(num_steps=10), load(DEFAULT, num_steps=10)):
        updates.append(tx.update(grads, tx.init(params), params, value=jnp.ones(()))[0]["w"])
    np.testing.assert_array_equal(*updates)
    assert lopt.load_pretrained().name == DEFAULT


def losses(name: str, text: str, num_steps: int) -> tuple[float, float]:
    """Normalised loss of the first batch, and mean of those of the last hundred, of one training without a guard."""
    (family,) = read_mixture(text).families
    data = jax.tree.map(jnp.asarray, family.load())
    config = family.sample(jax.random.key(1))
    task = family.task(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # longer than the meta-training, on purpose
        tx = lopt.load(name, num_steps=num_steps)

    def step(carry, key):
        params, state, corruption = carry
        batch = family.sample_batch(data, key, config, "train")
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        grads, corruption = task.corrupt.update(grads, corruption, params)
        updates, state = tx.update(grads, state, params, value=loss)
        return (optax.apply_updates(params, updates), state, corruption), task.normalize(loss)

    @functools.partial(jax.jit, static_argnums=0)
    def run(count):
        params = task.init(jax.random.key(2))
        start = params, tx.init(params), task.corrupt.init(params)
        return jax.lax.scan(step, start, jax.random.split(jax.random.key(3), count))[1]

    seen = np.asarray(run(num_steps))
    return float(seen[0]), float(seen[-100:].mean())


TASK = "image_mlp/digits:hidden_sizes=(16,)"
TRAININGS = {
    "300 steps": (TASK, 300),
    "20 times the longest meta-training": (TASK, 30_000),
    "large parameters": (f"{TASK}+reparametrize:low=100.0:high=100.0", 300),
    "small parameters": (f"{TASK}+reparametrize:low=0.01:high=0.01", 300),
    "mixed units": (f"{TASK}+reparametrize:low=0.01:high=100.0", 300),
    "large losses": (f"{TASK}+scale_loss:low=1e4:high=1e4", 300),
    "small losses": (f"{TASK}+scale_loss:low=1e-4:high=1e-4", 300),
    "noisy gradients": (f"{TASK}+noisy_gradient", 300),
    "delayed gradients": (f"{TASK}+delay_gradient", 300),
    "a convnet": ("image_conv/digits:widths=(8,)", 300),
    "a recurrent net": ("text_rnn/python_source:length=8:batch_size=8:width=16", 300),
    "a quadratic": ("quadratic", 300),
}


@pytest.mark.parametrize(
    "training", [pytest.param(x, marks=pytest.mark.slow if i else ()) for i, x in enumerate(TRAININGS)]
)
@pytest.mark.parametrize("name", NAMES)
def test_no_training_ends_above_its_start(name, training):
    first, last = losses(name, *TRAININGS[training])
    assert last < first
