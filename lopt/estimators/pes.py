"""`pes`: Persistent Evolution Strategies, unbiased gradients from truncated unrolls.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import pairs
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class PESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noise applied so far on this trajectory, `[num_pairs, P]`.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    states: PyTree
    credit: jax.Array
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class PES:
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2, with credit_i the sum of the trajectory's noises.

    L_i+ and L_i- are mean losses of one window. Each window draws fresh noise; the two halves of a pair share initial
    key, data keys and horizon. Credit contains the window's own noise, and is just that where the window starts a
    trajectory, so that the last loss of a trajectory carries the full credit.

    Attributes:
      num_pairs: N, antithetic pairs; half of the paper's number of particles.
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

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> PESState:
        flat_theta, _ = ravel_pytree(theta)

        def blank(horizon):
            state = pairs.blank_state(problem, theta, horizon)
            states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
            return PESState(states, jnp.zeros_like(flat_theta), jnp.zeros((), jnp.int32), horizon)

        return pairs.start_staggered(
            lambda state, window_key: self._window(problem, theta, state, window_key)[1],
            blank,
            horizon=self.horizon,
            truncation=self.truncation,
            staggered=self.staggered,
            num_pairs=self.num_pairs,
            layout=self.layout,
            key=key,
        )

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[Estimate, PESState]:
        _, unravel = ravel_pytree(theta)
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, new_state = self.layout.sum_pairs(lambda pair: self._window(problem, theta, *pair), (state, keys))
        return pairs.mean_over_pairs(sums, self.num_pairs, unravel), new_state

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = pairs.draw_noise(keys.noise, self.sigma, flat_theta)
        started = state.position == 0
        credit = jnp.where(started, noise, state.credit + noise)

        def half(particle):
            flat, inner_state = particle
            perturbed = unravel(flat)
            inner_state = jax.lax.cond(
                started, lambda: problem.init(perturbed, keys.init, state.horizon), lambda: inner_state
            )
            return pairs.unroll(problem, perturbed, inner_state, keys.steps, self.truncation)

        unrolled = self.layout.map(half, (jnp.stack([flat_theta + noise, flat_theta - noise]), state.states))
        terms = pairs.pair_terms(
            credit / self.sigma**2,
            unrolled.loss / self.truncation,
            capped=unrolled.capped.mean() / self.truncation,
            started=started,
            position=state.position,
        )
        position, length = pairs.advance_position(
            state.position, state.horizon, keys.horizon, horizon=self.horizon, truncation=self.truncation
        )
        return terms, PESState(unrolled.state, credit, position, length)
