"""`gpes`: generalized PES; the noise changes every `noise_period` inner steps of a trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class GPESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noises applied so far on this trajectory, `[num_pairs, P]`.
      noise_key: of the noise now applied, which is drawn again in every window rather than stored.
      noise_step: estimate in which it was first drawn, int32.
      clock: where it stands.
    """

    states: PyTree
    credit: jax.Array
    noise_key: jax.Array
    noise_step: jax.Array
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPES(evolution.WindowedEvolutionStrategy):
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2; credit_i is the sum of the noises since the start.

    A noise period of one window is PES; one of a trajectory or more is NRES.

    Attributes:
      noise_period: inner steps between fresh noises, a multiple of K.
    """

    noise_period: int = 200

    def __post_init__(self):
        super().__post_init__()
        if self.noise_period < 1 or self.noise_period % self.truncation:
            raise InputError(
                f"noise_period must be a multiple of the truncation, {self.truncation}, not {self.noise_period}"
            )

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> GPESState:
        states = evolution.blank_halves(problem, theta, clock.horizon)
        return GPESState(states, jnp.zeros_like(ravel_pytree(theta)[0]), jax.random.key(0), clock.step, clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: GPESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, GPESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        redraw = clock.position % self.noise_period == 0
        noise_key = jnp.where(redraw, keys.noise, state.noise_key)
        noise_step = jnp.where(redraw, clock.step, state.noise_step)
        noise = self._noise(noise_key, noise_step, ravel_pytree(theta)[0])
        own_credit = self._credit(noise, noise_step)
        credit = jnp.where(clock.starts, own_credit, jnp.where(redraw, state.credit + own_credit, state.credit))
        unrolled = self._unroll_halves(problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        terms = self._terms(self._gradient(credit, losses), losses, clock, unrolled.capped)
        return terms, GPESState(unrolled.state, credit, noise_key, noise_step, self._tick(clock, keys.horizon))
