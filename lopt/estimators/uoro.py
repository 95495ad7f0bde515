"""`uoro`: unbiased online recurrent optimization, real-time recurrent learning with a random Jacobian of rank one.

Corentin Tallec, Yann Ollivier, "Unbiased online recurrent optimization", ICLR 2018 (arXiv 1702.05043).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from lopt.estimators import gradients

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class UORO(gradients.CarryingMethod):
    """g = 1 / (K N) sum_i sum_t (dl_t/ds . s~) th~ + dl_t/dtheta, where E[s~ th~^T] = d state / d theta.

    Unbiased without smoothing, since the signs nu of every step have mean zero and covariance one. Memory S + P a
    trajectory, with S the floating numbers in a state and P those in theta. Every step's signs add noise that later
    steps carry along. The two factors refer to the thetas that made them.
    """

    name: ClassVar[str] = "uoro"

    def _place(self, theta: jax.Array, state: jax.Array) -> RankOne:
        return RankOne(state, theta)

    def _begin(self, init: gradients.InitFn, theta: jax.Array, key: jax.Array) -> gradients.Started:
        """nu (nu^T d init / d theta), whose mean over nu is d init / d theta."""
        state, pull, rest = jax.vjp(init, theta, has_aux=True)
        signs = draw_signs(key, state)
        (pulled,) = pull(signs)
        rho = balance(pulled, signs)
        return gradients.Started(state, rest, RankOne(rho * signs, pulled / rho))

    def _advance(
        self, step: gradients.StepFn, theta: jax.Array, state: jax.Array, carried: RankOne, key: jax.Array
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
