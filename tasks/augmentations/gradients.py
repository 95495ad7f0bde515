"""Corrupted gradients: with noise (`noisy_gradient`), or late (`delay_gradient`)."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from lopt.types import Config, Params, Task, TaskFamily

from ..checks import check_range, check_whole
from .augmented import Augmentation, log_uniform

MOST_STEPS = 1000  # so many gradients of the size of the params are kept


@dataclasses.dataclass(frozen=True)
class NoisyGradient(Augmentation):
    """g + c rms(g) n, n ~ N(0, I), rms over each tensor, with c drawn log-uniformly from `low` to `high`."""

    name: ClassVar[str] = "noisy_gradient"
    low: float = 0.01
    high: float = 1.0

    def __post_init__(self):
        check_range(self.low, self.high)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        scale_key, noise_key = jax.random.split(key)
        return {"scale": log_uniform(scale_key, self.low, self.high), "key": noise_key}

    def task(self, task: Task, draw: Config) -> Task:
        def update(grads: Params, step: jax.Array, params: Any = None) -> tuple[Params, jax.Array]:
            flat, unravel = ravel_pytree(grads)
            noise = unravel(jax.random.normal(jax.random.fold_in(draw["key"], step), flat.shape, flat.dtype))
            noisy = jax.tree.map(lambda g, n: g + draw["scale"] * jnp.sqrt(jnp.mean(g * g)) * n, grads, noise)
            return noisy, step + 1

        return _corrupted(task, lambda params: jnp.zeros((), jnp.int32), update)


@dataclasses.dataclass(frozen=True)
class DelayGradient(Augmentation):
    """The optimizer sees the gradient of d steps ago, at first the first one; d is uniform in 1, ..., `high`."""

    name: ClassVar[str] = "delay_gradient"
    high: int = 8

    def __post_init__(self):
        check_whole(self, high=1, most=MOST_STEPS)

    def sample(self, family: TaskFamily, key: jax.Array, config: Config) -> Config:
        return jax.random.randint(key, (), 1, self.high + 1)

    def task(self, task: Task, draw: Config) -> Task:
        size = self.high + 1

        def init(params: Any) -> tuple[Params, jax.Array]:
            return jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), params), jnp.zeros((), jnp.int32)

        def update(grads: Params, state: Any, params: Any = None) -> tuple[Params, Any]:
            past, step = state
            past = jax.tree.map(lambda x, g: x.at[step % size].set(g), past, grads)
            return jax.tree.map(lambda x: x[jnp.maximum(step - draw, 0) % size], past), (past, step + 1)

        return _corrupted(task, init, update)


def _corrupted(task: Task, init: optax.TransformInitFn, update: Callable[..., Any]) -> Task:
    """The task with one more corruption of its gradients, after those that it has."""
    return task._replace(corrupt=optax.chain(task.corrupt, optax.GradientTransformation(init, update)))
