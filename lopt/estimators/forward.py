"""`forward`: directional derivatives along one random direction per trajectory (DODGE). Unbiased and cheap.

David Silver, Anirudh Goyal, Ivo Danihelka, Matteo Hessel, Hado van Hasselt, "Learning by directional gradient descent",
ICLR 2022.
"""

import dataclasses
from typing import Literal, NamedTuple, final, get_args

import jax

from lopt.distributed import PairLayout
from lopt.estimators import carrying, gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.names import check_known
from lopt.types import InnerProblem, Theta

Tangent = Literal["normal", "rademacher"]
TANGENTS = get_args(Tangent)


class Direction(NamedTuple):
    """The random direction of a trajectory.

    Attributes:
      of_theta: v, `[P]`.
      of_state: u = (d state / d theta) v, `[S]`.
    """

    of_theta: jax.Array
    of_state: jax.Array


def draw_tangent(key: jax.Array, theta: jax.Array, tangent: Tangent) -> jax.Array:
    """v with mean 0 and covariance 1, `[P]`."""
    draw = jax.random.rademacher if tangent == "rademacher" else jax.random.normal
    return draw(key, theta.shape, theta.dtype)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward(windows.WindowedEstimator):
    """g = 1 / (K N) sum_i v_i sum_t (v_i . dl_t / dtheta), v_i drawn when trajectory i starts and kept to its end.

    This is the limit of `nres` as sigma goes to 0: unbiased without smoothing, and useless where trajectories are
    chaotic. With G the gradient of its window, one trajectory's estimate has the variance, summed over theta,
    (P + 1) |G|^2 for normal v and (P - 1) |G|^2 for signs. Memory per trajectory: S + P, with S the floating-point
    numbers in a state and P those in theta. The derivative of the state refers to the thetas that made it.

    Attributes:
      num_pairs: N, number of trajectories; nothing is paired.
      tangent: law of v: `rademacher` (signs) or `normal`.
      truncation: K, inner steps per window.
      horizon: T, lengths of trajectories.
      staggered: whether trajectories start spread out over their horizons, rather than all at their first step.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    tangent: Tangent = "rademacher"
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        check_known("tangent", self.tangent, TANGENTS)

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable."""
        gradients.check_differentiable("forward", problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> carrying.Trajectory:
        return carrying.blank(problem, theta, clock, Direction)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: carrying.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, carrying.Trajectory]:
        return carrying.window(self, self._begin, _advance, problem, theta, state, key)

    def _begin(self, init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> carrying.Started:
        """Draws v, and takes the derivative of the initial state along it."""
        v = draw_tangent(key, theta, self.tangent)
        state, of_state, rest = jax.jvp(init, (theta,), (v,), has_aux=True)
        return carrying.Started(state, rest, Direction(v, of_state))


def _advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: Direction, key: jax.Array
) -> carrying.Advanced:
    """u' = F_state u + F_theta v, and v times the loss's derivative along (v, u)."""
    del key
    (state, loss), (of_state, slope), rest = jax.jvp(step, (theta, state), tuple(carried), has_aux=True)
    return carrying.Advanced(state, rest, Direction(carried.of_theta, of_state), loss, carried.of_theta * slope)
