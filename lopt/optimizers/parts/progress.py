"""How far a training is, as inputs of the rules that schedule it: its share of the steps done, and its loss.

Luke Metz et al., "VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv 2211.09760).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # of the training
NUM_AVERAGES = 10  # running means of the loss
NUM_PROGRESS_FEATURES = len(FRACTIONS) + NUM_AVERAGES - 1
MAX_LOSS = 1e30  # so that sums and doubles of losses are finite


class LossAverages(NamedTuple):
    """Running means of the loss, the shortest first.

    Attributes:
      means: `[NUM_AVERAGES]`, not corrected for their start at zero.
      minima: `[NUM_AVERAGES]`, the smallest that each corrected mean has been.
      decays: `[NUM_AVERAGES]`.
      count: int32, losses in the means.
    """

    means: jax.Array
    minima: jax.Array
    decays: jax.Array
    count: jax.Array


def fraction_features(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """`[9]`: tanh(10 (t / T - s)) for s of `FRACTIONS`, where t is the number of updates done and T their number."""
    return jnp.tanh(10 * (step / num_steps - jnp.asarray(FRACTIONS, jnp.float32)))


def init_loss_averages(num_steps: jax.Array) -> LossAverages:
    """No loss seen. A mean forgets by 1/e in 10 to `num_steps` losses, spaced evenly in the logarithm."""
    exponents = jnp.arange(NUM_AVERAGES, dtype=jnp.float32) / (NUM_AVERAGES - 1)
    times = 10 * (num_steps / jnp.float32(10)) ** exponents
    minima = jnp.full((NUM_AVERAGES,), MAX_LOSS, jnp.float32)
    return LossAverages(jnp.zeros_like(minima), minima, jnp.exp(-1 / times), jnp.zeros((), jnp.int32))


def update_loss_averages(averages: LossAverages, value: jax.Array) -> LossAverages:
    """Takes in one loss, at most twice the largest mean so far.

    A loss that is not finite counts as that bound; before the first finite loss it does not count at all.
    """
    means, minima, decays, count = averages
    largest = jnp.max(means / (1 - decays ** (count + 1)))
    first = count == 0
    finite = jnp.isfinite(value)
    loss = jnp.clip(jnp.where(finite, value, MAX_LOSS), -MAX_LOSS, MAX_LOSS)
    loss = jnp.where(first, loss, jnp.minimum(2 * jnp.abs(largest), loss))
    new_means = decays * means + (1 - decays) * loss
    new_minima = jnp.minimum(minima, new_means / (1 - decays ** (count + 1)))
    new = LossAverages(new_means, new_minima, decays, count + 1)
    return jax.tree.map(lambda x, old: jnp.where(first & ~finite, old, x), new, averages)


def loss_features(averages: LossAverages) -> jax.Array:
    """`[9]`: where each mean stands between its minimum, -1, and the next longer mean, 0; within [-1, 1].

    Zero for the first two losses, when all means are nearly the same.
    """
    means, minima, decays, count = averages
    means = means / (1 - decays ** jnp.maximum(count, 1))
    span = jnp.maximum(means[1:] - minima[:-1], 1e-8)
    features = jnp.clip((means[:-1] - minima[:-1]) / span - 1, -1, 1)
    return jnp.where(count <= 2, 0.0, features)


def progress_features(step: jax.Array, num_steps: jax.Array, averages: LossAverages) -> jax.Array:
    """`[18]`: `fraction_features` and `loss_features`."""
    return jnp.concatenate([fraction_features(step, num_steps), loss_features(averages)])
