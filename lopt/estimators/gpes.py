"""`gpes`: generalized PES; the noise changes every `noise_period` inner steps of a trajectory.

Oscar Li, James Harrison, Jascha Sohl-Dickstein, Virginia Smith, Luke Metz, "Variance-reduced gradient estimation via
noise-reuse in online evolution strategies", NeurIPS 2023 (arXiv 2304.12180).
"""

import dataclasses
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, pairs, windows
from lopt.horizons import Horizon
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


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class GPES(windows.WindowedEstimator):
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2; credit_i is the sum of the noises since the start.

    A noise period of one window is PES; one of a trajectory or more is NRES.

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: none, signed, standardised or rank: what a difference L+ - L- counts; biased, as `shaping.py` says.
      noise_period: inner steps between fresh noises, a multiple of K.
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
    noise_period: int = 200
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    restarts: float = 0.0
    restart_rise: float = 0.1
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        evolution.check_noise(self)
        if self.noise_period < 1 or self.noise_period % self.truncation:
            raise InputError(
                f"noise_period must be a multiple of the truncation, {self.truncation}, not {self.noise_period}"
            )

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Accepts every problem."""

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
        noise = evolution.noise_at(self, noise_key, noise_step, ravel_pytree(theta)[0])
        own_credit = evolution.credit_of(self, noise, noise_step)
        credit = jnp.where(clock.starts, own_credit, jnp.where(redraw, state.credit + own_credit, state.credit))
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        terms = self.terms(evolution.gradient(self, credit, losses), losses, clock, unrolled.capped)
        return terms, GPESState(unrolled.state, credit, noise_key, noise_step, self.tick(clock, keys.horizon))
