"""What changes over a training of the baselines: factors of the learning rate, and the slow average of AdEMAMix.

Each is a function of t, the number of updates done, and T, the number of all. After T, all stay what they are at T.
"""

import jax
import jax.numpy as jnp

WARMUP = 0.05  # share of the steps
SLOW_DECAY, SLOW_WEIGHT, FAST_DECAY = 0.999, 5.0, 0.9


def cosine(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """(1 + cos(pi t / T)) / 2."""
    return 0.5 * (1 + jnp.cos(jnp.pi * (count / num_steps).clip(max=1.0)))


def warmup_cosine(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """A straight line from 1 / W to 1 over the first W = 5 % of the updates, then the cosine over the others."""
    warmup = jnp.maximum(1.0, WARMUP * num_steps)
    return jnp.where(count < warmup, (count + 1) / warmup, cosine(count - warmup, num_steps - warmup)).clip(max=1.0)


def slow_weight(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """Weight of AdEMAMix's slow average, 5 t / T."""
    return SLOW_WEIGHT * (count / num_steps).clip(max=1.0)


def slow_decay(count: jax.Array, num_steps: jax.Array) -> jax.Array:
    """Decay of AdEMAMix's slow average: its half-life rises in a straight line, from that of 0.9 to that of 0.999.

    With s = t / T, b(s) = exp(ln b_0 ln b_1 / ((1 - s) ln b_1 + s ln b_0)).

    Matteo Pagliardini, Pierre Ablin, David Grangier, "The AdEMAMix optimizer: better, faster, older", 2024 (arXiv
    2409.03137).
    """
    share = (count / num_steps).clip(max=1.0)
    first, last = jnp.log(FAST_DECAY), jnp.log(SLOW_DECAY)
    return jnp.exp(first * last / ((1 - share) * last + share * first))
