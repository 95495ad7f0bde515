"""`nres`: Noise-Reuse Evolution Strategies, one noise per trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180); the same as ES-Single: Paul Vicol, Zico
Kolter, Kevin Swersky, "Low-variance gradient estimation in unrolled computation graphs with ES-Single", ICML 2023
(arXiv 2304.11153).
"""

import dataclasses
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, pairs, windows
from lopt.horizons import Horizon
from lopt.types import InnerProblem, PyTree, Theta


class NRESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      noise_key: of the trajectory's noise, which is drawn again in every window rather than stored.
      noise_step: estimate in which it was first drawn, int32.
      clock: where it stands.
    """

    states: PyTree
    noise_key: jax.Array
    noise_step: jax.Array
    clock: windows.Clock


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class NRES(windows.WindowedEstimator):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with the same eps_i in all windows of a trajectory.

    The estimates of a trajectory add up to full ES with its noise. Unbiased for the loss smoothed as a whole, where PES
    smooths every window on its own; the variance of a window's estimate does not grow along the trajectory.

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: none, signed, standardised or rank: what a difference L+ - L- counts; biased, as `shaping.py` says.
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

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Accepts every problem."""

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> NRESState:
        states = evolution.blank_halves(problem, theta, clock.horizon)
        return NRESState(states, jax.random.key(0), clock.step, clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: NRESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, NRESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise_key = jnp.where(clock.starts, keys.noise, state.noise_key)
        noise_step = jnp.where(clock.starts, clock.step, state.noise_step)
        noise = evolution.noise_at(self, noise_key, noise_step, ravel_pytree(theta)[0])
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        grad = evolution.gradient(self, evolution.credit_of(self, noise, noise_step), losses)
        terms = self.terms(grad, losses, clock, unrolled.capped)
        return terms, NRESState(unrolled.state, noise_key, noise_step, self.tick(clock, keys.horizon))
