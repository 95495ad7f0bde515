"""What a trained optimizer does, in numbers: its response to gradients, a training, its memory. `__main__` draws them.

The parameters always form one matrix, because some rules leave vectors to Adam.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.types import LearnedOptimizer, Theta

HISTORY = 64  # number of gradients looked back upon
DRAWS = 8  # draws of parameters and past gradients; a response is their mean
TRAINED = (8, 8)  # shape of the quadratic's parameters
REMEMBERING = (64, 64)  # shape of the parameters that memory is measured on


class Training(NamedTuple):
    """What is recorded at each step of a training.

    Attributes:
      loss: `[T]`, before the update.
      update: `[T]`, the update's root mean square.
      rate: `[T]`, the effective learning rate -<update, gradient> / |gradient|^2.
    """

    loss: Any
    update: Any
    rate: Any


class Memory(NamedTuple):
    """Average derivatives of a parameter's update, for gradients and parameters drawn from N(0, 1).

    Attributes:
      past: `[HISTORY]`, with respect to the parameter's own gradient of 0, 1, ... steps ago.
      param: with respect to the parameter itself.
      past_error: `[HISTORY]`, standard errors of `past`.
      param_error: standard error of `param`.
      loss: `[n]`, for each of n parameters the change of its update when the loss is 1.5 instead of 0.5.
    """

    past: np.ndarray
    param: float
    past_error: np.ndarray
    param_error: float
    loss: np.ndarray


def normal(*seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values of N(0, 1), the same for every rule."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _replay(optimizer: LearnedOptimizer, theta: Theta, grads: jax.Array, param: jax.Array, loss: jax.Array) -> Any:
    """The last update of one tensor like `param` after gradients `[steps, *shape]`, while the parameters stay put."""
    params = {"w": param}

    def step(state, grad):
        updates, state = optimizer.update(theta, {"w": grad}, state, params, value=loss)
        return state, updates["w"]

    return jax.lax.scan(step, optimizer.init(theta, params, num_steps=2 * len(grads)), grads)[1][-1]


def response(optimizer: LearnedOptimizer, theta: Theta, means: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Updates `[len(means), len(now)]` of parameters whose gradients were `means` + N(0, 1) before and are `now`.

    All parameters are in one matrix, drawn from N(0, 1), so that a rule which normalizes sees the whole grid. Their
    places in it are shuffled, so that rows and columns, which some rules average over, say nothing about gradients.
    """
    shape = (len(means), len(now))
    draws = []
    for draw in range(DRAWS):
        past = means[None, :, None] + normal(0, draw, shape=(HISTORY, *shape))
        grads = np.concatenate([past, np.broadcast_to(now, (1, *shape))]).reshape(HISTORY + 1, -1)
        places = np.random.default_rng((1, draw)).permutation(grads.shape[1])
        shuffled = jnp.asarray(grads[:, places].reshape(-1, *shape), jnp.float32)
        param = jnp.asarray(normal(2, draw, shape=shape))
        updates = np.asarray(_replay(optimizer, theta, shuffled, param, jnp.asarray(1.0)))
        draws.append(updates.reshape(-1)[np.argsort(places)].reshape(shape))
    return np.mean(draws, axis=0)


@functools.partial(jax.jit, static_argnums=0)
def _train(optimizer: LearnedOptimizer, theta: Theta, start: jax.Array, noise: jax.Array) -> Training:
    curvature = jnp.logspace(-2, 0, start.size).reshape(start.shape)

    def step(carry, noise):
        params, state = carry
        value = jnp.sum(curvature * params["x"] ** 2) / 2
        grads = {"x": curvature * params["x"] + noise}
        updates, state = optimizer.update(theta, grads, state, params, value=value)
        u, g = updates["x"], grads["x"]
        seen = Training(value, jnp.sqrt(jnp.mean(u * u)), -jnp.sum(u * g) / jnp.sum(g * g))
        return ({"x": params["x"] + u}, state), seen

    params = {"x": start}
    return jax.lax.scan(step, (params, optimizer.init(theta, params, num_steps=len(noise))), noise)[1]


def train(optimizer: LearnedOptimizer, theta: Theta, num_steps: int) -> Training:
    """Trains 64 parameters from N(0, 1) on sum_i h_i x_i^2 / 2, h from 0.01 to 1, with gradient noise of size 0.1."""
    start = jnp.asarray(normal(3, shape=TRAINED))
    noise = jnp.asarray(0.1 * normal(4, shape=(num_steps, *TRAINED)))
    return Training(*map(np.asarray, _train(optimizer, theta, start, noise)))


def remember(optimizer: LearnedOptimizer, theta: Theta) -> Memory:
    """Average derivatives by linear regression over 4,096 parameters, at a loss of 1.

    The regression finds E[u x], which by Stein's lemma is E[du/dx] for x ~ N(0, 1). This counts jumps of the update,
    as at a gradient's change of sign, which derivatives at single points would miss.
    """
    grads, param = normal(5, shape=(HISTORY, *REMEMBERING)), normal(6, shape=REMEMBERING)

    def updates(loss: float) -> np.ndarray:
        last = _replay(optimizer, theta, jnp.asarray(grads), jnp.asarray(param), jnp.asarray(loss))
        return np.asarray(last, np.float64).reshape(-1)

    inputs = np.stack([*grads[::-1].reshape(HISTORY, -1), param.reshape(-1), np.ones(param.size)], 1).astype(np.float64)
    observed = updates(1.0)
    slopes = np.linalg.lstsq(inputs, observed)[0]
    residual = observed - inputs @ slopes
    variance = residual @ residual / (len(inputs) - inputs.shape[1])
    errors = np.sqrt(variance * np.diag(np.linalg.inv(inputs.T @ inputs)))
    reads_loss = "value" in optimizer.requires
    loss = updates(1.5) - updates(0.5) if reads_loss else np.zeros(param.size)
    return Memory(slopes[:HISTORY], float(slopes[HISTORY]), errors[:HISTORY], float(errors[HISTORY]), loss)
