"""Draws that several families share."""

import jax
import jax.numpy as jnp


def sample_indices(key: jax.Array, count: int, size: int | jax.Array) -> jax.Array:
    """int32 [count], uniform over 0..size-1.

    Not randint: its remainders of whole numbers take a quarter of an inner step's time. Of the 2^23 values of uniform,
    each index gets equally many, give or take one; the product never rounds up to `size`.
    """
    return (jax.random.uniform(key, (count,)) * size).astype(jnp.int32)
