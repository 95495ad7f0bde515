"""`nres`: Noise-Reuse Evolution Strategies, one noise a trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180); the same as ES-Single: Paul Vicol, Zico
Kolter, Kevin Swersky, "Low-variance gradient estimation in unrolled computation graphs with ES-Single", ICML 2023
(arXiv 2304.11153).
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import pairs, windows
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class NRESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      noise_key: of the trajectory's noise, which is drawn again in every window rather than stored.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    states: PyTree
    noise_key: jax.Array
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class NRES:
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with the same eps_i in all windows of a trajectory.

    The estimates of a trajectory add up to full ES with its noise. Unbiased for the loss smoothed as a whole, where PES
    smooths every window on its own; the variance of a window's estimate does not grow along the trajectory.

    Attributes:
      num_pairs: N, antithetic pairs.
      sigma: standard deviation of the noise.
      truncation: K, inner steps a window.
      horizon: lengths of trajectories.
      staggered: whether trajectories start spread out over the horizon.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    sigma: float = 0.01
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        pairs.check_settings(self.num_pairs, self.sigma)
        self.horizon.check(self.truncation)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> NRESState:
        def blank(horizon):
            states = windows.twice(pairs.blank_state(problem, theta, horizon))
            return NRESState(states, jax.random.key(0), jnp.zeros((), jnp.int32), horizon)

        return windows.start(self, functools.partial(self._window, problem, theta), blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: NRESState, key: jax.Array
    ) -> tuple[Estimate, NRESState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: NRESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, NRESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        noise_key = jnp.where(state.position == 0, keys.noise, state.noise_key)
        noise = pairs.draw_noise(noise_key, self.sigma, ravel_pytree(theta)[0])
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = noise / self.sigma**2 * pairs.half_difference(losses)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        return terms, NRESState(unrolled.state, noise_key, *windows.next_position(self, state, keys.horizon))
