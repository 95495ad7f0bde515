"""The bound on the elements of a gradient that several published rules share."""

import jax
import jax.numpy as jnp

from lopt.types import Params

MAX_GRADIENT = 1000.0


def clip_gradients(grads: Params, bound: jax.Array | float = MAX_GRADIENT) -> Params:
    """Every element limited to [-bound, bound]."""
    return jax.tree.map(lambda g: jnp.clip(g, -bound, bound), grads)
