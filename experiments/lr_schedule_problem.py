"""Inner problem of `lr_schedule`: SGD with momentum and a decaying learning rate trains a small MLP on digits.

The schedule is lr_t = lr0 / (1 + t / T)^d for update t = 0, ..., T - 1, and theta = (ln lr0, ln d).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.distributed import default_layout
from lopt.meta_training.objective import LOSS_CAP
from lopt.types import Data, InnerProblem, Params
from tasks.images.image_mlp import ImageMLP

FAMILY = ImageMLP(dataset="mnist_5k", size=8, hidden_sizes=(32, 32), batch_size=100)
TASK = FAMILY.task({})
MOMENTUM = 0.9
CAP = LOSS_CAP * math.log(FAMILY.num_classes)  # what training that has diverged costs a step, in nats


class State(NamedTuple):
    """An inner training.

    Attributes:
      params: of the MLP.
      momentum: a tree like params.
      t: updates made, int32.
      horizon: T, int32.
    """

    params: Params
    momentum: Params
    t: jax.Array
    horizon: jax.Array


@functools.cache
def load() -> Data:
    """The data, 240 kB as bytes: small enough for constants of the compiled program."""
    return jax.tree.map(jnp.asarray, FAMILY.load())


def learning_rate(theta: jax.Array, t: jax.Array, horizon: jax.Array) -> jax.Array:
    """lr0 / (1 + t / T)^d, for theta `[2]`."""
    return jnp.exp(theta[0] - jnp.exp(theta[1]) * jnp.log1p(t / horizon))


def train_loss(data: Data, params: Params, key: jax.Array) -> jax.Array:
    """Cross-entropy of a batch of the train split, in nats, at most CAP; NaN counts as CAP."""
    loss = TASK.loss(params, key, FAMILY.sample_batch(data, key, {}, "train"))
    return jnp.where(loss < CAP, loss, CAP)  # False for NaN


def minus_accuracy(data: Data, params: Params, key: jax.Array) -> jax.Array:
    """Minus the accuracy on a batch of the meta split: piecewise constant, so without a useful derivative."""
    return -TASK.metrics(params, key, FAMILY.sample_batch(data, key, {}, "meta"))["accuracy"]


OBJECTIVES = {"loss": train_loss, "accuracy": minus_accuracy}


def problem(data: Data, objective: str) -> InnerProblem:
    """The loss of a step is the objective, one of OBJECTIVES, of a fresh batch after the update."""

    def init(theta: jax.Array, key: jax.Array, horizon: jax.Array) -> State:
        del theta
        params = TASK.init(key)
        momentum = jax.tree.map(jnp.zeros_like, params)
        return State(params, momentum, jnp.zeros((), jnp.int32), jnp.asarray(horizon, jnp.int32))

    def step(theta: jax.Array, state: State, key: jax.Array) -> tuple[State, jax.Array]:
        batch_key, objective_key = jax.random.split(key)
        grads = jax.grad(TASK.loss)(state.params, batch_key, FAMILY.sample_batch(data, batch_key, {}, "train"))
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, state.momentum, grads)
        rate = learning_rate(theta, state.t, state.horizon)
        params = jax.tree.map(lambda p, m: p - rate * m, state.params, momentum)
        state = State(params, momentum, state.t + 1, state.horizon)
        return state, OBJECTIVES[objective](data, params, objective_key)

    if objective == "accuracy":
        return InnerProblem(init, step, differentiable=False)
    return InnerProblem(init, step, cap=CAP)


def true_objectives(data: Data, thetas: np.ndarray, horizon: int, num_seeds: int) -> dict[str, np.ndarray]:
    """Training loss, and minus the accuracy, each the mean over a training of T steps at a fixed theta.

    Args:
      thetas: `[n, 2]`. All meet the same seeds: differences between thetas are less noisy than the values.

    Returns:
      `{objective: [n, num_seeds]}`.
    """
    training = problem(data, "loss")

    def train(theta_and_key: tuple[jax.Array, jax.Array]) -> jax.Array:
        theta, key = theta_and_key
        init_key, steps_key, accuracy_key = jax.random.split(key, 3)

        def body(t: jax.Array, carry: tuple[State, jax.Array]) -> tuple[State, jax.Array]:
            state, totals = carry
            state, loss = training.step(theta, state, jax.random.fold_in(steps_key, t))
            accuracy = minus_accuracy(data, state.params, jax.random.fold_in(accuracy_key, t))
            return state, totals + jnp.stack([loss, accuracy])

        start = training.init(theta, init_key, jnp.asarray(horizon))
        return jax.lax.fori_loop(0, horizon, body, (start, jnp.zeros(2)))[1] / horizon

    keys = jax.random.split(jax.random.key(0), num_seeds)
    trainings = jnp.repeat(jnp.asarray(thetas, jnp.float32), num_seeds, 0), jnp.tile(keys, len(thetas))
    layout = default_layout(len(thetas) * num_seeds)
    means = np.asarray(jax.jit(functools.partial(layout.map_pairs, train))(trainings))
    return {objective: means[:, i].reshape(-1, num_seeds) for i, objective in enumerate(OBJECTIVES)}
