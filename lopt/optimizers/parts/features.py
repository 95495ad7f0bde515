"""Inputs and networks that per-parameter rules share. Arrays are features-first, `[num_features, n]`, n parameters."""

import jax
import jax.numpy as jnp

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # inner steps


def second_moment_normalize(x: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    """Scales each feature `x[i]` of one tensor to unit mean square: x_i / sqrt(epsilon + mean(x_i^2)).

    Args:
      x: `[num_features, n]`, all n parameters of the tensor.
    """
    return x * jax.lax.rsqrt(epsilon + jnp.mean(jnp.square(x), axis=1, keepdims=True))


def time_features(step: jax.Array) -> jax.Array:
    """`[11]`: tanh(t / s - 1) for s of `TIME_SCALES`, where t is the number of updates done."""
    return jnp.tanh(step / jnp.asarray(TIME_SCALES, jnp.float32) - 1)
