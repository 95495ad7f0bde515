"""Tunes AdamW's learning-rate schedule and weight decay on your own loss: `python examples/tune_optax.py`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout that is not installed
import lopt

NUM_STEPS = 200
images, labels = load_digits(return_X_y=True)
data = {"x": jnp.asarray(images / 16), "y": jnp.asarray(labels)}


def init(key):
    first, second = jax.random.split(key)
    return {"hidden": 0.2 * jax.random.normal(first, (64, 32)), "out": 0.2 * jax.random.normal(second, (32, 10))}


def loss_on(rows, params, data):
    logits = jax.nn.relu(data["x"][rows] @ params["hidden"]) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, data["y"][rows]).mean()


def train_loss(params, key, data):  # a batch of the first 1,000 images
    return loss_on(jax.random.randint(key, (64,), 0, 1000), params, data)


def valid_loss(params, key, data):  # a batch of the rest
    return loss_on(jax.random.randint(key, (64,), 1000, len(labels)), params, data)


tuned = lopt.tune(
    optax.adamw,
    {"learning_rate": lopt.Tunable(1e-3, knots=4), "weight_decay": lopt.Tunable(1e-4)},
    init=init,
    loss=train_loss,
    objective=valid_loss,
    data=data,
    num_steps=NUM_STEPS,
    num_updates=60,
)
print({name: jnp.round(value, 5).tolist() for name, value in tuned.hyperparameters.items()})


def valid_loss_after_training(optimizer):
    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(train_loss)(params, key, data), state, params)
        return (optax.apply_updates(params, updates), state), None

    params, keys = init(jax.random.key(1)), jax.random.split(jax.random.key(2), NUM_STEPS)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return loss_on(jnp.arange(1000, len(labels)), params, data)


print(f"AdamW at 1e-3: {valid_loss_after_training(optax.adamw(1e-3)):.4f}")
print(f"AdamW, tuned: {valid_loss_after_training(tuned.optimizer):.4f}")
