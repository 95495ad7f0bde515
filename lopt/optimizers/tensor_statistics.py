"""Numbers that describe a whole tensor, for the rules that look at one from above."""

import jax
import jax.numpy as jnp

from lopt.optimizers.accumulators import mean


def clipped_log(x: jax.Array) -> jax.Array:
    """ln(1e-8 + |x|) within [-5, 5]."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5, 5)


def mean_and_variance(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Over all elements, two scalars; (0, 0) for none."""
    axes = range(x.ndim)
    center = mean(x, axes)
    return center.reshape(()), mean(jnp.square(x - center), axes).reshape(())


def norm(x: jax.Array) -> jax.Array:
    """Euclidean, with a finite derivative at zero."""
    return jnp.sqrt(jnp.sum(jnp.square(x)) + 1e-30)
