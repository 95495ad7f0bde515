"""What gradients through unrolled computations share: splitting a state, walking a window forward or back, the mean.

The methods see a state as one vector `[S]`, its floating leaves, and `rest`: integers, booleans and keys, whose tangent
is zero. Nothing here differentiates through a `cond` or a mask: a branch that is not taken, or a step after the end of
a trajectory, cannot turn a gradient into NaN.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta

# Functions of `[P]` theta and `[S]` state that can be differentiated. What they return last is carried along.
InitFn = Callable[[jax.Array], tuple[jax.Array, PyTree]]  # theta -> state, rest
StepFn = Callable[
    [jax.Array, jax.Array], tuple[tuple[jax.Array, jax.Array], PyTree]
]  # theta, state -> (state, loss), rest


class Trajectory(NamedTuple):
    """Every array has a leading axis of `num_pairs` outside of a window.

    Attributes:
      state: inner state.
      carried: what the method knows of d state / d theta; () if nothing.
      clock: where it stands.
    """

    state: PyTree
    carried: PyTree
    clock: windows.Clock


class Started(NamedTuple):
    """Attributes: state, `[S]`; rest; carried, the method's account of d state / d theta."""

    state: jax.Array
    rest: PyTree
    carried: PyTree


class Advanced(NamedTuple):
    """Attributes: state, `[S]`; rest; carried; loss of the step; grad, `[P]`, estimate of d loss / d theta."""

    state: jax.Array
    rest: PyTree
    carried: PyTree
    loss: jax.Array
    grad: jax.Array


