"""Shaping: how much the difference d_i = (L_i+ - L_i-) / 2 of a pair's losses counts in the mean over pairs.

g = 1 / (sigma^2 N) sum_i credit_i s_i, where s_i is

none            d_i
signed          sign(d_i)
standardised    d_i / r, with r^2 = 1/N sum_j d_j^2
rank            sign(d_i) (k_i - 1/2) / N, where |d_i| is the k_i-th smallest of the |d_j|; equal ones share their mean

The last three lose the size of the gradient: what is left is of the order of 1 / sigma, for outer optimizers that
rescale, such as adam, or that clip. All are odd in d_i, so that it does not matter which half of a pair is called +;
nothing is centred, because the mean of the d_i depends on those names alone.

Bias: `standardised` divides all pairs by one number, so each estimate keeps its direction; but an outer step where
differences are large no longer counts more than another. `signed` and `rank` change the direction too: a pair with a
huge difference is no longer heard above the others, whether it is an outlier or the one that says the most.

Where estimates are made window by window, pairs stand at different inner steps, and d_i is that of the window alone.
It is d_i that is shaped, not credit_i d_i: the credit of `pes` grows with the number of windows whether they say
anything or not. Windows of all positions and tasks are ranked together, so windows with small differences, often the
late ones of a training that has converged, are raised, and the estimates of a trajectory's windows no longer add up to
the gradient of its total loss. PES then is not unbiased any more, not even in direction.
"""

import jax
import jax.numpy as jnp

from lopt.names import check_known

PAIR_SHAPINGS = ("none", "signed", "standardised", "rank")
ACROSS_PAIRS = ("standardised", "rank")  # which depend on the differences of all pairs


def check_pair_shaping(kind: str) -> None:
    """Raises InputError unless there is such a shaping."""
    check_known("pair_shaping", kind, PAIR_SHAPINGS)


def shape_one(kind: str, difference: jax.Array) -> jax.Array:
    """s_i of a pair as far as it depends on the pair alone; 1 where `shape_all` tells the rest."""
    if kind in ACROSS_PAIRS:
        return jnp.ones_like(difference)
    return jnp.sign(difference) if kind == "signed" else difference


def shape_all(kind: str, differences: jax.Array, used: jax.Array) -> jax.Array:
    """s_i of all pairs, for a shaping in `ACROSS_PAIRS`.

    Args:
      kind: the shaping.
      differences: d, `[num_pairs]`.
      used: 1, or 0 for a pair that is left out, which neither counts in r and N nor has a rank, `[num_pairs]`.

    Returns:
      `[num_pairs]`, 0 for a pair that is left out and where all differences are 0.
    """
    number = jnp.maximum(used.sum(), 1)
    differences = jnp.where(used > 0, differences, 0)
    if kind == "standardised":
        size = jnp.sqrt(jnp.sum(differences**2) / number)
        return differences / jnp.where(size > 0, size, 1)
    sizes = jnp.abs(differences)
    ordered = jnp.sort(jnp.where(used > 0, sizes, jnp.inf))  # what is left out comes last
    below, up_to = (jnp.searchsorted(ordered, sizes, side=side) for side in ("left", "right"))
    return jnp.sign(differences) * (below + up_to) / (2 * number)
