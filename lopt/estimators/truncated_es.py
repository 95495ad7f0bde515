"""`truncated_es`: evolution strategies on windows of one unperturbed trajectory. Cheap to tune, and biased.

It misses how theta shaped the state in which the window starts. The baseline of Paul Vicol, Luke Metz, Jascha
Sohl-Dickstein, ICML 2021 (arXiv 2112.13835).
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

        # The unperturbed trajectory needs no noise: two thirds of a window's work are left out.
        def advance(state, window_key):
            return (), self._advance(problem, theta, state, pairs.window_keys(window_key))

        return windows.start(self, advance, blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[Estimate, TruncatedESState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _advance(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, keys: pairs.WindowKeys
    ) -> TruncatedESState:
        """The unperturbed trajectory, one window on."""
        inner_state = windows.start_or_continue(problem, theta, state, state.state, keys.init)
        unrolled = pairs.unroll(problem, theta, inner_state, keys.steps, self.truncation)
        return TruncatedESState(unrolled.state, *windows.next_position(self, state, keys.horizon))

    def _window(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, TruncatedESState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        noise = pairs.draw_noise(keys.noise, self.sigma, ravel_pytree(theta)[0])
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, windows.twice(state.state), keys)
        losses = unrolled.loss / self.truncation
        grad = noise / self.sigma**2 * pairs.half_difference(losses)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        return terms, self._advance(problem, theta, state, keys)
