"""One inner training as an `InnerProblem`: here a learned optimizer meets a task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.inner_step import TrainState, inner_step
from lopt.meta_training.objective import LOSS_CAP, Objective
from lopt.types import Config, Data, InnerProblem, LearnedOptimizer, Params, PyTree, TaskFamily, Theta


class InnerState(NamedTuple):
    """A trajectory between two inner steps.

    Attributes:
      config: the draw of the family that is trained.
      params: inner parameters.
      optimizer_state: state of the rule.
      corruption_state: state of the task's gradient corruption.
      step: inner steps done, int32.
      horizon: length of the trajectory, int32.
      teacher: state of the teacher; () without one.
    """

    config: Config
    params: Params
    optimizer_state: PyTree
    corruption_state: PyTree
    step: jax.Array
    horizon: jax.Array
    teacher: PyTree = ()


def inner_training(
    optimizer: LearnedOptimizer,
    family: TaskFamily,
    data: Data,
    *,
    objective: Objective = Objective(),
    cap: float = LOSS_CAP,
    outer_step: jax.Array | int = 0,
) -> InnerProblem:
    """The training of a task drawn from `family` by `optimizer`, as a function of theta.

    The rule works in float32 where params are of lower precision. Params and states keep their dtypes.

    The loss of a step is what `objective` makes of the task's normalized losses; with a final objective it is 0 before
    the last step of the horizon. Outer step `outer_step` decides how much a teacher still counts.
    """
    share, teacher = objective.share, objective.teacher
    teaching = jnp.zeros(()) if teacher is None else teacher.weight_at(jnp.asarray(outer_step))

    def init(theta: Theta, key: jax.Array, horizon: jax.Array) -> InnerState:
        config_key, params_key = jax.random.split(key)
        config = family.sample(config_key)
        task = family.task(config)
        params = task.init(params_key)
        states = optimizer.init(theta, _at_least_float32(params), num_steps=horizon), task.corrupt.init(params)
        clock = jnp.zeros((), jnp.int32), jnp.asarray(horizon, jnp.int32)
        return InnerState(
            config, params, *states, *clock, () if teacher is None else teacher.init(_at_least_float32(params))
        )

    def evaluate(theta: Theta, state: InnerState, key: jax.Array) -> jax.Array:
        del theta
        batch_key, loss_key = jax.random.split(key)
        task = family.task(state.config)
        batch = family.sample_batch(data, batch_key, state.config, "meta")
        return objective.cost(task.normalize(task.loss(state.params, loss_key, batch)), cap)

    def step(theta: Theta, state: InnerState, key: jax.Array) -> tuple[InnerState, jax.Array]:
        batch_key, loss_key, evaluate_key = jax.random.split(key, 3)
        task = family.task(state.config)
        batch = family.sample_batch(data, batch_key, state.config, "train")

        def update(grads: Params, own: PyTree, params: Params, value: jax.Array) -> tuple[Params, PyTree]:
            grads, params, value = _at_least_float32((grads, params, value))
            rule, taught = own
            updates, new = optimizer.update(theta, grads, rule, params, value=value)
            if teacher is not None:
                taught = teacher.follow(teaching, grads, taught, params, updates)
            return updates, (optax.tree.cast_like(new, rule), taught)

        before = TrainState(state.params, (state.optimizer_state, state.teacher), state.corruption_state)
        (params, (rule, taught), corruption), value = inner_step(task, update, batch, loss_key, before)
        new_state = InnerState(state.config, params, rule, corruption, state.step + 1, state.horizon, taught)
        if objective.final:
            loss = jax.lax.cond(
                new_state.step >= state.horizon,
                lambda: evaluate(theta, new_state, evaluate_key),
                lambda: jnp.zeros_like(value),
            )
            return new_state, loss
        if share == 0:
            loss = objective.cost(task.normalize(value), cap)
        elif share == 1:
            loss = evaluate(theta, new_state, evaluate_key)
        else:
            fresh = evaluate(theta, new_state, evaluate_key)
            loss = (1 - share) * objective.cost(task.normalize(value), cap) + share * fresh
        if teacher is not None:
            # In this form a step at the cap, whose update is not finite either, stays there to the last bit.
            loss += (teaching * (taught.distance - loss)).astype(loss.dtype)
        return new_state, loss if weight is None else loss * weight(new_state)

    def weigh(state: InnerState) -> jax.Array:
        return objective.weight_of(state.step, state.horizon)

    weight = weigh if objective.power is not None else None
    return InnerProblem(init, step, evaluate, cap=cap, final_loss=objective.final, weight=weight)


def _at_least_float32(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
