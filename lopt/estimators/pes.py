"""`pes`: Persistent Evolution Strategies, unbiased gradients from truncated unrolls.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.types import InnerProblem, PyTree, Theta


class PESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noises applied so far on this trajectory, `[num_pairs, P]`.
      clock: where it stands.
    """

    states: PyTree
    credit: jax.Array
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class PES(evolution.WindowedEvolutionStrategy):
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2, with credit_i the sum of the trajectory's noises.

    L_i+ and L_i- are mean losses of one window. Each window draws fresh noise; the two halves of a pair share initial
    key, data keys and horizon. Credit contains the window's own noise, and is just that where the window starts a
    trajectory, so that the last loss of a trajectory carries the full credit.
    """

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESState:
        states = evolution.blank_halves(problem, theta, clock.horizon)
        return PESState(states, jnp.zeros_like(ravel_pytree(theta)[0]), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise = self._noise(keys.noise, clock.step, ravel_pytree(theta)[0])
        own_credit = self._credit(noise, clock.step)
        credit = jnp.where(clock.starts, own_credit, state.credit + own_credit)
        unrolled = self._unroll_halves(problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        terms = self._terms(self._gradient(credit, losses), losses, clock, unrolled.capped)
        return terms, PESState(unrolled.state, credit, self._tick(clock, keys.horizon))
