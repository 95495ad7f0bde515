"""`uoro`: unbiased online recurrent optimization, real-time recurrent learning with a random Jacobian of rank one.

Corentin Tallec, Yann Ollivier, "Unbiased online recurrent optimization", ICLR 2018 (arXiv 1702.05043).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, Theta

DAMPING = 1e-7  # keeps the balance finite where a factor is zero; any value leaves the estimate unbiased


class RankOne(NamedTuple):
    """d state / d theta is the mean of the outer product of these two.

    Attributes: state_side, `[S]`; theta_side, `[P]`.
    """

    state_side: jax.Array
    theta_side: jax.Array


def draw_signs(key: jax.Array, like: jax.Array) -> jax.Array:
    """nu, -1 or 1 with equal probability."""
    return jax.random.rademacher(key, like.shape, like.dtype)


def balance(large: jax.Array, small: jax.Array) -> jax.Array:
    """rho = sqrt(|large| / |small|): with a factor rho for `small` and 1 / rho for `large`, both are of one size."""
    return jnp.sqrt((jnp.linalg.norm(large) + DAMPING) / (jnp.linalg.norm(small) + DAMPING))


def begin(init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> gradients.Started:
    """nu (nu^T d init / d theta), whose mean over nu is d init / d theta."""
    state, pull, rest = jax.vjp(init, theta, has_aux=True)
    signs = draw_signs(key, state)
    (pulled,) = pull(signs)
    rho = balance(pulled, signs)
    return gradients.Started(state, rest, RankOne(rho * signs, pulled / rho))


def advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: RankOne, key: jax.Array
) -> gradients.Advanced:
    """s' = rho0 F_state s + rho1 nu, th' = th / rho0 + nu^T F_theta / rho1, and dl = (l_state s) th + l_theta."""
    fixed_theta = jnp.zeros_like(theta)
    _, (pushed, slope), _ = jax.jvp(step, (theta, state), (fixed_theta, carried.state_side), has_aux=True)
    (new_state, loss), pull, rest = jax.vjp(step, theta, state, has_aux=True)
    direct, _ = pull((jnp.zeros_like(new_state), jnp.ones_like(loss)))
    grad = slope * carried.theta_side + direct

    signs = draw_signs(key, new_state)
    pulled, _ = pull((signs, jnp.zeros_like(loss)))
    rho0, rho1 = balance(carried.theta_side, pushed), balance(pulled, signs)
    carried = RankOne(rho0 * pushed + rho1 * signs, carried.theta_side / rho0 + pulled / rho1)
    return gradients.Advanced(new_state, rest, carried, loss, grad)


@dataclasses.dataclass(frozen=True)
class UORO:
    """g = 1 / (K N) sum_i sum_t (dl_t/ds . s~) th~ + dl_t/dtheta, where E[s~ th~^T] = d state / d theta.

    Unbiased without smoothing, since the signs nu of every step have mean zero and covariance one. Memory S + P a
    trajectory, with S the floating numbers in a state and P those in theta. Every step's signs add noise that later
    steps carry along. The two factors refer to the thetas that made them.

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
        gradients.check_differentiable("uoro", problem)
        flat_theta, flat_state = gradients.flat_shapes(problem, theta)
        return gradients.start(
            self,
            functools.partial(self._window, problem, theta),
            problem,
            theta,
            RankOne(jnp.zeros(flat_state.shape, flat_state.dtype), jnp.zeros(flat_theta.shape, flat_theta.dtype)),
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
