"""`gpes`: generalized PES; the noise changes every `noise_period` inner steps of a trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180).
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
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class GPESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noises applied so far on this trajectory, `[num_pairs, P]`.
      noise_key: of the noise now applied.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    states: PyTree
    credit: jax.Array
    noise_key: jax.Array
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class GPES:
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2; credit_i is the sum of the noises since the start.

    A noise period of one window is PES; one of a trajectory or more is NRES.

    Attributes:
      num_pairs: N, antithetic pairs.
      sigma: standard deviation of the noise.
      truncation: K, inner steps a window.
      noise_period: inner steps between fresh noises, a multiple of K.
      horizon: lengths of trajectories.
      staggered: whether trajectories start spread out over the horizon.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    sigma: float = 0.01
    truncation: int = 50
    noise_period: int = 200
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        pairs.check_settings(self.num_pairs, self.sigma)
        self.horizon.check(self.truncation)
        if self.noise_period < 1 or self.noise_period % self.truncation:
            raise InputError(
                f"noise_period must be a multiple of the truncation, {self.truncation}, not {self.noise_period}"
            )

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> GPESState:
        def blank(horizon):
            states = windows.twice(pairs.blank_state(problem, theta, horizon))
            credit = jnp.zeros_like(ravel_pytree(theta)[0])
            return GPESState(states, credit, jax.random.key(0), jnp.zeros((), jnp.int32), horizon)

        return windows.start(self, functools.partial(self._window, problem, theta), blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: GPESState, key: jax.Array
    ) -> tuple[Estimate, GPESState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: GPESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, GPESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        redraw = state.position % self.noise_period == 0
        noise_key = jnp.where(redraw, keys.noise, state.noise_key)
        noise = pairs.draw_noise(noise_key, self.sigma, ravel_pytree(theta)[0])
        credit = jnp.where(state.position == 0, noise, jnp.where(redraw, state.credit + noise, state.credit))
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = credit / self.sigma**2 * pairs.half_difference(losses)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        position, horizon = windows.next_position(self, state, keys.horizon)
        return terms, GPESState(unrolled.state, credit, noise_key, position, horizon)
