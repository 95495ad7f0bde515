"""`forward`: directional derivatives along one random direction a trajectory (DODGE). Unbiased and cheap.

David Silver, Anirudh Goyal, Ivo Danihelka, Matteo Hessel, Hado van Hasselt, "Learning by directional gradient descent",
ICLR 2022.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs
from lopt.horizons import Horizon
from lopt.names import check_known
from lopt.types import Estimate, InnerProblem, Theta

Tangent = Literal["normal", "rademacher"]
TANGENTS = get_args(Tangent)


class Direction(NamedTuple):
    """Attributes: of_theta, v `[P]`; of_state, its image (d state / d theta) v, `[S]`."""

    of_theta: jax.Array
    of_state: jax.Array


def draw_tangent(key: jax.Array, theta: jax.Array, tangent: Tangent) -> jax.Array:
    """v with mean 0 and covariance 1, `[P]`."""
    draw = jax.random.rademacher if tangent == "rademacher" else jax.random.normal
    return draw(key, theta.shape, theta.dtype)


def begin(init: gradients.InitFn, theta: jax.Array, key: jax.Array, *, tangent: Tangent) -> gradients.Started:
    """A fresh v, and what it does to the initial state."""
    v = draw_tangent(key, theta, tangent)
    state, of_state, rest = jax.jvp(init, (theta,), (v,), has_aux=True)
    return gradients.Started(state, rest, Direction(v, of_state))


def advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: Direction, key: jax.Array
) -> gradients.Advanced:
    """u' = F_state u + F_theta v, and v times the loss's derivative along (v, u)."""
    del key
    (state, loss), (of_state, slope), rest = jax.jvp(step, (theta, state), tuple(carried), has_aux=True)
    return gradients.Advanced(state, rest, Direction(carried.of_theta, of_state), loss, carried.of_theta * slope)


@dataclasses.dataclass(frozen=True)
class Forward:
    """g = 1 / (K N) sum_i v_i sum_t (v_i . dl_t / dtheta), v_i drawn when trajectory i starts and kept to its end.

    The limit of antithetic evolution strategies with one noise a trajectory as sigma goes to 0: unbiased without
    smoothing, and helpless where trajectories are chaotic. Variance of one trajectory's estimate g around the gradient
    G of its window: (P + 1) |G|^2 in all for normal v, (P - 1) |G|^2 for signs. Memory S + P a trajectory, with S the
    floating numbers in a state and P those in theta. The state's tangent refers to the thetas that made it.

    Attributes:
      num_pairs: N, the number of trajectories; nothing is paired.
      tangent: law of v, `rademacher` (signs) or `normal`.
      truncation: K, inner steps a window.
      horizon: lengths of trajectories.
      staggered: whether trajectories start spread out over the horizon.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    tangent: Tangent = "rademacher"
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        gradients.check_num_pairs(self.num_pairs)
        check_known("tangent", self.tangent, TANGENTS)
        self.horizon.check(self.truncation)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> gradients.Trajectory:
        gradients.check_differentiable("forward", problem)
        flat_theta, flat_state = gradients.flat_shapes(problem, theta)
        return gradients.start(
            self,
            functools.partial(self._window, problem, theta),
            problem,
            theta,
            Direction(jnp.zeros(flat_theta.shape, flat_theta.dtype), jnp.zeros(flat_state.shape, flat_state.dtype)),
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
        return gradients.forward_window(
            self, problem, theta, trajectory, key, begin=functools.partial(begin, tangent=self.tangent), advance=advance
        )
