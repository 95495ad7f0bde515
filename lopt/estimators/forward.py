"""`forward`: directional derivatives along one random direction a trajectory (DODGE). Unbiased and cheap.

David Silver, Anirudh Goyal, Ivo Danihelka, Matteo Hessel, Hado van Hasselt, "Learning by directional gradient descent",
ICLR 2022.
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple, get_args

import jax

from lopt.estimators import gradients
from lopt.names import check_known

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward(gradients.CarryingMethod):
    """g = 1 / (K N) sum_i v_i sum_t (v_i . dl_t / dtheta), v_i drawn when trajectory i starts and kept to its end.

    The limit of antithetic evolution strategies with one noise a trajectory as sigma goes to 0: unbiased without
    smoothing, and helpless where trajectories are chaotic. Variance of one trajectory's estimate g around the gradient
    G of its window: (P + 1) |G|^2 in all for normal v, (P - 1) |G|^2 for signs. Memory S + P a trajectory, with S the
    floating numbers in a state and P those in theta. The state's tangent refers to the thetas that made it.

    Attributes:
      tangent: law of v, `rademacher` (signs) or `normal`.
    """

    tangent: Tangent = "rademacher"
    name: ClassVar[str] = "forward"

    def __post_init__(self):
        super().__post_init__()
        check_known("tangent", self.tangent, TANGENTS)

    def _place(self, theta: jax.Array, state: jax.Array) -> Direction:
        return Direction(theta, state)

    def _begin(self, init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> gradients.Started:
        """A fresh v, and what it does to the initial state."""
        v = draw_tangent(key, theta, self.tangent)
        state, of_state, rest = jax.jvp(init, (theta,), (v,), has_aux=True)
        return gradients.Started(state, rest, Direction(v, of_state))

    def _advance(
        self, step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: Direction, key: jax.Array
    ) -> gradients.Advanced:
        """u' = F_state u + F_theta v, and v times the loss's derivative along (v, u)."""
        del key
        (state, loss), (of_state, slope), rest = jax.jvp(step, (theta, state), tuple(carried), has_aux=True)
        return gradients.Advanced(state, rest, Direction(carried.of_theta, of_state), loss, carried.of_theta * slope)
