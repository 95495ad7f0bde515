"""A guard around a rule that may diverge: it keeps the best params, and hands over to a rule that is known to hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.types import Params, PyTree

# The least root mean square the params are taken to have when an update is compared with them: they may start at zero.
_LEAST_RMS = 0.1
# Before any progress, a rise counts at once beyond so many average steps of the loss from one value to the next: of
# 20,000 runs of 500 steps of noise alone, Gaussian, around a mean, 0.4% at most rise so far above their first value.
_NUM_STEPS_OF_NOISE = 5.0
# And, however large the noise, after so many warm-ups without a loss as low as the first.
_NUM_WARM_UPS_ABOVE = 10


class Watch(NamedTuple):
    """What is known of the loss, float32 scalars.

    Attributes:
      weight: of the values seen in the averages, 1 - decay^t.
      mean: moving average of the loss, over `weight`.
      deviation: moving average of |loss - mean|, over `weight`.
      fall: moving average of 2 max(previous - loss, 0), over `weight`: as noise it is the mean |loss - previous|, and a
        loss that only rises adds nothing to it.
      start: the first loss.
      lowest: the lowest loss after it, infinite before there is one.
      previous: the loss before.
      first: the mean after the warm-up, at most `start`.
      best: the lowest mean since, at most `start`.
      best_deviation: the deviation there.
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


class GuardState(NamedTuple):
    """Attributes: step, int32; handed_over, returning, bool; watch; snapshot, its step; states of rule and fallback."""

    step: jax.Array
    handed_over: jax.Array
    returning: jax.Array
    watch: Watch
    snapshot: Params
    snapshot_step: jax.Array
    rule: PyTree
    fallback: PyTree


