"""`pes_analytic`: PES with the window's own gradient, by backpropagation, as control variate.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): PES+Analytic.
"""

import dataclasses
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, gradients, pairs, windows
from lopt.horizons import Horizon
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


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class PESAnalytic(windows.WindowedEstimator):
    """g = c + 1 / (sigma^2 N) sum_i earlier_i ((L_i+ - L_i-) / 2 - eps_i . c_i), with c the mean of the c_i.

    c_i is the gradient of the window's mean loss with respect to the window's theta, from pair i's unperturbed state;
    earlier_i is the credit without the window's own noise eps_i. A loss that depends on its own window alone, and
    linearly, is estimated without any variance. For quadratics the mean is that of PES; else c is the gradient of the
    unsmoothed window.

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: must be none: the analytic gradient is subtracted from differences, whose size it needs.
      truncation: K, inner steps per window.
      horizon: T, lengths of trajectories.
      staggered: whether trajectories start spread out over their horizons, rather than all at their first step.
      restarts: probability that a pair whose trajectory ended goes on from its stored hard state (`restarts.py`).
      restart_rise: rise of the mean loss above the trajectory's lowest, in its units, that makes a state hard.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    sigma: float = 0.01
    sigma_last: float | None = None
    sigma_steps: int = 0
    pair_shaping: str = "none"
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    restarts: float = 0.0
    restart_rise: float = 0.1
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        evolution.check_noise(self)
        if self.pair_shaping != "none":
            raise InputError(
                "pes_analytic subtracts a gradient from the differences of losses, so it needs their size: "
                "take another estimator for pair_shaping"
            )

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable."""
        gradients.check_differentiable("pes_analytic", problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESAnalyticState:
        state = pairs.blank_state(problem, theta, clock.horizon)
        return PESAnalyticState(evolution.twice(state), state, jnp.zeros_like(ravel_pytree(theta)[0]), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESAnalyticState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESAnalyticState]:
        clock, keys = state.clock, pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = evolution.noise_at(self, keys.noise, clock.step, flat_theta)
        earlier = jnp.where(clock.starts, 0, state.credit)

        def mean_loss(flat):
            inner_state = windows.start_or_continue(problem, unravel(flat), clock, state.state, keys.init)
            unrolled = pairs.unroll(problem, unravel(flat), inner_state, keys.steps, self.truncation)
            return unrolled.loss / self.truncation, unrolled.state

        analytic, inner_state = jax.grad(mean_loss, has_aux=True)(flat_theta)
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        # What the analytic gradient explains of the halves' losses is taken out, and added back without noise.
        unexplained = losses - jnp.stack([noise @ analytic, -noise @ analytic])
        grad = analytic + evolution.gradient(self, earlier, unexplained)
        terms = self.terms(grad, losses, clock, unrolled.capped)
        credit = earlier + evolution.credit_of(self, noise, clock.step)
        return terms, PESAnalyticState(unrolled.state, inner_state, credit, self.tick(clock, keys.horizon))
