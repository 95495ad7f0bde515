"""Moves the state of a training in progress to another horizon, or to another theta."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from lopt.names import InputError
from lopt.trained.transform import LearnedState, check_num_steps
from lopt.trees import describe_leaves, differences
from lopt.types import PyTree, Theta


def carry_over(state: PyTree, *, num_steps: int | None = None, theta: Theta | None = None) -> Any:
    """The same training with another horizon or another theta; what the rule has gathered is kept.

    A restored state goes on with the horizon and the theta that it was begun with, whatever transformation it is given
    to. `lopt.carry_over(state, num_steps=1000)` makes the rule plan for 1,000 updates in all, those done included;
    `theta=lopt.load_pretrained(name).theta` lets it go on with that theta.

    Args:
      state: any state of optax that has states of learned optimizers in it, such as one of a chain; all are moved.
      num_steps: length of the training in updates, counted from its beginning; None leaves it as it is. A rule must
        keep it in fields called `num_steps`, as those that ship do.
      theta: meta-parameters of the same architecture; None leaves them as they are.

    Returns:
      A state of the same structure, shapes and dtypes.

    Raises:
      InputError: there is no learned optimizer in the state, or none that has a horizon, or theta does not fit.
    """
    horizon = None if num_steps is None else check_num_steps(num_steps)
    moved = []

    def move(node: Any) -> Any:
        if not isinstance(node, LearnedState):
            return node
        moved.append((node.inner, 0) if horizon is None else _with_horizon(node.inner, horizon))
        inner, _ = moved[-1]
        return node._replace(inner=inner, theta=node.theta if theta is None else _placed_like(theta, node.theta))

    new = jax.tree.map(move, state, is_leaf=lambda node: isinstance(node, LearnedState))
    if not moved:
        raise InputError("there is no state of a learned optimizer in this state")
    if horizon is not None and not any(number for _, number in moved):
        raise InputError("no rule in this state keeps a num_steps: its horizon cannot be changed")
    return new


def _with_horizon(inner: PyTree, num_steps: int | jax.Array) -> tuple[PyTree, int]:
    """The rule's state with every `num_steps` replaced, and how many there were."""
    from lopt.optimizers.parts.progress import LossAverages  # here, so that `import lopt` does not import Flax

    number = 0

    def move(path: Any, node: Any) -> Any:
        nonlocal number
        if isinstance(node, LossAverages):
            return _with_spans(node, num_steps)
        if any(getattr(entry, "name", getattr(entry, "key", None)) == "num_steps" for entry in path):
            number += 1
            return jnp.full_like(node, num_steps)
        return node

    return jax.tree.map_with_path(move, inner, is_leaf=lambda node: isinstance(node, LossAverages)), number


def _with_spans(averages: Any, num_steps: int | jax.Array) -> Any:
    """Averages of the loss that span another horizon, with the same corrected means as before."""
    from lopt.optimizers.parts.progress import init_loss_averages

    with jax.enable_x64(False):
        decays = init_loss_averages(jnp.asarray(num_steps, jnp.int32)).decays
        weight = 1 - averages.decays**averages.count
        share = jnp.where(averages.count > 0, (1 - decays**averages.count) / jnp.where(weight > 0, weight, 1.0), 1.0)
        return averages._replace(means=averages.means * share, decays=decays)


def _placed_like(theta: Theta, before: Theta) -> Theta:
    """A copy of theta, as the caller may donate the state, placed on the devices where the other one is."""
    if different := differences(describe_leaves(theta), describe_leaves(before)):
        raise InputError(f"theta does not fit this state: {different}")
    leaves = []
    for new, old in zip(jax.tree.leaves(theta), jax.tree.leaves(before), strict=True):
        copy = jnp.array(new, jnp.float32, copy=True)
        leaves.append(copy if isinstance(old, Tracer) else jax.device_put(copy, old.sharding))
    return jax.tree.unflatten(jax.tree.structure(before), leaves)
