"""One inner training as an `InnerProblem`: here a learned optimizer meets a task."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from lopt.inner_step import TrainState, inner_step
from lopt.names import check_known
from lopt.types import Config, Data, InnerProblem, LearnedOptimizer, Params, PyTree, TaskFamily, Theta

MetaLoss = Literal["train", "meta_batch", "final"]
META_LOSSES = get_args(MetaLoss)

# In units of the trivial predictor's loss. A particle that has diverged pays this for the rest of its horizon, so the
# cap must be well above the cost of a bad start, and low enough that one such particle does not drown the others.
LOSS_CAP = 2.0


class InnerState(NamedTuple):
    """A trajectory between two inner steps.

    Attributes:
      config: the draw of the family that is trained.
      params: inner parameters.
      optimizer_state: state of the rule.
      corruption_state: state of the task's gradient corruption.
      step: inner steps done, int32.
      horizon: length of the trajectory, int32.
    """

    config: Config
    params: Params
    optimizer_state: PyTree
    corruption_state: PyTree
    step: jax.Array
    horizon: jax.Array


def inner_training(
    optimizer: LearnedOptimizer,
    family: TaskFamily,
    data: Data,
    *,
    meta_loss: MetaLoss = "meta_batch",
    cap: float = LOSS_CAP,
) -> InnerProblem:
    """The training of a task drawn from `family` by `optimizer`, as a function of theta.

    The rule works in float32 where params are of lower precision. Params and states keep their dtypes.

    The loss of step t is min(normalize(loss), cap), NaN counted as cap, of
      train: the training batch, before the update;
      meta_batch: a fresh batch of the split `meta`, after the update;
      final: the same at the last step of the horizon, 0 before.
    """
    check_known("meta_loss", meta_loss, META_LOSSES)

    def bounded(normalized: jax.Array) -> jax.Array:
        return jnp.where(normalized < cap, normalized, cap)  # False for NaN

    def init(theta: Theta, key: jax.Array, horizon: jax.Array) -> InnerState:
        config_key, params_key = jax.random.split(key)
        config = family.sample(config_key)
        task = family.task(config)
        params = task.init(params_key)
        states = optimizer.init(theta, _at_least_float32(params), num_steps=horizon), task.corrupt.init(params)
        return InnerState(config, params, *states, jnp.zeros((), jnp.int32), jnp.asarray(horizon, jnp.int32))

    def evaluate(theta: Theta, state: InnerState, key: jax.Array) -> jax.Array:
        del theta
        batch_key, loss_key = jax.random.split(key)
        task = family.task(state.config)
        batch = family.sample_batch(data, batch_key, state.config, "meta")
        return bounded(task.normalize(task.loss(state.params, loss_key, batch)))

    def step(theta: Theta, state: InnerState, key: jax.Array) -> tuple[InnerState, jax.Array]:
        batch_key, loss_key, evaluate_key = jax.random.split(key, 3)
        task = family.task(state.config)
        batch = family.sample_batch(data, batch_key, state.config, "train")

        def update(grads: Params, own: PyTree, params: Params, value: jax.Array) -> tuple[Params, PyTree]:
            updates, new = optimizer.update(
                theta, _at_least_float32(grads), own, _at_least_float32(params), value=_at_least_float32(value)
            )
            return updates, optax.tree.cast_like(new, own)

        train, value = inner_step(task, update, batch, loss_key, TrainState(*state[1:4]))
        new_state = InnerState(state.config, *train, state.step + 1, state.horizon)
        if meta_loss == "train":
            return new_state, bounded(task.normalize(value))
        if meta_loss == "meta_batch":
            return new_state, evaluate(theta, new_state, evaluate_key)
        loss = jax.lax.cond(
            new_state.step >= state.horizon,
            lambda: evaluate(theta, new_state, evaluate_key),
            lambda: jnp.zeros_like(value),
        )
        return new_state, loss

    return InnerProblem(init, step, evaluate, cap=cap, final_loss=meta_loss == "final")


def _at_least_float32(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)
