"""What gradient methods share that go forward through windows and carry what they know of d state / d theta along."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import gradients, pairs, problems, windows
from lopt.types import InnerProblem, PyTree, Theta


class Trajectory(NamedTuple):
    """Every array has a leading axis of `num_pairs` outside of a window.

    Attributes:
      state: inner state.
      carried: what the method knows of d state / d theta.
      clock: where the trajectory stands.
    """

    state: PyTree
    carried: PyTree
    clock: windows.Clock


class Started(NamedTuple):
    """A trajectory between two inner steps.

    Attributes:
      state: floating leaves of the inner state, `[S]`.
      rest: its other leaves.
      carried: what the method knows of d state / d theta.
    """

    state: jax.Array
    rest: PyTree
    carried: PyTree


class Advanced(NamedTuple):
    """A trajectory after an inner step.

    Attributes:
      state: floating leaves of the inner state, `[S]`.
      rest: its other leaves.
      carried: what the method knows of d state / d theta.
      loss: of the step.
      grad: estimate of d loss / d theta, `[P]`.
    """

    state: jax.Array
    rest: PyTree
    carried: PyTree
    loss: jax.Array
    grad: jax.Array


# `(init, theta [P], key)`: the first state of a trajectory, and what is carried of it.
Begin = Callable[[gradients.InitFn, jax.Array, jax.Array], Started]
# `(step, theta [P], state [S], carried, key)`: one inner step.
Advance = Callable[[gradients.StepFn, jax.Array, jax.Array, PyTree, jax.Array], Advanced]


def blank(
    problem: InnerProblem, theta: Theta, clock: windows.Clock, place: Callable[[jax.Array, jax.Array], PyTree]
) -> Trajectory:
    """A trajectory about to start; `place(theta [P], state [S])` gives the carried values in their shapes, of zeros."""
    zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in gradients.flat_shapes(problem, theta)]
    return Trajectory(pairs.blank_state(problem, theta, clock.horizon), place(*zeros), clock)


def window(
    method: windows.WindowedEstimator,
    begin: Begin,
    advance: Advance,
    problem: InnerProblem,
    theta: Theta,
    trajectory: Trajectory,
    key: jax.Array,
) -> tuple[pairs.PairTerms, Trajectory]:
    """One window of one trajectory, step by step."""
    clock, keys = trajectory.clock, pairs.window_keys(key)
    begin_key, advance_key = jax.random.split(keys.noise)
    flat_theta, _ = ravel_pytree(theta)
    init = gradients.init_function(problem, theta, keys.init, clock.horizon)
    first = jax.lax.cond(
        clock.starts,
        lambda: begin(init, flat_theta, begin_key),
        lambda: Started(*gradients.split(trajectory.state), trajectory.carried),
    )

    merge = gradients.merger(trajectory.state)

    def body(i, carry):
        before, loss, grad, capped = carry
        step_key = jax.random.fold_in(keys.steps, i)
        step = gradients.step_function(problem, theta, trajectory.state, before.rest, step_key)
        after = advance(step, flat_theta, before.state, before.carried, jax.random.fold_in(advance_key, i))
        capped += problems.is_capped(problem, merge(after.state, after.rest), after.loss)
        grad += after.grad.astype(grad.dtype)  # the loss may be of another dtype than theta
        return Started(after.state, after.rest, after.carried), loss + after.loss, grad, capped

    zero_loss = jnp.zeros((), problems.check_step(problem, theta, trajectory.state, key))
    end, loss, grad, capped = jax.lax.fori_loop(
        0, method.truncation, body, (first, zero_loss, jnp.zeros_like(flat_theta), jnp.zeros((), jnp.int32))
    )
    new_state = merge(end.state, end.rest)
    terms = method.terms(grad / method.truncation, loss[None] / method.truncation, clock, capped[None])
    return terms, Trajectory(new_state, end.carried, method.tick(clock, keys.horizon))
