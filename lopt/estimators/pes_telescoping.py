"""`pes_telescoping`: PES for a final loss, which tells every window by how much it changed the loss so far.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): telescoping sums.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class PESTelescopingState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noises applied so far on this trajectory, `[num_pairs, P]`.
      before: losses of the two halves at the end of the last window, `[num_pairs, 2]`.
      evaluate_key: one for all evaluations of a trajectory.
      clock: where it stands.
    """

    states: PyTree
    credit: jax.Array
    before: jax.Array
    evaluate_key: jax.Array
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class PESTelescoping(evolution.WindowedEvolutionStrategy):
    """PES with L_i = (p_w - p_{w-1}) / K, where p_w is the problem's loss after the trajectory's window w, and p_0 = 0.

    The increments add up to the final loss: the mean is that of PES on the final loss, with a signal in every window.
    Increments with the credit of their own window have less variance than p_w credit_w - p_{w-1} credit_{w-1}.
    """

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        if not problem.final_loss or problem.evaluate is None:
            raise InputError(
                "pes_telescoping is for a final-loss objective of a problem that can be evaluated on the way "
                "(meta_loss=final); for other objectives take pes"
            )

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESTelescopingState:
        flat_theta = ravel_pytree(theta)[0]
        states = evolution.blank_halves(problem, theta, clock.horizon)
        before = jnp.zeros(2, flat_theta.dtype)
        return PESTelescopingState(states, jnp.zeros_like(flat_theta), before, jax.random.key(0), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESTelescopingState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESTelescopingState]:
        evaluate = problem.evaluate
        assert evaluate is not None  # check refuses such a problem
        clock, keys = state.clock, pairs.window_keys(key)
        noise = self._noise(keys.noise, clock.step, ravel_pytree(theta)[0])
        own_credit = self._credit(noise, clock.step)
        credit = jnp.where(clock.starts, own_credit, state.credit + own_credit)
        evaluate_key = jnp.where(clock.starts, keys.evaluate, state.evaluate_key)
        unrolled = self._unroll_halves(problem, theta, noise, clock, state.states, keys)
        now = self.layout.map(
            lambda half: evaluate(half[0], half[1], evaluate_key), (evolution.perturb(theta, noise), unrolled.state)
        )
        losses = (now - jnp.where(clock.starts, 0, state.before)) / self.truncation
        terms = self._terms(self._gradient(credit, losses), losses, clock, unrolled.capped)
        clock = self._tick(clock, keys.horizon)
        return terms, PESTelescopingState(unrolled.state, credit, now, evaluate_key, clock)
