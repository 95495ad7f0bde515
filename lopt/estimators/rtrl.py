"""`rtrl`: real-time recurrent learning, exact gradients from truncated unrolls, for small states and thetas.

Ronald J. Williams, David Zipser, "A learning algorithm for continually running fully recurrent neural networks",
Neural Computation 1(2), 1989.
"""

import dataclasses
from typing import final

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import carrying, gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem, Theta

MAX_BYTES = 2**30  # the most for one trajectory's d state / d theta


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class RTRL(windows.WindowedEstimator):
    """g = 1 / (K N) sum_i sum_t dl_t / dtheta, exact: each trajectory carries J = d state / d theta through windows.

    With S the floating-point numbers in a state and P those in theta, it takes a memory of S P per trajectory and the
    time of P steps per step. As with every method that carries something through windows, J refers to the thetas that
    made it; it is exact while theta stands still.

    Attributes:
      num_pairs: N, number of trajectories; nothing is paired.
      truncation: K, inner steps per window.
      horizon: T, lengths of trajectories.
      staggered: whether trajectories start spread out over their horizons, rather than all at their first step.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable and d state / d theta is small enough."""
        gradients.check_differentiable("rtrl", problem)
        flat_theta, flat_state = gradients.flat_shapes(problem, theta)
        num_bytes = flat_state.size * flat_theta.size * flat_state.dtype.itemsize
        if num_bytes > MAX_BYTES:
            raise InputError(
                f"rtrl carries d state / d theta, {flat_state.size} x {flat_theta.size} numbers or "
                f"{num_bytes / 2**30:.1f} GiB for each of {self.num_pairs} trajectories; {MAX_BYTES / 2**30:.0f} GiB "
                "is the most for one. Take uoro or forward, which estimate the same gradient, or a smaller problem."
            )

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> carrying.Trajectory:
        return carrying.blank(problem, theta, clock, _no_jacobian)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: carrying.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, carrying.Trajectory]:
        return carrying.window(self, _begin, _advance, problem, theta, state, key)


def _basis(theta: jax.Array) -> jax.Array:
    return jnp.eye(theta.size, dtype=theta.dtype)


def _no_jacobian(theta: jax.Array, state: jax.Array) -> jax.Array:
    return jnp.zeros((state.size, theta.size), state.dtype)


def _begin(init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> carrying.Started:
    """J = d init / d theta, `[S, P]`."""
    del key
    state, push, rest = jax.linearize(init, theta, has_aux=True)
    return carrying.Started(state, rest, jax.vmap(push, out_axes=1)(_basis(theta)))


def _advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: jax.Array, key: jax.Array
) -> carrying.Advanced:
    """J' = F_state J + F_theta and dl = l_state J + l_theta, one column of J per number of theta."""
    del key
    (state, loss), push, rest = jax.linearize(step, theta, state, has_aux=True)
    jacobian, grad = jax.vmap(push, in_axes=(0, 1), out_axes=(1, 0))(_basis(theta), carried)
    return carrying.Advanced(state, rest, jacobian, loss, grad)