def check_differentiable(name: str, problem: InnerProblem) -> None:
    """Raises InputError if d loss / d theta does not exist or is not wanted."""
    if not problem.differentiable:
        raise InputError(
            f"{name} follows derivatives, and this problem's loss has none that could be used. "
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


def count_capped(problem: InnerProblem, loss: jax.Array) -> jax.Array:
    """1 for a step at the problem's cap, int32."""
    return jnp.zeros((), jnp.int32) if problem.cap is None else (loss >= problem.cap).astype(jnp.int32)


def _loss_dtype(problem: InnerProblem, theta: Theta, state: PyTree) -> jnp.dtype:
    return jax.eval_shape(problem.step, theta, state, jax.random.key(0))[1].dtype


class Reversed(NamedTuple):
    """Attributes: state after the steps; loss, their sum; capped, how many are at the cap.

    grad: `[P]`, d loss / d theta at a fixed first state. cotangent: `[S]`, d loss / d first state.
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

    Written out rather than left to `jax.grad`, which cannot go back through a loop of a length known at run time. The
    way there stores the states, `max_steps` of them, and no more; the way back repeats each step to differentiate it.
    """
    flat_theta, _ = ravel_pytree(theta)
    first, first_rest = split(state)

    def step_at(i, rest):
        return step_function(problem, theta, state, rest, jax.random.fold_in(key, i))

    def there(i, carry):
        flat, rest, loss, capped, visited = carry
        visited = jax.tree.map(
            lambda store, x: jax.lax.dynamic_update_index_in_dim(store, x, i, 0), visited, (flat, rest)
        )
        (flat, step_loss), rest = step_at(i, rest)(flat_theta, flat)
        return flat, rest, loss + step_loss, capped + count_capped(problem, step_loss), visited

    zero_loss = jnp.zeros((), _loss_dtype(problem, theta, state))
    visited = jax.tree.map(lambda x: jnp.broadcast_to(x, (max_steps, *x.shape)), (first, first_rest))
    last, last_rest, loss, capped, visited = jax.lax.fori_loop(
        0, num_steps, there, (first, first_rest, zero_loss, jnp.zeros((), jnp.int32), visited)
    )

    def back(j, carry):
        grad, cotangent = carry
        i = num_steps - 1 - j
        flat, rest = jax.tree.map(lambda store: jax.lax.dynamic_index_in_dim(store, i, keepdims=False), visited)
        (_, step_loss), pull, _ = jax.vjp(step_at(i, rest), flat_theta, flat, has_aux=True)
        of_theta, of_state = pull((cotangent, jnp.ones_like(step_loss)))
        return grad + of_theta, of_state

    grad, cotangent = jax.lax.fori_loop(0, num_steps, back, (jnp.zeros_like(flat_theta), jnp.zeros_like(first)))
    return Reversed(merger(state)(last, last_rest), loss, capped, grad, cotangent)


def pull_init(init: InitFn, flat_theta: jax.Array, cotangent: jax.Array) -> jax.Array:
    """cotangent [S] times d init / d theta, `[P]`."""
    _, pull, _ = jax.vjp(init, flat_theta, has_aux=True)
    return pull(cotangent)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientMethod(windows.WindowedEstimator):
    """A method without noise on theta that gives an estimate for every window of `num_pairs` trajectories."""

    name: ClassVar[str]

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        check_differentiable(self.name, problem)

    def _place(self, theta: jax.Array, state: jax.Array) -> PyTree:
        """Zeros in the shape of what is carried, for theta `[P]` and state `[S]`."""
        del theta, state
        return ()

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> Trajectory:
        zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in flat_shapes(problem, theta)]
        return Trajectory(pairs.blank_state(problem, theta, clock.horizon), self._place(*zeros), clock)

    def _after(
        self,
        clock: windows.Clock,
        grad: jax.Array,
        loss: jax.Array,
        capped: jax.Array,
        state: PyTree,
        carried: PyTree,
        keys: pairs.WindowKeys,
    ) -> tuple[pairs.PairTerms, Trajectory]:
        """A trajectory's share in the mean, from sums over the window's steps, and the trajectory one window on."""
        k = self.truncation
        terms = self._terms(grad / k, loss[None] / k, clock, capped[None])  # one loss, not a pair
        return terms, Trajectory(state, carried, self._tick(clock, keys.horizon))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CarryingMethod(GradientMethod):
    """A gradient method that carries what it knows of d state / d theta along, step by step."""

    def _begin(self, init: InitFn, theta: jax.Array, key: jax.Array) -> Started:
        """The first state of a trajectory, and what is carried of it; theta `[P]`."""
        raise NotImplementedError

    def _advance(self, step: StepFn, theta: jax.Array, state: jax.Array, carried: PyTree, key: jax.Array) -> Advanced:
        """One inner step; theta `[P]`, state `[S]`."""
        raise NotImplementedError

    def _window(
        self, problem: InnerProblem, theta: Theta, state: Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, Trajectory]:
        """One window of one trajectory."""
        clock, keys = state.clock, pairs.window_keys(key)
        begin_key, advance_key = jax.random.split(keys.noise)
        flat_theta, _ = ravel_pytree(theta)
        init = init_function(problem, theta, keys.init, clock.horizon)
        first = jax.lax.cond(
            clock.starts,
            lambda: self._begin(init, flat_theta, begin_key),
            lambda: Started(*split(state.state), state.carried),
        )

        def body(i, carry):
            before, loss, grad, capped = carry
            step = step_function(problem, theta, state.state, before.rest, jax.random.fold_in(keys.steps, i))
            after = self._advance(step, flat_theta, before.state, before.carried, jax.random.fold_in(advance_key, i))
            capped += count_capped(problem, after.loss)
            return Started(after.state, after.rest, after.carried), loss + after.loss, grad + after.grad, capped

        zero_loss = jnp.zeros((), _loss_dtype(problem, theta, state.state))
        end, loss, grad, capped = jax.lax.fori_loop(
            0, self.truncation, body, (first, zero_loss, jnp.zeros_like(flat_theta), jnp.zeros((), jnp.int32))
        )
        new_state = merger(state.state)(end.state, end.rest)
        return self._after(clock, grad, loss, capped, new_state, end.carried, keys)


def flat_shapes(problem: InnerProblem, theta: Theta) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Theta `[P]` and the state's floating leaves `[S]`, as shapes."""

    def flatten(theta, key, horizon):
        return ravel_pytree(theta)[0], split(problem.init(theta, key, horizon))[0]

    return jax.eval_shape(flatten, theta, jax.random.key(0), jnp.ones((), jnp.int32))
