"""`pes`: Persistent Evolution Strategies, unbiased gradients from truncated unrolls.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835).
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


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class PES(windows.WindowedEstimator):
    """g = 1 / (sigma^2 N) sum_i credit_i (L_i+ - L_i-) / 2, with credit_i the sum of the trajectory's noises.

    L_i+ and L_i- are mean losses of one window. Each window draws fresh noise; the two halves of a pair share initial
    key, data keys and horizon. Credit contains the window's own noise, and is just that where the window starts a
    trajectory, so that the last loss of a trajectory carries the full credit.

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

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESState:
        states = evolution.blank_halves(problem, theta, clock.horizon)
        return PESState(states, jnp.zeros_like(ravel_pytree(theta)[0]), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise = evolution.noise_at(self, keys.noise, clock.step, ravel_pytree(theta)[0])
        own_credit = evolution.credit_of(self, noise, clock.step)
        credit = jnp.where(clock.starts, own_credit, state.credit + own_credit)
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, state.states, keys)
        losses = unrolled.loss / self.truncation
        terms = self.terms(evolution.gradient(self, credit, losses), losses, clock, unrolled.capped)
        return terms, PESState(unrolled.state, credit, self.tick(clock, keys.horizon))