def guard(
    rule: optax.GradientTransformation,
    fallback: optax.GradientTransformation,
    *,
    rise: float = 0.5,
    num_deviations: float = 6.0,
    decay: float = 0.95,
    snapshot_every: int = 50,
    max_update_ratio: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """`rule` until it diverges, then `fallback` from the best params; `update` needs `params` and `value`, the loss.

    With m the loss's moving average, l_0 the first loss and b the lowest m, the rule has diverged when
      - a loss or an update is not finite, or an update is longer than `max_update_ratio` times the params, whose root
        mean square counts as 0.1 at least;
      - m - b > max(rise (first - b), num_deviations times the mean absolute deviation of the loss at b): m has risen by
        a share of the progress made and by more than noise;
      - without progress, during the warm-up of W = 1 / (1 - decay) steps and until m < l_0 after it: m - l_0 > |l_0|
        and, from W / 2 on, m - l_0 > 5 times the mean |change| of the loss from step to step, or, from n = 10 W on,
        no loss has been as low as l_0. Rises count as noise only as far as falls make up for them, else a diverging
        loss would excuse itself. The second needs no size of the noise: of n + 1 losses around one level, however
        distributed, the first is as likely the lowest as any other, 1 in n + 1 (200: 0.5%), less if they fall.
    Then two updates bring the params back to the snapshot: the first cancels what is large, to the rounding of that, so
    that the second is exact. The fallback goes on from there with a fresh state, for good. What is lost are at most the
    steps since the snapshot: the first params, and then those wherever the average is at its lowest, not above l_0, and
    the last one is `snapshot_every` steps old.

    Updates have the dtype that gradients and params promote to, and the states of both keep the dtypes of their init.
    All of it is in the state, which holds a copy of the params and the states of both; nothing is read by the host.
    `optax.tree.get(state, "handed_over")` tells which of them is at work.

    Raises:
      InputError: a setting is out of its range; in `update`, `params` or `value` is missing.
    """
    if not (rise > 0 and num_deviations > 0 and max_update_ratio > 0 and snapshot_every >= 1 and 0 < decay < 1):
        raise InputError(
            "rise, num_deviations and max_update_ratio must be above 0, snapshot_every at least 1, decay in (0, 1)"
        )
    rule, fallback = optax.with_extra_args_support(rule), optax.with_extra_args_support(fallback)
    warm_up = round(1 / (1 - decay))

    def init(params: Params) -> GuardState:
        # Separate arrays, and a copy of the params: a state that held one of them twice could not be donated.
        snapshot = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        watch = Watch(*[jnp.zeros((), jnp.float32) for _ in Watch._fields])
        steps = [jnp.zeros((), jnp.int32) for _ in range(2)]
        states = rule.init(params), fallback.init(params)
        return GuardState(steps[0], jnp.zeros((), bool), jnp.zeros((), bool), watch, snapshot, steps[1], *states)

    def update(
        updates: optax.Updates,
        state: Any,  # a GuardState; optax's own type for states would not allow it
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GuardState]:
        grads = updates
        if params is None or value is None:
            raise InputError("a guarded rule watches the loss: call update(grads, state, params, value=loss)")
        loss = jnp.asarray(value, jnp.float32)
        watch = _observe(state.watch, loss, state.step, decay, warm_up)

        def as_params(updates: Params) -> Params:
            return jax.tree.map(lambda u, g, p: u.astype(jnp.result_type(g, p)), updates, grads, params)

        def by_rule() -> tuple[Params, PyTree, PyTree, jax.Array]:
            updates, new = rule.update(grads, state.rule, params, value=value, **extra)
            size, least = optax.tree.norm(updates), _LEAST_RMS * optax.tree.size(params) ** 0.5
            sound = jnp.isfinite(size) & (size <= max_update_ratio * jnp.maximum(optax.tree.norm(params), least))
            return as_params(updates), optax.tree.cast_like(new, state.rule), state.fallback, sound

        def by_fallback() -> tuple[Params, PyTree, PyTree, jax.Array]:
            updates, new = fallback.update(grads, state.fallback, params, value=value, **extra)
            return as_params(updates), state.rule, optax.tree.cast_like(new, state.fallback), jnp.ones((), bool)

        # On the second step of the return the fallback waits; what the rule says then is thrown away.
        at_work = state.handed_over & ~state.returning
        updates, rule_state, fallback_state, sound = jax.lax.cond(at_work, by_fallback, by_rule)
        progress = (state.step >= warm_up) & (watch.best < watch.start)
        share = jnp.where(progress, rise * (watch.first - watch.best), jnp.abs(watch.start))
        above = (state.step >= _NUM_WARM_UPS_ABOVE * warm_up) & (watch.lowest > watch.start)
        noise = jnp.where(above, 0.0, _NUM_STEPS_OF_NOISE * watch.fall)
        noise = jnp.where(progress, num_deviations * watch.best_deviation, noise)
        risen = watch.mean - jnp.where(progress, watch.best, watch.start) > jnp.maximum(share, noise)
        risen &= state.step >= warm_up // 2
        diverged = ~state.handed_over & (~sound | ~jnp.isfinite(loss) | risen)
        # The update is not finite only where it is thrown away, and the params stay finite. With U the spacing of the
        # floats at p, p + (kept - p) is kept rounded to U: 0 or within a factor of 2, whence kept - p is exact.
        updates = jax.tree.map(
            lambda u, kept, p: jnp.where(diverged | state.returning, (kept - p).astype(u.dtype), u),
            updates,
            state.snapshot,
            params,
        )
        due = (state.step - state.snapshot_step >= snapshot_every) & (watch.mean <= watch.best)
        due &= ~diverged & ~state.handed_over
        snapshot = jax.lax.cond(due, lambda: params, lambda: state.snapshot)
        return updates, GuardState(
            state.step + 1,
            state.handed_over | diverged,
            diverged,
            watch,
            snapshot,
            jnp.where(due, state.step, state.snapshot_step),
            rule_state,
            fallback_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _observe(watch: Watch, loss: jax.Array, step: jax.Array, decay: float, warm_up: int) -> Watch:
    """The watch after one more loss; one that is not finite leaves the averages as they are."""
    seen, fresh = jnp.isfinite(loss), watch.weight == 0
    loss = jnp.where(seen, loss, watch.mean)
    start = jnp.where(fresh, loss, watch.start)
    lowest = jnp.where(fresh, jnp.inf, jnp.minimum(watch.lowest, loss))
    share = jnp.where(seen, 1 - decay, 0.0)
    weight = watch.weight + share * (1 - watch.weight)
    # Averages over the weight so far, so that the zeros they start from do not count.
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
