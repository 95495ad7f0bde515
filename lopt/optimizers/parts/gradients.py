"""Bounds on the elements of a gradient: the one of several published rules, and the one up to which all rules work."""

import jax
import jax.numpy as jnp

from lopt.types import Params

MAX_GRADIENT = 1000.0  # what the published rules clip at
# State and updates of every rule are finite for gradients up to this: a sum of 1e8 squares of it is finite in float32.
# An element of 1e20 would leave a second moment at infinity for good. No training that works has such gradients.
LARGEST_GRADIENT = 1e15


def clip_gradients(grads: Params, bound: jax.Array | float = MAX_GRADIENT) -> Params:
    """Every element limited to [-bound, bound]."""
    return jax.tree.map(lambda g: jnp.clip(g, -bound, bound), grads)
