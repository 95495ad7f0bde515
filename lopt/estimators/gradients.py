"""What methods that differentiate share: splitting a state into what has a derivative and the rest, and reverse mode.

The methods see a state as one vector `[S]`, its floating leaves, and `rest`: integers, booleans and keys, whose tangent
is zero. Nothing here differentiates through a `cond` or a mask: a branch that is not taken, or a step after the end of
a trajectory, cannot turn a gradient into NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import pairs, problems, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta

# Differentiable functions of `[P]` theta and `[S]` state. They return `rest`, which has no derivative, last.
InitFn = Callable[[jax.Array], tuple[jax.Array, PyTree]]  # theta -> state, rest
StepFn = Callable[
    [jax.Array, jax.Array], tuple[tuple[jax.Array, jax.Array], PyTree]
]  # theta, state -> (state, loss), rest


def check_differentiable(name: str, problem: InnerProblem) -> None:
    """Raises InputError if d loss / d theta does not exist or is not wanted."""
    if not problem.differentiable:
        raise InputError(
            f"{name} follows derivatives, and this problem is not differentiable. "
            "Take an evolution strategy: pes, truncated_es or full_es."
        )


def split(state: PyTree) -> tuple[jax.Array, PyTree]:
    """`([S], rest)`: the floating leaves as one vector, and all others in the structure of the state."""
    floating, rest = _partition(state)
    return ravel_pytree(floating)[0], rest


def merger(state: PyTree) -> Callable[[jax.Array, PyTree], PyTree]:
    """The inverse of `split`, `([S], rest) -> state`, for states that look like this one."""
    floating, _ = _partition(state)
    _, unravel = ravel_pytree(floating)

    def merge(flat: jax.Array, rest: PyTree) -> PyTree:
        return jax.tree.map(lambda x, y: y if x is None else x, unravel(flat), rest, is_leaf=lambda x: x is None)

    return merge


def _partition(state: PyTree) -> tuple[PyTree, PyTree]:
    leaves, structure = jax.tree.flatten(state)
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
    floating = [x if is_float else None for x, is_float in zip(leaves, floats, strict=True)]
    rest = [None if is_float else x for x, is_float in zip(leaves, floats, strict=True)]
    return jax.tree.unflatten(structure, floating), jax.tree.unflatten(structure, rest)


def init_function(problem: InnerProblem, theta: Theta, key: jax.Array, horizon: jax.Array) -> InitFn:
    """`problem.init` of a flat theta; `theta` gives the structure."""
    _, unravel = ravel_pytree(theta)
    return lambda flat_theta: split(problem.init(unravel(flat_theta), key, horizon))


def step_function(problem: InnerProblem, theta: Theta, state: PyTree, rest: PyTree, key: jax.Array) -> StepFn:
    """`problem.step` of a flat theta and a flat state; `theta` and `state` give the structures."""
    _, unravel = ravel_pytree(theta)
    merge = merger(state)

    def step(flat_theta, flat_state):
        new_state, loss = problem.step(unravel(flat_theta), merge(flat_state, rest), key)
        new_flat, new_rest = split(new_state)
        return (new_flat, loss), new_rest

    return step


class Reversed(NamedTuple):
    """What going through a trajectory's steps and back gives.

    Attributes:
      state: inner state after the steps.
      loss: sum over the steps.
      capped: number of steps whose loss reached the problem's cap.
      grad: `[P]`, d loss / d theta at a fixed first state.
      cotangent: `[S]`, d loss / d first state.
    """

    state: PyTree
    loss: jax.Array
    capped: jax.Array
    grad: jax.Array
    cotangent: jax.Array


def reverse(
    problem: InnerProblem, theta: Theta, state: PyTree, key: jax.Array, num_steps: int | jax.Array, max_steps: int
) -> Reversed:
    """Runs `num_steps` <= `max_steps` inner steps, then goes back through them; the key of step i is `fold_in(key, i)`.

    It is written out since `jax.grad` cannot go back through a loop whose length is known at run time only. The forward
    pass stores the states, `max_steps` of them, and nothing else; the backward pass repeats each step to differentiate
    it.
    """
    flat_theta, _ = ravel_pytree(theta)
    first, first_rest = split(state)
    merge = merger(state)

    def step_at(i, rest):
        return step_function(problem, theta, state, rest, jax.random.fold_in(key, i))

    def forward(i, carry):
        flat, rest, loss, capped, visited = carry
        visited = jax.tree.map(
            lambda store, x: jax.lax.dynamic_update_index_in_dim(store, x, i, 0), visited, (flat, rest)
        )
        (flat, step_loss), rest = step_at(i, rest)(flat_theta, flat)
        is_capped = problems.is_capped(problem, merge(flat, rest), step_loss)
        return flat, rest, loss + step_loss, capped + is_capped, visited

    zero_loss = jnp.zeros((), problems.check_step(problem, theta, state, key))
    visited = jax.tree.map(lambda x: jnp.broadcast_to(x, (max_steps, *x.shape)), (first, first_rest))
    last, last_rest, loss, capped, visited = jax.lax.fori_loop(
        0, num_steps, forward, (first, first_rest, zero_loss, jnp.zeros((), jnp.int32), visited)
    )

    def backward(j, carry):
        grad, cotangent = carry
        i = num_steps - 1 - j
        flat, rest = jax.tree.map(lambda store: jax.lax.dynamic_index_in_dim(store, i, keepdims=False), visited)
        (_, step_loss), pull, _ = jax.vjp(step_at(i, rest), flat_theta, flat, has_aux=True)
        of_theta, of_state = pull((cotangent, jnp.ones_like(step_loss)))
        return grad + of_theta, of_state

    grad, cotangent = jax.lax.fori_loop(0, num_steps, backward, (jnp.zeros_like(flat_theta), jnp.zeros_like(first)))
    return Reversed(merge(last, last_rest), loss, capped, grad, cotangent)


def reverse_window(
    problem: InnerProblem,
    theta: Theta,
    state: PyTree,
    clock: windows.Clock,
    keys: pairs.WindowKeys,
    num_steps: int,
) -> Reversed:
    """`reverse` of one window, from a state that counts as given, or from init(theta), which is differentiated too."""
    flat_theta, _ = ravel_pytree(theta)
    first = windows.start_or_continue(problem, theta, clock, state, keys.init)
    ran = reverse(problem, theta, first, keys.steps, num_steps, num_steps)
    init = init_function(problem, theta, keys.init, clock.horizon)
    through_init = jax.lax.cond(
        clock.starts, lambda: pull_init(init, flat_theta, ran.cotangent), lambda: jnp.zeros_like(flat_theta)
    )
    return ran._replace(grad=ran.grad + through_init)


def pull_init(init: InitFn, flat_theta: jax.Array, cotangent: jax.Array) -> jax.Array:
    """cotangent [S] times d init / d theta, `[P]`."""
    _, pull, _ = jax.vjp(init, flat_theta, has_aux=True)
    return pull(cotangent)[0]


def check_max_norm(max_norm: float | None) -> None:
    """Raises InputError unless a bound of norms is above 0, or None."""
    if max_norm is not None and not max_norm > 0:
        raise InputError(f"max_norm must be above 0, or none for no bound, not {max_norm}")


def shorten(grad: jax.Array, max_norm: float | None) -> jax.Array:
    """min(1, max_norm / |grad|)^2 grad, `[P]`: of norm max_norm at most; the gradient itself without a bound.

    The square makes exploded gradients vanish. Shortened to one norm, they would count like the others, as noise.
    """
    if max_norm is None:
        return grad
    # A chaotic trajectory's gradient may be so long that its square is infinite.
    largest = jnp.maximum(jnp.max(jnp.abs(grad)), 1e-30)
    norm = largest * jnp.linalg.norm(grad / largest)
    return grad * jnp.square(jnp.minimum(1, max_norm / norm))


def flat_shapes(problem: InnerProblem, theta: Theta) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The shapes of theta `[P]` and of the state's floating leaves `[S]`, as vectors."""

    def flatten(theta, key, horizon):
        return ravel_pytree(theta)[0], split(problem.init(theta, key, horizon))[0]

    return jax.eval_shape(flatten, theta, jax.random.key(0), jnp.ones((), jnp.int32))
