"""`pes`: Persistent Evolution Strategies, unbiased gradients from truncated unrolls.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835).
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
        def blank(horizon):
            states = windows.twice(pairs.blank_state(problem, theta, horizon))
            return PESState(states, jnp.zeros_like(ravel_pytree(theta)[0]), jnp.zeros((), jnp.int32), horizon)

        return windows.start(self, functools.partial(self._window, problem, theta), blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[Estimate, PESState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        noise = pairs.draw_noise(keys.noise, self.sigma, ravel_pytree(theta)[0])
        credit = jnp.where(state.position == 0, noise, state.credit + noise)
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = credit / self.sigma**2 * pairs.half_difference(losses)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        return terms, PESState(unrolled.state, credit, *windows.next_position(self, state, keys.horizon))
