"""How far a training is, as inputs of a network: the number of steps done, their share of all steps, and the loss.

The share and the loss: Luke Metz et al., "VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv
2211.09760).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # inner steps
FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)  # of the training
NUM_AVERAGES = 10  # running means of the loss
NUM_PROGRESS_FEATURES = len(FRACTIONS) + NUM_AVERAGES - 1
MAX_LOSS = 1e30  # keeps sums and doubles of losses finite


class LossAverages(NamedTuple):
    """Running means of the loss, the one with the shortest memory first.

    Attributes:
      means: `[NUM_AVERAGES]`, not corrected for their start at zero.
      minima: `[NUM_AVERAGES]`, the smallest value so far of each corrected mean.
      decays: `[NUM_AVERAGES]`.
      count: int32, number of losses in the means.
    """

    means: jax.Array
    minima: jax.Array
    decays: jax.Array
    count: jax.Array


def time_features(step: jax.Array) -> jax.Array:
    """tanh(t / s - 1) for the scales s in `TIME_SCALES`, `[11]`; t is the number of updates done."""
    return jnp.tanh(step / jnp.asarray(TIME_SCALES, jnp.float32) - 1)


def share_done(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """t / T, float32 whatever `jax_enable_x64` is; t updates are done of T in all."""
    return step.astype(jnp.float32) / num_steps


def fraction_features(step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """tanh(10 (t / T - s)) for the fractions s in `FRACTIONS`, `[9]`; t updates are done of T in all."""
    return jnp.tanh(10 * (share_done(step, num_steps) - jnp.asarray(FRACTIONS, jnp.float32)))


def init_loss_averages(num_steps: jax.Array) -> LossAverages:
    """Averages of no losses. Their times of decay by 1/e run from 10 to `num_steps` losses in equal ratios."""
    exponents = jnp.arange(NUM_AVERAGES, dtype=jnp.float32) / (NUM_AVERAGES - 1)
    times = 10 * (num_steps / jnp.float32(10)) ** exponents
    minima = jnp.full((NUM_AVERAGES,), MAX_LOSS, jnp.float32)
    return LossAverages(jnp.zeros_like(minima), minima, jnp.exp(-1 / times), jnp.zeros((), jnp.int32))


def update_loss_averages(averages: LossAverages, value: jax.Array) -> LossAverages:
    """Takes in one loss, limited to twice the largest mean so far.

    A loss that is not finite counts as that limit; before the first finite loss it is ignored.
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
    """Where each mean stands between its minimum (-1) and the next longer mean (0), within [-1, 1]; `[9]`.

    The features are zero for the first two losses, when all means are nearly equal.
    """
    means, minima, decays, count = averages
    means = means / (1 - decays ** jnp.maximum(count, 1))
    span = jnp.maximum(means[1:] - minima[:-1], 1e-8)
    features = jnp.clip((means[:-1] - minima[:-1]) / span - 1, -1, 1)
    return jnp.where(count <= 2, 0.0, features)


def loss_drop(averages: LossAverages) -> jax.Array:
    """log of the shortest mean over the longest: 0 at the start, and where a loss is not above 0; a scalar."""
    means = averages.means / (1 - averages.decays ** jnp.maximum(averages.count, 1))
    usable = jnp.minimum(means[0], means[-1]) > 0
    return jnp.where(usable, jnp.log(jnp.where(usable, means[0], 1) / jnp.where(usable, means[-1], 1)), 0.0)


def progress_features(step: jax.Array, num_steps: jax.Array, averages: LossAverages) -> jax.Array:
    """`fraction_features`, then `loss_features`; `[18]`."""
    return jnp.concatenate([fraction_features(step, num_steps), loss_features(averages)])
