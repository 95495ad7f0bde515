"""Draws that several families share."""

import jax
import jax.numpy as jnp


def sample_indices(key: jax.Array, count: int, size: int | jax.Array) -> jax.Array:
    """int32 [count], uniform over 0..size-1.

    Not `randint`, whose integer remainders take a quarter of an inner step's time. Every index gets the same number of
    the 2^23 values of `uniform`, give or take one; the product never rounds up to `size`.
    """
    return (jax.random.uniform(key, (count,)) * size).astype(jnp.int32)
