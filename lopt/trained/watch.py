"""The watch that the guard keeps on the loss: its averages, its noise, and when a rise is more than noise."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Before any progress, a rise counts at once if it exceeds this many average changes of the loss from one step to the
# next. Of 20,000 runs of 500 steps whose losses were Gaussian noise around a mean, at most 0.4% rose so far above their
# first value.
_NUM_STEPS_OF_NOISE = 5.0
# A rise counts, however large the noise, after this many warm-ups without a loss as low as the first.
_NUM_WARM_UPS_ABOVE = 10


class Watch(NamedTuple):
    """What is known of the loss, as float32 scalars.

    Attributes:
      weight: total weight of the values seen in the averages, 1 - decay^t.
      mean: moving average of the loss, divided by `weight`.
      deviation: moving average of |loss - mean|, divided by `weight`.
      fall: moving average of 2 max(previous - loss, 0), divided by `weight`. For noise it is the mean
        |loss - previous|; a loss that only rises adds nothing to it.
      start: the first loss.
      lowest: the lowest loss after the first, infinite before there is one.
      previous: the loss before.
      first: the mean after the warm-up, at most `start`.
      best: the lowest mean since the warm-up, at most `start`.
      best_deviation: the deviation when the mean was at `best`.
    """

    weight: jax.Array
    mean: jax.Array
    deviation: jax.Array
    fall: jax.Array
    start: jax.Array
    lowest: jax.Array
    previous: jax.Array
    first: jax.Array
    best: jax.Array
    best_deviation: jax.Array


def new_watch() -> Watch:
    """The watch before the first loss; every field is an array of its own, so that it can be donated."""
    return Watch(*[jnp.zeros((), jnp.float32) for _ in Watch._fields])


def observe(watch: Watch, loss: jax.Array, step: jax.Array, *, decay: float, warm_up: int) -> Watch:
    """The watch after one more loss. A loss that is not finite leaves the averages as they are."""
    seen, fresh = jnp.isfinite(loss), watch.weight == 0
    loss = jnp.where(seen, loss, watch.mean)
    start = jnp.where(fresh, loss, watch.start)
    lowest = jnp.where(fresh, jnp.inf, jnp.minimum(watch.lowest, loss))
    share = jnp.where(seen, 1 - decay, 0.0)
    weight = watch.weight + share * (1 - watch.weight)
    # The averages are divided by the weight so far, so that the zeros they start from do not count.
    rate = jnp.where(weight > 0, share / jnp.maximum(weight, 1e-12), 0.0)
    mean = watch.mean + rate * (loss - watch.mean)
    deviation = watch.deviation + rate * (jnp.abs(loss - mean) - watch.deviation)
    fall = watch.fall + rate * (2 * jnp.maximum(jnp.where(fresh, loss, watch.previous) - loss, 0) - watch.fall)
    previous = jnp.where(seen, loss, watch.previous)
    # A rule that diverges in the warm-up must not set the standard.
    warm, low = step >= warm_up, jnp.minimum(mean, start)
    first = jnp.where(warm, watch.first, low)
    lower = ~warm | (mean < watch.best)
    best, best_deviation = jnp.where(lower, low, watch.best), jnp.where(lower, deviation, watch.best_deviation)
    return Watch(weight, mean, deviation, fall, start, lowest, previous, first, best, best_deviation)


def has_risen(watch: Watch, step: jax.Array, *, warm_up: int, rise: float, num_deviations: float) -> jax.Array:
    """Whether the mean loss stands above where it was by more than progress and noise excuse, a bool scalar.

    Each standard is a level that the mean is compared with, the rise that counts if there were no noise, and the rise
    that noise explains; `guard` has the equations.
    """
    progressed = (step >= warm_up) & (watch.best < watch.start)
    after_progress = (watch.best, rise * (watch.first - watch.best), num_deviations * watch.best_deviation)
    before_progress = (watch.start, jnp.abs(watch.start), _rise_by_noise_before_progress(watch, step, warm_up))
    level, least_rise, rise_by_noise = (
        jnp.where(progressed, after, before) for after, before in zip(after_progress, before_progress, strict=True)
    )
    risen = watch.mean - level > jnp.maximum(least_rise, rise_by_noise)
    return risen & (step >= warm_up // 2)


def _rise_by_noise_before_progress(watch: Watch, step: jax.Array, warm_up: int) -> jax.Array:
    never_as_low = (step >= _NUM_WARM_UPS_ABOVE * warm_up) & (watch.lowest > watch.start)
    return jnp.where(never_as_low, 0.0, _NUM_STEPS_OF_NOISE * watch.fall)
