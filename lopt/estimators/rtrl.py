"""`rtrl`: real-time recurrent learning, exact gradients from truncated unrolls, for small states and thetas.

Ronald J. Williams, David Zipser, "A learning algorithm for continually running fully recurrent neural networks",
Neural Computation 1(2), 1989.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lopt.estimators import gradients
from lopt.names import InputError
from lopt.types import InnerProblem, Theta

MAX_BYTES = 2**30  # of one trajectory's d state / d theta


def _basis(theta: jax.Array) -> jax.Array:
    return jnp.eye(theta.size, dtype=theta.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RTRL(gradients.CarryingMethod):
    """g = 1 / (K N) sum_i sum_t dl_t / dtheta, exact: each trajectory carries J = d state / d theta through windows.

    Memory S P a trajectory, time P steps a step, with S the floating numbers in a state and P those in theta. As with
    every method that carries something through windows, J refers to the thetas that made it; it is exact while theta
    stands still.
    """

    name: ClassVar[str] = "rtrl"

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        super().check(problem, theta)
        flat_theta, flat_state = gradients.flat_shapes(problem, theta)
        num_bytes = flat_state.size * flat_theta.size * flat_state.dtype.itemsize
        if num_bytes > MAX_BYTES:
            raise InputError(
                f"rtrl carries d state / d theta, {flat_state.size} x {flat_theta.size} numbers or "
                f"{num_bytes / 2**30:.1f} GiB for each of {self.num_pairs} trajectories; {MAX_BYTES / 2**30:.0f} GiB "
                "is the most for one. Take uoro or forward, which estimate the same gradient, or a smaller problem."
            )

    def _place(self, theta: jax.Array, state: jax.Array) -> jax.Array:
        return jnp.zeros((state.size, theta.size), state.dtype)

    def _begin(self, init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> gradients.Started:
        """J = d init / d theta, `[S, P]`."""
        del key
        state, push, rest = jax.linearize(init, theta, has_aux=True)
        return gradients.Started(state, rest, jax.vmap(push, out_axes=1)(_basis(theta)))

    def _advance(
        self, step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: jax.Array, key: jax.Array
    ) -> gradients.Advanced:
        """J' = F_state J + F_theta and dl = l_state J + l_theta, a column of J at a time."""
        del key
        (state, loss), push, rest = jax.linearize(step, theta, state, has_aux=True)
        jacobian, grad = jax.vmap(push, in_axes=(0, 1), out_axes=(1, 0))(_basis(theta), carried)
        return gradients.Advanced(state, rest, jacobian, loss, grad)
