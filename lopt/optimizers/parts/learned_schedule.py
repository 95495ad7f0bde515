"""A learning rate that is theta: constant, or on a schedule over the training that is theta as well."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.progress import share_done
from lopt.types import Theta


def init_learning_rate(learning_rate: float, schedule_terms: int) -> dict[str, Any]:
    """Part of theta: `log_learning_rate` and, if there are terms, `schedule`, zeros `[schedule_terms]`."""
    theta = {"log_learning_rate": jnp.asarray(math.log(learning_rate), jnp.float32)}
    if schedule_terms:
        theta["schedule"] = jnp.zeros((schedule_terms,), jnp.float32)
    return theta


def learning_rate(theta: Theta, step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """exp(log_learning_rate + sum_k schedule_k cos(pi k t / T)), k = 1, 2, ...; without `schedule` there is no sum.

    Args:
      theta: has the keys of `init_learning_rate`.
      step: t, the number of updates done.
      num_steps: T, the length of the training.
    """
    log_lr = theta["log_learning_rate"]
    if "schedule" in theta:
        waves = jnp.pi * jnp.arange(1, theta["schedule"].size + 1, dtype=jnp.float32)
        log_lr += theta["schedule"] @ jnp.cos(waves * share_done(step, num_steps))
    return jnp.exp(log_lr)


def init_logit(probability: float) -> jax.Array:
    """ln(p / (1 - p)): a decay within (0, 1) as an unbounded number."""
    return jnp.asarray(math.log(probability / (1 - probability)), jnp.float32)
