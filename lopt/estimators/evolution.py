"""What evolution strategies share: the noise on theta, its schedule, and differences between the halves of a pair.

g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2 for pairs theta + eps_i, theta - eps_i.

Credit is kept in units of the first sigma: each eps is weighted with (sigma_first / sigma_then)^2, where sigma_then is
the sigma that it was drawn with, so that a schedule does not mis-scale the credit gathered before.
"""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import pairs, shaping, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class NoiseSettings(Protocol):
    """The settings of an evolution strategy that are read here; each method documents them."""

    @property
    def sigma(self) -> float: ...
    @property
    def sigma_last(self) -> float | None: ...
    @property
    def sigma_steps(self) -> int: ...
    @property
    def pair_shaping(self) -> str: ...


def check_noise(settings: NoiseSettings) -> None:
    """Raises InputError unless sigma, its schedule and the shaping of pairs make sense."""
    shaping.check_pair_shaping(settings.pair_shaping)
    for name, sigma in (("sigma", settings.sigma), ("sigma_last", settings.sigma_last)):
        if sigma is not None and not 0 < sigma < math.inf:
            raise InputError(f"{name}, a standard deviation of the noise, must be above 0 and finite, not {sigma}")
    if (settings.sigma_last is not None) != (settings.sigma_steps > 0):
        raise InputError("a schedule of sigma needs both sigma_last and sigma_steps, which must be at least 1")


def sigma_at(settings: NoiseSettings, step: jax.Array) -> float | jax.Array:
    """sigma (sigma_last / sigma)^min(1, step / sigma_steps)."""
    if settings.sigma_last is None:
        return settings.sigma
    share = jnp.minimum(1, jnp.asarray(step, float) / settings.sigma_steps)  # float64 where that is switched on
    return settings.sigma * (settings.sigma_last / settings.sigma) ** share


def draw_noise(key: jax.Array, sigma: float | jax.Array, flat_theta: jax.Array) -> jax.Array:
    """eps ~ N(0, sigma^2 I), `[P]`: one flat vector, since every separate draw costs its own compile time."""
    return jnp.asarray(sigma, flat_theta.dtype) * jax.random.normal(key, flat_theta.shape, flat_theta.dtype)


def noise_at(settings: NoiseSettings, key: jax.Array, step: jax.Array, flat_theta: jax.Array) -> jax.Array:
    """eps, `[P]`, as drawn in estimate `step`."""
    return draw_noise(key, sigma_at(settings, step), flat_theta)


def credit_of(settings: NoiseSettings, noise: jax.Array, step: jax.Array) -> jax.Array:
    """What noise drawn in estimate `step` adds to the credit, `[P]`."""
    weight = jnp.asarray((settings.sigma / sigma_at(settings, step)) ** 2, noise.dtype)
    return weight * noise


def gradient(settings: NoiseSettings, credit: jax.Array, losses: jax.Array) -> jax.Array:
    """credit / sigma^2 times half the difference of the halves' losses `[2]`, shaped as far as one pair can tell."""
    return credit / settings.sigma**2 * shaping.shape_one(settings.pair_shaping, pairs.half_difference(losses))


def unroll_halves(
    method: windows.WindowedEstimator,
    problem: InnerProblem,
    theta: Theta,
    noise: jax.Array,
    clock: windows.Clock,
    states: PyTree,
    keys: pairs.WindowKeys,
) -> pairs.Unrolled:
    """Runs one window of theta + noise and of theta - noise from their inner states; `[2, ...]`, as are the results."""

    def half(particle: Any) -> pairs.Unrolled:
        perturbed, state = particle
        state = windows.start_or_continue(problem, perturbed, clock, state, keys.init)
        return pairs.unroll(problem, perturbed, state, keys.steps, method.truncation)

    return method.layout.map(half, (perturb(theta, noise), states))


def perturb(theta: Theta, noise: jax.Array) -> Theta:
    """theta + noise and theta - noise, `[2, ...]`, for noise `[P]`."""
    flat_theta, unravel = ravel_pytree(theta)
    return jax.vmap(unravel)(jnp.stack([flat_theta + noise, flat_theta - noise]))


def blank_halves(problem: InnerProblem, theta: Theta, horizon: jax.Array) -> PyTree:
    """The places of both halves' inner states, `[2, ...]`."""
    return twice(pairs.blank_state(problem, theta, horizon))


def twice(inner_state: PyTree) -> PyTree:
    """One copy of the inner state for each half, `[2, ...]`."""
    return jax.tree.map(lambda x: jnp.stack([x, x]), inner_state)
