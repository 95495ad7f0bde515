"""`nres`: Noise-Reuse Evolution Strategies, one noise a trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180); the same as ES-Single: Paul Vicol, Zico
Kolter, Kevin Swersky, "Low-variance gradient estimation in unrolled computation graphs with ES-Single", ICML 2023
(arXiv 2304.11153).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.types import InnerProblem, PyTree, Theta


class NRESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      noise_key: of the trajectory's noise, which is drawn again in every window rather than stored.
      noise_step: estimate in which it was first drawn, int32.
      clock: where it stands.
    """

    states: PyTree
    noise_key: jax.Array
    noise_step: jax.Array
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class NRES(evolution.WindowedEvolutionStrategy):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with the same eps_i in all windows of a trajectory.

    The estimates of a trajectory add up to full ES with its noise. Unbiased for the loss smoothed as a whole, where PES
    smooths every window on its own; the variance of a window's estimate does not grow along the trajectory.
    """

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> NRESState:
        states = evolution.blank_halves(problem, theta, clock.horizon)
        return NRESState(states, jax.random.key(0), clock.step, clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: NRESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, NRESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise_key = jnp.where(clock.starts, keys.noise, state.noise_key)
        noise_step = jnp.where(clock.starts, clock.step, state.noise_step)
        noise = self._noise(noise_key, noise_step, ravel_pytree(theta)[0])
        unrolled = self._unroll_halves(problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = self._gradient(self._credit(noise, noise_step), losses)
        terms = self._terms(grad, losses, clock, unrolled.capped)
        return terms, NRESState(unrolled.state, noise_key, noise_step, self._tick(clock, keys.horizon))
