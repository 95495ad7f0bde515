"""`uoro`: unbiased online recurrent optimization, real-time recurrent learning with a random Jacobian of rank one.

Corentin Tallec, Yann Ollivier, "Unbiased online recurrent optimization", ICLR 2018 (arXiv 1702.05043).
"""

import dataclasses
from typing import NamedTuple, final

import jax
import jax.numpy as jnp

from lopt.distributed import PairLayout
from lopt.estimators import carrying, gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.types import InnerProblem, Theta

DAMPING = 1e-7  # keeps the balance finite where a factor is zero; the estimate is unbiased with any value


class RankOne(NamedTuple):
    """Two vectors whose outer product has the mean d state / d theta.

    Attributes:
      state_side: s~, `[S]`.
      theta_side: th~, `[P]`.
    """

    state_side: jax.Array
    theta_side: jax.Array


def draw_signs(key: jax.Array, like: jax.Array) -> jax.Array:
    """nu, -1 or 1 with equal probability."""
    return jax.random.rademacher(key, like.shape, like.dtype)


def balance(large: jax.Array, small: jax.Array) -> jax.Array:
    """rho = sqrt(|large| / |small|): `small` times rho and `large` divided by rho have the same norm."""
    return jnp.sqrt((jnp.linalg.norm(large) + DAMPING) / (jnp.linalg.norm(small) + DAMPING))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class UORO(windows.WindowedEstimator):
    """g = 1 / (K N) sum_i sum_t (dl_t/ds . s~) th~ + dl_t/dtheta, where E[s~ th~^T] = d state / d theta.

    Unbiased without smoothing, since the signs nu of every step have mean zero and covariance one. Every step's signs
    add noise that later steps carry along. Memory per trajectory: S + P, with S the floating-point numbers in a state
    and P those in theta. The two factors refer to the thetas that made them.

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
        """Raises InputError unless the problem is differentiable."""
        gradients.check_differentiable("uoro", problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> carrying.Trajectory:
        return carrying.blank(problem, theta, clock, lambda theta, state: RankOne(state, theta))

    def _window(
        self, problem: InnerProblem, theta: Theta, state: carrying.Trajectory, key: jax.Array
    ) -> tuple[pairs.PairTerms, carrying.Trajectory]:
        return carrying.window(self, _begin, _advance, problem, theta, state, key)


def _rank_one(state_side: jax.Array, theta_side: jax.Array, state: jax.Array, theta: jax.Array) -> RankOne:
    """The sides in the dtypes of state and theta, which may differ; the balance is of the wider one."""
    return RankOne(state_side.astype(state.dtype), theta_side.astype(theta.dtype))


def _begin(init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> carrying.Started:
    """nu (nu^T d init / d theta), whose mean over nu is d init / d theta."""
    state, pull, rest = jax.vjp(init, theta, has_aux=True)
    signs = draw_signs(key, state)
    (pulled,) = pull(signs)
    rho = balance(pulled, signs)
    return carrying.Started(state, rest, _rank_one(rho * signs, pulled / rho, state, theta))


def _advance(
    step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: RankOne, key: jax.Array
) -> carrying.Advanced:
    """s' = rho0 F_state s + rho1 nu, th' = th / rho0 + nu^T F_theta / rho1, and dl = (l_state s) th + l_theta."""
    fixed_theta = jnp.zeros_like(theta)
    _, (pushed, slope), _ = jax.jvp(step, (theta, state), (fixed_theta, carried.state_side), has_aux=True)
    (new_state, loss), pull, rest = jax.vjp(step, theta, state, has_aux=True)
    direct, _ = pull((jnp.zeros_like(new_state), jnp.ones_like(loss)))
    grad = slope * carried.theta_side + direct

    signs = draw_signs(key, new_state)
    pulled, _ = pull((signs, jnp.zeros_like(loss)))
    rho0, rho1 = balance(carried.theta_side, pushed), balance(pulled, signs)
    state_side = rho0 * pushed + rho1 * signs
    theta_side = carried.theta_side / rho0 + pulled / rho1
    return carrying.Advanced(new_state, rest, _rank_one(state_side, theta_side, state, theta), loss, grad)
