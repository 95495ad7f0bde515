"""`truncated_es`: evolution strategies on windows of one unperturbed trajectory. Cheap to tune, and biased.

It does not see how theta shaped the state in which the window starts. The baseline of Paul Vicol, Luke Metz, Jascha
Sohl-Dickstein, ICML 2021 (arXiv 2112.13835).
"""

import dataclasses
from typing import NamedTuple, final

import jax
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, pairs, windows
from lopt.horizons import Horizon
from lopt.types import InnerProblem, PyTree, Theta


class TruncatedESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the unperturbed trajectory.
      clock: where it stands.
    """

    state: PyTree
    clock: windows.Clock


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class TruncatedES(windows.WindowedEstimator):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2; both halves start from the pair's unperturbed state.

    Each pair has an unperturbed trajectory of its own: 3 unrolls per pair and window.

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
        """Raises InputError unless every window has a loss."""
        windows.check_every_window_has_a_loss("truncated_es", self, problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> TruncatedESState:
        return TruncatedESState(pairs.blank_state(problem, theta, clock.horizon), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: TruncatedESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, TruncatedESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        noise = evolution.noise_at(self, keys.noise, clock.step, ravel_pytree(theta)[0])
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, evolution.twice(state.state), keys)
        losses = unrolled.loss / self.truncation
        grad = evolution.gradient(self, evolution.credit_of(self, noise, clock.step), losses)
        terms = self.terms(grad, losses, clock, unrolled.capped)
        first = windows.start_or_continue(problem, theta, clock, state.state, keys.init)
        unperturbed = pairs.unroll(problem, theta, first, keys.steps, self.truncation)
        return terms, TruncatedESState(unperturbed.state, self.tick(clock, keys.horizon))
