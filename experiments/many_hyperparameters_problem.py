"""Inner problem of `many_hyperparameters`: widths, learning rates and momenta of an MLP with five hidden layers.

theta, 29 numbers: `{"width": [5], "learning_rate": [12], "momentum": [12]}`, one per hidden layer or one per tensor, in
the order of the layers, weights before bias. Widths and momenta are logits, learning rates natural logarithms.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.meta_training.objective import LOSS_CAP
from lopt.types import Data, InnerProblem, Params, Theta
from tasks.images.image_mlp import ImageMLP

WIDTH = 16
FAMILY = ImageMLP(dataset="mnist_5k", size=8, hidden_sizes=(WIDTH,) * 5, batch_size=64)
BLOCK = 64  # trainings at once
CAP = LOSS_CAP * math.log(FAMILY.num_classes)  # what training that has diverged costs a step, in nats
LAYERS = [f"layer_{i}" for i in range(len(FAMILY.hidden_sizes) + 1)]
SIZES = {"width": len(FAMILY.hidden_sizes), "learning_rate": 2 * len(LAYERS), "momentum": 2 * len(LAYERS)}
START_RANGES = {"width": (0.2, 0.8), "learning_rate": (1e-3, 1e-1), "momentum": (0.01, 0.9)}
FULL_RANGES = {"width": (0.01, 0.999), "learning_rate": (1e-8, 10.0), "momentum": (0.01, 0.999)}


class State(NamedTuple):
    """An inner training.

    Attributes:
      params: of the MLP.
      momentum: a tree like params.
    """

    params: Params
    momentum: Params


@functools.cache
def load() -> Data:
    """The data, 240 kB as bytes: small enough for constants of the compiled program."""
    return FAMILY.load()


def draw_theta(key: jax.Array, ranges: dict[str, tuple[float, float]], num: int) -> Theta:
    """`num` thetas, uniform between the ends of the ranges in the scale of theta."""
    keys = dict(zip(SIZES, jax.random.split(key, len(SIZES)), strict=True))

    def draw(name: str) -> jax.Array:
        low, high = (math.log(x if name == "learning_rate" else x / (1 - x)) for x in ranges[name])
        return jax.random.uniform(keys[name], (num, SIZES[name]), minval=low, maxval=high)

    return {name: draw(name) for name in SIZES}


def kept_units(logit: jax.Array) -> jax.Array:
    """floor(sigmoid(logit) WIDTH), a float."""
    return jnp.floor(jax.nn.sigmoid(logit) * WIDTH)


def masked_loss(params: Params, kept: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy in nats of the MLP in which hidden layer i has only its first `kept[i]` units."""
    x = images
    for i, layer in enumerate(LAYERS):
        x = x @ params[layer]["w"] + params[layer]["b"][None, :]
        if layer != LAYERS[-1]:
            x = jax.nn.relu(x * (jnp.arange(WIDTH) < kept[i])[None, :])
    is_label = labels[:, None] == jnp.arange(FAMILY.num_classes)[None, :]
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(x), axis=-1, where=is_label))


def by_tensor(values: jax.Array) -> Params:
    """Values `[12]` as a tree like params: one scalar per tensor."""
    return {layer: {"w": values[2 * i], "b": values[2 * i + 1]} for i, layer in enumerate(LAYERS)}


def sgd(theta: Theta, state: State, grads: Params) -> State:
    """m <- momentum m + g, p <- p - learning_rate m."""
    rates = by_tensor(jnp.exp(theta["learning_rate"]))
    momenta = by_tensor(jax.nn.sigmoid(theta["momentum"]))
    momentum = jax.tree.map(lambda beta, m, g: beta * m + g, momenta, state.momentum, grads)
    return State(jax.tree.map(lambda p, rate, m: p - rate * m, state.params, rates, momentum), momentum)


def problem(data: Data) -> InnerProblem:
    """The loss of a step is that of a fresh batch of the meta split after the update, in nats, at most CAP."""
    data = jax.tree.map(jnp.asarray, data)
    task = FAMILY.task({})

    def init(theta: Theta, key: jax.Array, horizon: jax.Array) -> State:
        del theta, horizon
        params = task.init(key)
        return State(params, jax.tree.map(jnp.zeros_like, params))

    def step(theta: Theta, state: State, key: jax.Array) -> tuple[State, jax.Array]:
        train_key, meta_key = jax.random.split(key)
        train, meta = FAMILY.sample_batch(data, train_key, {}, "train"), FAMILY.sample_batch(data, meta_key, {}, "meta")
        kept = kept_units(theta["width"])
        state = sgd(theta, state, jax.grad(masked_loss)(state.params, kept, train["image"], train["label"]))
        loss = masked_loss(state.params, kept, meta["image"], meta["label"])
        return state, jnp.where(loss < CAP, loss, CAP)  # False for NaN

    return InnerProblem(init, step, differentiable=False, cap=CAP)


@functools.partial(jax.jit, static_argnames="horizon")
def _objectives(data: Data, thetas: Theta, keys: jax.Array, horizon: int) -> jax.Array:
    training = problem(data)

    def train(theta: Theta, key: jax.Array) -> jax.Array:
        init_key, steps_key = jax.random.split(key)

        def body(t, carry):
            state, total = carry
            state, loss = training.step(theta, state, jax.random.fold_in(steps_key, t))
            return state, total + loss

        start = training.init(theta, init_key, jnp.asarray(horizon)), jnp.zeros(())
        return jax.lax.fori_loop(0, horizon, body, start)[1] / horizon

    return jax.vmap(train)(thetas, keys)


def objectives(data: Data, thetas: Theta, keys: jax.Array, horizon: int) -> np.ndarray:
    """Mean over the steps of one whole training for each theta `[n, ...]` and key `[n]`, `[n]`."""
    size = min(BLOCK, len(keys))
    blocks = np.arange(-(-len(keys) // size) * size).reshape(-1, size) % len(keys)  # all of one shape, so compiled once
    means = []
    for block in blocks:
        thetas_of_block, keys_of_block = jax.tree.map(lambda x, block=block: x[block], (thetas, keys))
        means.append(_objectives(data, thetas_of_block, keys_of_block, horizon))
    return np.concatenate(jax.device_get(means))[: len(keys)]
