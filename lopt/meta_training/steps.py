"""Outer steps, run: one program for a single family; for a mixture one for each family, compiled side by side."""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.distributed import num_cores
from lopt.meta_training.draws import Odds
from lopt.meta_training.outer import MetaTraining, OuterState, Visit
from lopt.types import Data, Estimate, PyTree, Theta

BLOCK_STEPS = 64  # the most outer steps in one call; results do not depend on it
Rows = Mapping[str, Any]  # metrics, `[BLOCK_STEPS]` each


def outer_steps(
    training: MetaTraining,
    state: OuterState,
    data: tuple[Data, ...],
    num_steps: int,
    rate_scale: Any = 1.0,
) -> tuple[OuterState, Rows]:
    """Runs `num_steps` outer steps.

    Args:
      training: what is trained, on what, and how.
      state: donated.
      data: one entry per family.
      num_steps: at most `BLOCK_STEPS`.
      rate_scale: what the outer learning rate is multiplied by, float32.

    Returns:
      The new state, and metrics of `[BLOCK_STEPS]` each, of which the first `num_steps` are filled.
    """
    if len(training.families) == 1 and not training.families_per_step:
        return _one_program(training, state, data, np.asarray(num_steps, np.int32), rate_scale)
    forms = tuple((x.shape, x.dtype) for x in jax.tree.leaves((state.estimator_states, data)))
    return _programs(training, forms, bool(jax.config.read("jax_enable_x64"))).run(state, data, num_steps, rate_scale)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _one_program(
    training: MetaTraining, state: OuterState, data: tuple[Data, ...], num_steps: jax.Array, rate_scale: Any
) -> tuple[OuterState, Rows]:
    """All of the steps in one dispatch. Their number is traced, so that one program serves every block length."""

    def step(state: OuterState) -> tuple[OuterState, Rows]:
        key = jax.random.fold_in(state.key, state.step)
        estimate, new = training.estimate(0, state.theta, state.estimator_states[0], data[0], key, state.step)
        state, metrics = training.follow(state, [estimate], jnp.zeros(1, jnp.int32), rate_scale)
        return state._replace(estimator_states=(new,)), metrics

    rows = jax.tree.map(lambda x: jnp.zeros((BLOCK_STEPS, *x.shape), x.dtype), jax.eval_shape(step, state)[1])

    def body(i: jax.Array, carry: tuple[OuterState, Rows]) -> tuple[OuterState, Rows]:
        state, rows = carry
        state, metrics = step(state)
        return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

    state, rows = jax.lax.fori_loop(0, num_steps, body, (state, rows))
    # As they came in: the compiler's own choice would make the next call another program.
    return jax.lax.with_sharding_constraint(state, training.shardings(state)), training.layout.for_all(rows)


@functools.lru_cache(maxsize=4)
def _programs(training: MetaTraining, forms: tuple, x64: bool) -> "_Programs":
    """The programs that equal trainings on arrays of equal form share: going back or another seed compiles nothing."""
    del forms, x64  # what programs depend on beside the training
    return _Programs(training)


