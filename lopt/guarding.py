"""A guard around a rule that may diverge: it keeps the best params, and hands over to a rule that is known to hold."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.types import Params, PyTree


class Watch(NamedTuple):
    """What is known of the loss, float32 scalars.

    Attributes:
      weight: of the values seen in the averages, 1 - decay^t.
      mean: moving average of the loss, over `weight`.
      deviation: moving average of |loss - mean|, over `weight`.
      first: the mean after the warm-up.
      best: the lowest mean since.
      best_deviation: the deviation there.
    """

    weight: jax.Array
    mean: jax.Array
    deviation: jax.Array
    first: jax.Array
    best: jax.Array
    best_deviation: jax.Array


class GuardState(NamedTuple):
    """Attributes: step, int32; handed_over, bool; watch; snapshot, params; its step; states of rule and fallback."""

    step: jax.Array
    handed_over: jax.Array
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
    """`rule` until it diverges, then `fallback` from the best params kept; `update` needs `params` and `value`.

    The rule has diverged when a loss or an update is not finite, when an update is longer than `max_update_ratio` times
    the params, or when the loss's moving average m has risen from its lowest b by more than
    max(rise (first - b), num_deviations times the mean absolute deviation of the loss), that is by a share of the
    progress made and by more than noise. Then one update brings the params back to the snapshot, and the fallback goes
    on from there with a fresh state, for good. What is lost are at most the steps since the snapshot, which is taken
    whenever the average is at its lowest and the last one is `snapshot_every` steps old.

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
        return GuardState(steps[0], jnp.zeros((), bool), watch, snapshot, steps[1], *states)

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

        def by_rule() -> tuple[Params, PyTree, PyTree, jax.Array]:
            updates, new = rule.update(grads, state.rule, params, value=value, **extra)
            size = optax.tree.norm(updates)
            sound = jnp.isfinite(size) & (size <= max_update_ratio * optax.tree.norm(params))
            return updates, new, state.fallback, sound

        def by_fallback() -> tuple[Params, PyTree, PyTree, jax.Array]:
            updates, new = fallback.update(grads, state.fallback, params, value=value, **extra)
            return updates, state.rule, new, jnp.ones((), bool)

        updates, rule_state, fallback_state, sound = jax.lax.cond(state.handed_over, by_fallback, by_rule)
        bound = jnp.maximum(rise * (watch.first - watch.best), num_deviations * watch.best_deviation)
        risen = (state.step >= warm_up) & (watch.mean - watch.best > bound)
        diverged = ~state.handed_over & (~sound | ~jnp.isfinite(loss) | risen)
        # The update is not finite only where it is thrown away, and the params stay finite.
        updates = jax.tree.map(
            lambda u, kept, p: jnp.where(diverged, (kept - p).astype(u.dtype), u), updates, state.snapshot, params
        )
        due = (state.step - state.snapshot_step >= snapshot_every) & (watch.mean <= watch.best)
        due &= ~diverged & ~state.handed_over
        snapshot = jax.lax.cond(due, lambda: params, lambda: state.snapshot)
        return updates, GuardState(
            state.step + 1,
            state.handed_over | diverged,
            watch,
            snapshot,
            jnp.where(due, state.step, state.snapshot_step),
            rule_state,
            fallback_state,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _observe(watch: Watch, loss: jax.Array, step: jax.Array, decay: float, warm_up: int) -> Watch:
    """The watch after one more loss; one that is not finite leaves the averages as they are."""
    seen = jnp.isfinite(loss)
    loss = jnp.where(seen, loss, watch.mean)
    share = jnp.where(seen, 1 - decay, 0.0)
    weight = watch.weight + share * (1 - watch.weight)
    # Averages over the weight so far, so that the zeros they start from do not count.
    rate = jnp.where(weight > 0, share / jnp.maximum(weight, 1e-12), 0.0)
    mean = watch.mean + rate * (loss - watch.mean)
    deviation = watch.deviation + rate * (jnp.abs(loss - mean) - watch.deviation)
    warm = step >= warm_up
    first = jnp.where(warm, watch.first, mean)
    lower = ~warm | (mean < watch.best)
    best, best_deviation = jnp.where(lower, mean, watch.best), jnp.where(lower, deviation, watch.best_deviation)
    return Watch(weight, mean, deviation, first, best, best_deviation)
