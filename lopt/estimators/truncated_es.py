"""`truncated_es`: evolution strategies on windows of one unperturbed trajectory. Cheap to tune, and biased.

It misses how theta shaped the state in which the window starts. The baseline of Paul Vicol, Luke Metz, Jascha
Sohl-Dickstein, ICML 2021 (arXiv 2112.13835).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import pairs
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, PyTree, Theta


class TruncatedESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the unperturbed trajectory.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    state: PyTree
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class TruncatedES:
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2; both halves leave from the pair's unperturbed state.

    Attributes:
      num_pairs: N, antithetic pairs, each with an unperturbed trajectory of its own (3 unrolls a pair and window).
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

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> TruncatedESState:
        if problem.final_loss and self.truncation < self.horizon.max_length:
            raise InputError(
                "truncated_es cannot follow a final-loss objective: all windows but the last have no loss. "
                "Take pes or full_es, another meta_loss, or a truncation equal to a fixed horizon."
            )

        def blank(horizon):
            return TruncatedESState(pairs.blank_state(problem, theta, horizon), jnp.zeros((), jnp.int32), horizon)

        return pairs.start_staggered(
            lambda state, window_key: self._advance(problem, theta, state, pairs.window_keys(window_key)),
            blank,
            horizon=self.horizon,
            truncation=self.truncation,
            staggered=self.staggered,
            num_pairs=self.num_pairs,
            layout=self.layout,
            key=key,
        )

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[Estimate, TruncatedESState]:
        _, unravel = ravel_pytree(theta)
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, new_state = self.layout.sum_pairs(lambda pair: self._window(problem, theta, *pair), (state, keys))
        return pairs.mean_over_pairs(sums, self.num_pairs, unravel), new_state

    def _run(self, problem: InnerProblem, theta: Theta, state: TruncatedESState, keys: pairs.WindowKeys):
        """One window with this theta from the pair's state, or from its start."""
        inner_state = jax.lax.cond(
            state.position == 0, lambda: problem.init(theta, keys.init, state.horizon), lambda: state.state
        )
        return pairs.unroll(problem, theta, inner_state, keys.steps, self.truncation)

    def _advance(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, keys: pairs.WindowKeys
    ) -> TruncatedESState:
        """The unperturbed trajectory, one window on."""
        position, length = pairs.advance_position(
            state.position, state.horizon, keys.horizon, horizon=self.horizon, truncation=self.truncation
        )
        return TruncatedESState(self._run(problem, theta, state, keys).state, position, length)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, TruncatedESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = pairs.draw_noise(keys.noise, self.sigma, flat_theta)
        unrolled = self.layout.map(
            lambda flat: self._run(problem, unravel(flat), state, keys),
            jnp.stack([flat_theta + noise, flat_theta - noise]),
        )
        terms = pairs.pair_terms(
            noise / self.sigma**2,
            unrolled.loss / self.truncation,
            capped=unrolled.capped.mean() / self.truncation,
            started=state.position == 0,
            position=state.position,
        )
        return terms, self._advance(problem, theta, state, keys)
