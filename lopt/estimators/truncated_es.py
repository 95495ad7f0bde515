"""`truncated_es`: evolution strategies on windows of one unperturbed trajectory. Cheap to tune, and biased.

It misses how theta shaped the state in which the window starts. The baseline of Paul Vicol, Luke Metz, Jascha
Sohl-Dickstein, ICML 2021 (arXiv 2112.13835).
"""

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class TruncatedESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the unperturbed trajectory.
      clock: where it stands.
    """

    state: PyTree
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedES(evolution.WindowedEvolutionStrategy):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2; both halves leave from the pair's unperturbed state.

    Each pair has an unperturbed trajectory of its own: 3 unrolls a pair and window.
    """

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        if problem.final_loss and self.truncation < self.horizon.max_length:
            raise InputError(
                "truncated_es cannot follow a final-loss objective: all windows but the last have no loss. "
                "Take pes or full_es, another meta_loss, or a truncation equal to a fixed horizon."
            )

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> TruncatedESState:
        return TruncatedESState(pairs.blank_state(problem, theta, clock.horizon), clock)

    def _burn_in(self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array) -> Any:
        """The unperturbed trajectory needs no noise: two thirds of a window's work are left out."""
        return self._advance(problem, theta, state, pairs.window_keys(key))

    def _advance(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, keys: pairs.WindowKeys
    ) -> TruncatedESState:
        """The unperturbed trajectory, one window on."""
        inner_state = windows.start_or_continue(problem, theta, state.clock, state.state, keys.init)
        unrolled = pairs.unroll(problem, theta, inner_state, keys.steps, self.truncation)
        return TruncatedESState(unrolled.state, self._tick(state.clock, keys.horizon))

    def _window(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, TruncatedESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise = self._noise(keys.noise, clock.step, ravel_pytree(theta)[0])
        unrolled = self._unroll_halves(problem, theta, noise, clock, evolution.twice(state.state), keys)
        losses = unrolled.loss / self.truncation
        grad = self._gradient(self._credit(noise, clock.step), losses)
        terms = self._terms(grad, losses, clock, unrolled.capped)
        return terms, self._advance(problem, theta, state, keys)
