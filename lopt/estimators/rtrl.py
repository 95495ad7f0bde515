"""`rtrl`: real-time recurrent learning, exact gradients from truncated unrolls, for small states and thetas.

Ronald J. Williams, David Zipser, "A learning algorithm for continually running fully recurrent neural networks",
Neural Computation 1(2), 1989.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, Theta

MAX_BYTES = 2**30  # of one trajectory's d state / d theta


def begin(init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> gradients.Started:
    """J = d init / d theta, `[S, P]`."""
    del key
    state, push, rest = jax.linearize(init, theta, has_aux=True)
    return gradients.Started(state, rest, jax.vmap(push, out_axes=1)(_basis(theta)))


def advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, jacobian: jax.Array, key: jax.Array
) -> gradients.Advanced:
    """J' = F_state J + F_theta and dl = l_state J + l_theta, a column of J at a time."""
    del key
    (state, loss), push, rest = jax.linearize(step, theta, state, has_aux=True)
    jacobian, grad = jax.vmap(push, in_axes=(0, 1), out_axes=(1, 0))(_basis(theta), jacobian)
    return gradients.Advanced(state, rest, jacobian, loss, grad)


def _basis(theta: jax.Array) -> jax.Array:
    return jnp.eye(theta.size, dtype=theta.dtype)


@dataclasses.dataclass(frozen=True)
class RTRL:
    """g = 1 / (K N) sum_i sum_t dl_t / dtheta, exact: each trajectory carries J = d state / d theta through windows.

    Memory S P a trajectory, time P steps a step, with S the floating numbers in a state and P those in theta. As with
    every method that carries something through windows, J refers to the thetas that made it; it is exact while theta
    stands still.

    Attributes:
      num_pairs: N, the number of trajectories; nothing is paired.
      truncation: K, inner steps a window.
      horizon: lengths of trajectories.
      staggered: whether trajectories start spread out over the horizon.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        gradients.check_num_pairs(self.num_pairs)
        self.horizon.check(self.truncation)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> gradients.Trajectory:
        gradients.check_differentiable("rtrl", problem)
        flat_theta, flat_state = gradients.flat_shapes(problem, theta)
        num_bytes = flat_state.size * flat_theta.size * flat_state.dtype.itemsize
        if num_bytes > MAX_BYTES:
            raise InputError(
                f"rtrl carries d state / d theta, {flat_state.size} x {flat_theta.size} numbers or "
                f"{num_bytes / 2**30:.1f} GiB for each of {self.num_pairs} trajectories; {MAX_BYTES / 2**30:.0f} GiB "
                "is the most for one. Take uoro or forward, which estimate the same gradient, or a smaller problem."
            )
        return gradients.start(
            self,
            functools.partial(self._window, problem, theta),
            problem,
            theta,
            jnp.zeros((flat_state.size, flat_theta.size), flat_state.dtype),
            key,
        )

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: gradients.Trajectory, key: jax.Array
    ) -> tuple[Estimate, gradients.Trajectory]:
        window = functools.partial(self._window, problem, theta)
        return gradients.estimate(self, window, theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, trajectory: gradients.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, gradients.Trajectory]:
        """One window of one trajectory."""
        return gradients.forward_window(self, problem, theta, trajectory, key, begin=begin, advance=advance)
