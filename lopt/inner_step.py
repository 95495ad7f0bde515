"""One step of an inner training, the same in meta-training and in evaluation: batch, gradient, corruption, update."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from lopt.types import Batch, Params, PyTree, Task

# `(grads, state, params, value) -> (updates, state)`: a learned rule with its theta, or an optax transformation.
Update = Callable[[Params, PyTree, Params, jax.Array], tuple[Params, PyTree]]


class TrainState(NamedTuple):
    """An inner training between two steps.

    Attributes:
      params: inner parameters.
      optimizer: state of the rule.
      corruption: state of the task's gradient corruption.
    """

    params: Params
    optimizer: PyTree
    corruption: PyTree


def inner_step(
    task: Task, update: Update, batch: Batch, key: jax.Array, state: TrainState
) -> tuple[TrainState, jax.Array]:
    """Advances an inner training by one step.

    The rule sees the loss and its gradient on `batch` before the update, the gradient after the task's corruption. The
    updates are added to the params, which keep their dtypes.

    Args:
      task: whose loss is descended.
      update: the rule's update.
      batch: a batch of the train split.
      key: for the loss; consumed.
      state: the training before the step.

    Returns:
      The state after the step, and the loss before it, a scalar.
    """
    value, grads = jax.value_and_grad(task.loss)(state.params, key, batch)
    grads, corruption = task.corrupt.update(grads, state.corruption, state.params)
    updates, optimizer = update(grads, state.optimizer, state.params, value)
    return TrainState(optax.apply_updates(state.params, updates), optimizer, corruption), value
