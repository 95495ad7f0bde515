"""A guard around a rule that may diverge: it keeps the best params and hands over to a rule that is known to hold."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.names import InputError
from lopt.trained.leaves import is_inexact
from lopt.trained.watch import Watch, has_risen, new_watch, observe
from lopt.types import Params, PyTree

# An update is compared with params whose root mean square is taken to be at least this, as they may start at zero.
_LEAST_RMS = 0.1


class GuardState(NamedTuple):
    """The state of `guard`.

    Attributes:
      step: int32, number of updates so far.
      handed_over: bool, whether the rule has diverged.
      returning: bool, whether the next update is the second of the two that bring the snapshot back.
      watch: what is known of the loss.
      snapshot: the params to return to.
      snapshot_step: int32, the step whose params they are.
      rule: state of the rule.
      fallback: state of the fallback.
    """

    step: jax.Array
    handed_over: jax.Array
    returning: jax.Array
    watch: Watch
    snapshot: Params
    snapshot_step: jax.Array
    rule: PyTree
    fallback: PyTree


class _Turn(NamedTuple):
    """The answer of the rule or the fallback, whichever is at work.

    Attributes:
      updates: its updates, in the dtype that gradients and params promote to.
      rule: state of the rule afterwards.
      fallback: state of the fallback afterwards.
      sound: bool, False if the rule's update is not finite or too long.
    """

    updates: Params
    rule: PyTree
    fallback: PyTree
    sound: jax.Array


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
    """Follows `rule` until it diverges, then `fallback` from the best params; `update` needs `params` and `value`.

    Let m be the moving average of the loss, l_0 the first loss, b the lowest m, and W = 1 / (1 - decay) the warm-up in
    steps. The rule has diverged when

    - a loss or an update is not finite, or an update is longer than `max_update_ratio` times the params, whose root
      mean square is taken to be at least 0.1;
    - after the warm-up, once m has been below l_0: m - b > max(rise (first - b), num_deviations d), where `first` is
      m after the warm-up and d the mean absolute deviation of the loss at b. So m has risen by a share of the
      progress made, and by more than noise;
    - before that: m - l_0 > |l_0|, and, from step W / 2 on, m - l_0 > 5 times the mean |change| of the loss from step
      to step or, from step n = 10 W on, no loss has been as low as l_0. Only rises that falls make up for count as
      noise, or else a diverging loss would excuse itself. The last test needs no noise estimate: if n + 1 losses are
      exchangeable, the first is the lowest with probability 1 / (n + 1) (0.5% for n = 200), and less if they fall.

    Two updates then bring the params back to the snapshot: the first cancels what is large, up to rounding, so that the
    second is exact. From there the fallback goes on for good, with a fresh state. The first params are the first
    snapshot. A new one is taken when the last is `snapshot_every` steps old and m is at its lowest and not above l_0,
    so at most the steps since then are lost.

    Updates have the dtype that gradients and params promote to, and the states of rule and fallback keep the dtypes of
    their init. Everything is in the state, which holds a copy of the params; nothing is read by the host. Params may
    hold more than arrays, as an Equinox model does: what has no gradient is left alone.
    `optax.tree.get(state, "handed_over")` tells which of the two is at work.

    Args:
      rule: what may diverge, such as a learned optimizer.
      fallback: what takes over, such as `optax.adamw(1e-3)`.
      rise: share of the progress made by which the mean loss may rise.
      num_deviations: mean absolute deviations of the loss by which the mean loss may rise.
      decay: decay of the moving averages per step.
      snapshot_every: least number of steps between two snapshots.
      max_update_ratio: greatest length of an update, relative to the params.

    Raises:
      InputError: a setting is out of its range; in `update`, `params` or `value` is missing.

    >>> import jax.numpy as jnp
    >>> import optax
    >>> import lopt
    >>> tx = lopt.guard(optax.sgd(1e30), fallback=optax.sgd(0.1))  # a rule that diverges at once
    >>> params = jnp.ones(())
    >>> state = tx.init(params)
    >>> for _ in range(5):
    ...     updates, state = tx.update(params, state, params, value=params**2 / 2)
    ...     params = optax.apply_updates(params, updates)
    >>> bool(optax.tree.get(state, "handed_over")), bool(params < 1)
    (True, True)
    """
    if not (rise > 0 and num_deviations > 0 and max_update_ratio > 0 and snapshot_every >= 1 and 0 < decay < 1):
        raise InputError(
            "rise, num_deviations and max_update_ratio must be above 0, snapshot_every at least 1, decay in (0, 1)"
        )
    rule, fallback = optax.with_extra_args_support(rule), optax.with_extra_args_support(fallback)
    warm_up = round(1 / (1 - decay))

    def init(params: Params) -> GuardState:
        # What cannot have a gradient, such as a function in an Equinox model, is left out.
        params = jax.tree.map(lambda p: p if is_inexact(p) else None, params)
        # Separate arrays, and a copy of the params: a state that held one of them twice could not be donated.
        snapshot = jax.tree.map(lambda p: jnp.array(p, copy=True), params)
        steps = [jnp.zeros((), jnp.int32) for _ in range(2)]
        states = rule.init(params), fallback.init(params)
        return GuardState(steps[0], jnp.zeros((), bool), jnp.zeros((), bool), new_watch(), snapshot, steps[1], *states)

    def update(
        updates: optax.Updates,
        state: Any,  # a GuardState; optax's own type for states would not allow it
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra: Any,
    ) -> tuple[optax.Updates, GuardState]:
        if params is None or value is None:
            raise InputError("a guarded rule watches the loss: call update(grads, state, params, value=loss)")
        grads, params = _trained(updates, state.snapshot), _restricted(params, state.snapshot)
        loss = jnp.asarray(value, jnp.float32)
        watch = observe(state.watch, loss, state.step, decay=decay, warm_up=warm_up)
        turn = _take_turn(rule, fallback, max_update_ratio, grads, state, params, {**extra, "value": value})
        risen = has_risen(watch, state.step, warm_up=warm_up, rise=rise, num_deviations=num_deviations)
        diverged = ~state.handed_over & (~turn.sound | ~jnp.isfinite(loss) | risen)
        answer = _updates_or_return(diverged | state.returning, turn.updates, state.snapshot, params)
        due = (state.step - state.snapshot_step >= snapshot_every) & (watch.mean <= watch.best)
        due &= ~diverged & ~state.handed_over
        return _left_alone(updates, answer), GuardState(
            step=state.step + 1,
            handed_over=state.handed_over | diverged,
            returning=diverged,
            watch=watch,
            snapshot=jax.lax.cond(due, lambda: params, lambda: state.snapshot),
            snapshot_step=jnp.where(due, state.step, state.snapshot_step),
            rule=turn.rule,
            fallback=turn.fallback,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _take_turn(
    rule: optax.GradientTransformationExtraArgs,
    fallback: optax.GradientTransformationExtraArgs,
    max_update_ratio: float,
    grads: optax.Updates,
    state: GuardState,
    params: Params,
    extra: Mapping[str, Any],
) -> _Turn:
    """Asks the fallback once the snapshot is back, and the rule before that."""

    def as_params(updates: optax.Updates) -> Params:
        return jax.tree.map(lambda u, g, p: u.astype(jnp.result_type(g, p)), updates, grads, params)

    def by_rule() -> _Turn:
        updates, new = rule.update(grads, state.rule, params, **extra)
        sound = _is_sound(updates, params, max_update_ratio)
        return _Turn(as_params(updates), optax.tree.cast_like(new, state.rule), state.fallback, sound)

    def by_fallback() -> _Turn:
        updates, new = fallback.update(grads, state.fallback, params, **extra)
        return _Turn(as_params(updates), state.rule, optax.tree.cast_like(new, state.fallback), jnp.ones((), bool))

    # During the second update of the return the fallback waits; what the rule says then is thrown away.
    return jax.lax.cond(state.handed_over & ~state.returning, by_fallback, by_rule)


def _is_sound(updates: optax.Updates, params: Params, max_update_ratio: float) -> jax.Array:
    size, least = optax.tree.norm(updates), _LEAST_RMS * optax.tree.size(params) ** 0.5
    return jnp.isfinite(size) & (size <= max_update_ratio * jnp.maximum(optax.tree.norm(params), least))


def _updates_or_return(back: jax.Array, updates: Params, snapshot: Params, params: Params) -> Params:
    """The updates, or those that bring the params `back` to the snapshot.

    Updates that are not finite are always thrown away here, so the params stay finite. With U the spacing of the floats
    at p, the first return p + (kept - p) is `kept` rounded to U: 0, or within a factor of 2 of `kept`. So the second
    difference kept - p is exact.
    """
    return jax.tree.map(lambda u, kept, p: jnp.where(back, (kept - p).astype(u.dtype), u), updates, snapshot, params)


def _restricted(params: Params, snapshot: Params) -> Params:
    """The params whose like are in the snapshot."""
    return jax.tree.map(lambda kept, p: None if kept is None else p, snapshot, params, is_leaf=_is_none)


def _trained(updates: optax.Updates, snapshot: Params) -> optax.Updates:
    """A gradient for all that is in the snapshot: zeros where there is none, since rule and fallback have a state."""

    def gradient(kept: Any, grad: Any) -> Any:
        return None if kept is None else jnp.zeros_like(kept) if grad is None else grad

    return jax.tree.map(gradient, snapshot, updates, is_leaf=_is_none)


def _left_alone(updates: optax.Updates, answer: optax.Updates) -> optax.Updates:
    """The answer where there was a gradient; what had none is left alone."""
    return jax.tree.map(lambda g, new: g if g is None or new is None else new, updates, answer, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None