class _Programs:
    """A mixture's programs: the estimate of each family, and the outer step that follows from estimates.

    As one program, a mixture would be compiled by one core, whole, before its first step. A family is compiled before
    the first block that visits it, beside the others of that block.
    """

    def __init__(self, training: MetaTraining):
        self._training = training
        self._estimates: dict[int, jax.stages.Compiled] = {}
        self._odds: Odds | None = None  # until data were seen, on whose shapes they depend

    def run(
        self, state: OuterState, data: tuple[Data, ...], num_steps: int, rate_scale: Any
    ) -> tuple[OuterState, Rows]:
        training, rows, num_steps = self._training, [], int(num_steps)
        if self._odds is None:
            self._odds = training.odds(data)
        visits = np.asarray(_visits(training, state.key, state.step, self._odds))[:num_steps]
        states, rest = list(state.estimator_states), state._replace(estimator_states=())
        self._compile(visits.ravel().tolist(), rest, states, data)
        for drawn in visits:
            estimates: list[Estimate] = []
            for slot, family in enumerate(drawn.tolist()):  # a family that is drawn twice advances by two windows
                arguments = _arguments(rest, states[family], data[family], slot)
                estimate, states[family] = self._estimates[family](*arguments)
                estimates.append(estimate)
            rest, metrics = _follow(training, rest, estimates, drawn, rate_scale, self._odds)
            rows.append(metrics)
        filled = jax.tree.map(lambda *xs: np.stack(xs), *jax.device_get(rows))
        unfilled = BLOCK_STEPS - num_steps
        padded = jax.tree.map(lambda x: np.concatenate([x, np.zeros((unfilled, *x.shape[1:]), x.dtype)]), filled)
        return rest._replace(estimator_states=tuple(states)), padded

    def _compile(
        self, families: Sequence[int], rest: OuterState, states: Sequence[PyTree], data: Sequence[Data]
    ) -> None:
        """Compiles what the families lack, each in a thread of its own; tracing, which is Python, stays in this one."""
        missing = [family for family in dict.fromkeys(families) if family not in self._estimates]
        with ThreadPoolExecutor(num_cores(), thread_name_prefix="compile") as pool:
            compiled = {}
            for family in missing:
                arguments = _arguments(rest, states[family], data[family], 0)
                compiled[family] = pool.submit(_estimate.lower(self._training, family, *arguments).compile)
        self._estimates |= {family: future.result() for family, future in compiled.items()}


def _arguments(rest: OuterState, state: PyTree, data: Data, slot: int) -> tuple[Any, ...]:
    return rest.theta, state, data, rest.key, rest.step, np.int32(slot)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _estimate(
    training: MetaTraining,
    family: int,
    theta: Theta,
    state: PyTree,
    data: Data,
    key: jax.Array,
    step: jax.Array,
    slot: jax.Array,
) -> Visit:
    """A family's estimate at a visit; the key is the run's."""
    key = jax.random.fold_in(key, step)
    if training.families_per_step:
        key = jax.random.fold_in(_draw_keys(key)[1], slot)  # two visits in one step have randomness of their own
    estimate, new = training.estimate(family, theta, state, data, key, step)
    shardings = jax.tree.map(lambda _: training.layout.split, new)
    everywhere = jax.tree.map(lambda _: training.layout.replicated, estimate)
    return jax.lax.with_sharding_constraint((estimate, new), (everywhere, shardings))


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _follow(
    training: MetaTraining,
    rest: OuterState,
    estimates: Sequence[Estimate],
    drawn: jax.Array,
    rate_scale: Any,
    odds: Odds | None,
) -> tuple[OuterState, Rows]:
    """The outer step that follows from estimates, of a state without estimator states."""
    rest, metrics = training.follow(rest, estimates, drawn, rate_scale, odds)
    return jax.lax.with_sharding_constraint(rest, training.shardings(rest)), training.layout.for_all(metrics)


@functools.partial(jax.jit, static_argnums=0)
def _visits(training: MetaTraining, key: jax.Array, step: jax.Array, odds: Odds | None) -> jax.Array:
    """The families that the next `BLOCK_STEPS` outer steps visit, int32 `[BLOCK_STEPS, estimates per step]`."""
    number = training.families_per_step
    if not number:
        return jnp.broadcast_to(jnp.arange(len(training.families)), (BLOCK_STEPS, len(training.families)))
    logits = jnp.log(jnp.asarray(training.shares() if odds is None else odds.chances))

    def draw(step: jax.Array, slot: jax.Array) -> jax.Array:
        draw_key, _ = _draw_keys(jax.random.fold_in(key, step))
        return jax.random.categorical(jax.random.fold_in(draw_key, slot), logits).astype(jnp.int32)

    steps, slots = step + jnp.arange(BLOCK_STEPS), jnp.arange(number)
    return jax.vmap(lambda step: jax.vmap(lambda slot: draw(step, slot))(slots))(steps)


def _draw_keys(step_key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys that draw families, and those of the slots that they are drawn for."""
    draw_key, slots_key = jax.random.split(step_key)
    return draw_key, slots_key
