"""Numbers that describe a whole tensor, for rules with a network per tensor."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.blocks import sums


def clipped_log(x: jax.Array) -> jax.Array:
    """ln(1e-8 + |x|), limited to [-5, 5]."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5, 5)


def means_and_variances(groups: Sequence[Sequence[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """Mean and variance over all elements of all arrays of each group, `[num_groups]` each; 0 for no elements.

    Args:
      groups: arrays of one shape.
    """
    counts = [max(len(group) * group[0].size, 1) for group in groups]
    totals = iter(sums([x for group in groups for x in group]))
    means = [_add([next(totals) for _ in group]) / count for group, count in zip(groups, counts, strict=True)]
    # Not the mean of the squares minus the square of the mean: where the mean is large, nothing would be left of it.
    squares = sums([_add([jnp.square(x - mean) for x in group]) for group, mean in zip(groups, means, strict=True)])
    variances = [x / count for x, count in zip(squares, counts, strict=True)]
    return jnp.stack(means).reshape(-1), jnp.stack(variances).reshape(-1)


def _add(arrays: list[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, arrays)


def sums_of_squares(*arrays: jax.Array) -> jax.Array:
    """The sum of squares of each array, `[len(arrays)]`; the arrays have one shape."""
    return jnp.stack(sums([jnp.square(x) for x in arrays])).reshape(-1)


def root(square: jax.Array) -> jax.Array:
    """The square root, with a finite derivative at zero."""
    return jnp.sqrt(square + 1e-30)
