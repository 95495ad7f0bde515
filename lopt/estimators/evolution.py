"""What evolution strategies share: the noise on theta, its schedule, and differences between the halves of a pair."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


def draw_noise(key: jax.Array, sigma: float | jax.Array, flat_theta: jax.Array) -> jax.Array:
    """eps ~ N(0, sigma^2 I), `[P]`: one flat vector, since every separate draw costs its own compile time."""
    return jnp.asarray(sigma, flat_theta.dtype) * jax.random.normal(key, flat_theta.shape, flat_theta.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvolutionStrategy(pairs.PairEstimator):
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2 for pairs theta + eps_i, theta - eps_i.

    Credit is kept in units of the first sigma: each eps is weighted with (sigma_first / sigma_then)^2, where
    sigma_then is what it was drawn with, so that a schedule does not mis-scale what has been gathered.

    Attributes:
      sigma: standard deviation of the noise; the first one, with a schedule.
      sigma_last: what sigma changes to, geometrically, over `sigma_steps` estimates; None: it is constant.
      sigma_steps: estimates until `sigma_last`.
      signed: (L+ - L-) / 2 is replaced by its sign. Biased in size, not in sign: for outer optimizers that rescale.
    """

    sigma: float = 0.01
    sigma_last: float | None = None
    sigma_steps: int = 0
    signed: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name, sigma in (("sigma", self.sigma), ("sigma_last", self.sigma_last)):
            if sigma is not None and not sigma > 0:
                raise InputError(f"{name}, a standard deviation of the noise, must be above 0, not {sigma}")
        if (self.sigma_last is not None) != (self.sigma_steps > 0):
            raise InputError("a schedule of sigma needs both sigma_last and sigma_steps, at least 1")

    def sigma_at(self, step: jax.Array) -> float | jax.Array:
        """sigma (sigma_last / sigma)^min(1, step / sigma_steps)."""
        if self.sigma_last is None:
            return self.sigma
        share = jnp.minimum(1, jnp.asarray(step, float) / self.sigma_steps)  # float64 where that is switched on
        return self.sigma * (self.sigma_last / self.sigma) ** share

    def _noise(self, key: jax.Array, step: jax.Array, flat_theta: jax.Array) -> jax.Array:
        """eps, `[P]`, as drawn in estimate `step`."""
        return draw_noise(key, self.sigma_at(step), flat_theta)

    def _credit(self, noise: jax.Array, step: jax.Array) -> jax.Array:
        """What noise drawn in estimate `step` adds to the credit, `[P]`."""
        weight = jnp.asarray((self.sigma / self.sigma_at(step)) ** 2, noise.dtype)
        return weight * noise

    def _gradient(self, credit: jax.Array, losses: jax.Array) -> jax.Array:
        """credit / sigma^2 times half the difference of the halves' losses `[2]`."""
        half_difference = (losses[0] - losses[1]) / 2
        return credit / self.sigma**2 * (jnp.sign(half_difference) if self.signed else half_difference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowedEvolutionStrategy(EvolutionStrategy, windows.WindowedEstimator):
    """An evolution strategy that gives an estimate for every window."""

    def _unroll_halves(
        self,
        problem: InnerProblem,
        theta: Theta,
        noise: jax.Array,
        clock: windows.Clock,
        states: PyTree,
        keys: pairs.WindowKeys,
    ) -> pairs.Unrolled:
        """One window of theta + noise and of theta - noise from their inner states; `[2, ...]`, as are the results."""

        def half(particle: Any) -> pairs.Unrolled:
            perturbed, state = particle
            state = windows.start_or_continue(problem, perturbed, clock, state, keys.init)
            return pairs.unroll(problem, perturbed, state, keys.steps, self.truncation)

        return self.layout.map(half, (perturb(theta, noise), states))


def perturb(theta: Theta, noise: jax.Array) -> Theta:
    """theta + noise and theta - noise, `[2, ...]`, for noise `[P]`."""
    flat_theta, unravel = ravel_pytree(theta)
    return jax.vmap(unravel)(jnp.stack([flat_theta + noise, flat_theta - noise]))


def blank_halves(problem: InnerProblem, theta: Theta, horizon: jax.Array) -> PyTree:
    """The places of both halves' inner states, `[2, ...]`."""
    return twice(pairs.blank_state(problem, theta, horizon))


def twice(inner_state: PyTree) -> PyTree:
    """An inner state for each half, `[2, ...]`."""
    return jax.tree.map(lambda x: jnp.stack([x, x]), inner_state)
