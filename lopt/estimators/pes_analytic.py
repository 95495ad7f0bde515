"""`pes_analytic`: PES with the window's own gradient, by backpropagation, as control variate.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): PES+Analytic.
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


class PESAnalyticState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      state: inner state of the trajectory that theta itself drives, `[num_pairs, ...]`.
      credit: sum of the noises of the windows before the next one, `[num_pairs, P]`.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    states: PyTree
    state: PyTree
    credit: jax.Array
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class PESAnalytic:
    """g = c + 1 / (sigma^2 N) sum_i earlier_i ((L_i+ - L_i-) / 2 - eps_i . c_i), with c the mean of the c_i.

    c_i is the gradient of the window's mean loss with respect to the window's theta, from pair i's unperturbed state;
    earlier_i is the credit without the window's own noise eps_i. A loss that depends on its own window alone, and
    linearly, is estimated without any variance. For quadratics the mean is that of PES; else c is the gradient of the
    unsmoothed window.

    Attributes:
      num_pairs: N, antithetic pairs, each with an unperturbed trajectory of its own.
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

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> PESAnalyticState:
        if not problem.differentiable:
            raise InputError("pes_analytic differentiates the window, and the problem is not differentiable: take pes")

        def blank(horizon):
            state = pairs.blank_state(problem, theta, horizon)
            credit = jnp.zeros_like(ravel_pytree(theta)[0])
            return PESAnalyticState(windows.twice(state), state, credit, jnp.zeros((), jnp.int32), horizon)

        return windows.start(self, functools.partial(self._window, problem, theta), blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: PESAnalyticState, key: jax.Array
    ) -> tuple[Estimate, PESAnalyticState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESAnalyticState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESAnalyticState]:
        """One window of one pair."""
        keys = pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = pairs.draw_noise(keys.noise, self.sigma, flat_theta)
        earlier = jnp.where(state.position == 0, 0, state.credit)

        def mean_loss(flat):
            inner_state = windows.start_or_continue(problem, unravel(flat), state, state.state, keys.init)
            unrolled = pairs.unroll(problem, unravel(flat), inner_state, keys.steps, self.truncation)
            return unrolled.loss / self.truncation, unrolled.state

        analytic, inner_state = jax.grad(mean_loss, has_aux=True)(flat_theta)
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = analytic + earlier / self.sigma**2 * (pairs.half_difference(losses) - noise @ analytic)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        position, horizon = windows.next_position(self, state, keys.horizon)
        return terms, PESAnalyticState(unrolled.state, inner_state, earlier + noise, position, horizon)
