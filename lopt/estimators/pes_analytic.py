"""`pes_analytic`: PES with the window's own gradient, by backpropagation, as control variate.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): PES+Analytic.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs, windows
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class PESAnalyticState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      state: inner state of the trajectory that theta itself drives, `[num_pairs, ...]`.
      credit: sum of the noises of the windows before the next one, `[num_pairs, P]`.
      clock: where it stands.
    """

    states: PyTree
    state: PyTree
    credit: jax.Array
    clock: windows.Clock


@dataclasses.dataclass(frozen=True, kw_only=True)
class PESAnalytic(evolution.WindowedEvolutionStrategy):
    """g = c + 1 / (sigma^2 N) sum_i earlier_i ((L_i+ - L_i-) / 2 - eps_i . c_i), with c the mean of the c_i.

    c_i is the gradient of the window's mean loss with respect to the window's theta, from pair i's unperturbed state;
    earlier_i is the credit without the window's own noise eps_i. A loss that depends on its own window alone, and
    linearly, is estimated without any variance. For quadratics the mean is that of PES; else c is the gradient of the
    unsmoothed window.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.signed:
            raise InputError(
                "pes_analytic subtracts a gradient from the differences, so it needs their size: not signed"
            )

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        if not problem.differentiable:
            raise InputError("pes_analytic differentiates the window, and the problem is not differentiable: take pes")

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESAnalyticState:
        state = pairs.blank_state(problem, theta, clock.horizon)
        return PESAnalyticState(evolution.twice(state), state, jnp.zeros_like(ravel_pytree(theta)[0]), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESAnalyticState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESAnalyticState]:
        clock, keys = state.clock, pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = self._noise(keys.noise, clock.step, flat_theta)
        earlier = jnp.where(clock.starts, 0, state.credit)

        def mean_loss(flat):
            inner_state = windows.start_or_continue(problem, unravel(flat), clock, state.state, keys.init)
            unrolled = pairs.unroll(problem, unravel(flat), inner_state, keys.steps, self.truncation)
            return unrolled.loss / self.truncation, unrolled.state

        analytic, inner_state = jax.grad(mean_loss, has_aux=True)(flat_theta)
        unrolled = self._unroll_halves(problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        # What the analytic gradient explains of the halves' losses is taken out, and added back without noise.
        unexplained = losses - jnp.stack([noise @ analytic, -noise @ analytic])
        grad = analytic + self._gradient(earlier, unexplained)
        terms = self._terms(grad, losses, clock, unrolled.capped)
        credit = earlier + self._credit(noise, clock.step)
        return terms, PESAnalyticState(unrolled.state, inner_state, credit, self._tick(clock, keys.horizon))
