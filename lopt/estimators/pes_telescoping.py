"""`pes_telescoping`: PES for a final loss, in which every window is credited with the change of the loss that it made.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): telescoping sums.
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


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class PESTelescoping(windows.WindowedEstimator):
    """PES with L_i = (p_w - p_{w-1}) / K, where p_w is the problem's loss after the trajectory's window w, and p_0 = 0.

    The increments add up to the final loss: the mean is that of PES on the final loss, with a signal in every window.
    Increments with the credit of their own window have less variance than p_w credit_w - p_{w-1} credit_{w-1}.

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: none, signed, standardised or rank: what a difference L+ - L- counts; biased, as `shaping.py` says.
      truncation: K, inner steps per window.
      horizon: T, lengths of trajectories.
      staggered: whether trajectories start spread out over their horizons, rather than all at their first step.
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
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        evolution.check_noise(self)

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the objective is a final loss of a problem with `evaluate`."""
        if not problem.final_loss or problem.evaluate is None:
            raise InputError(
                "pes_telescoping is for a final-loss objective of a problem that can be evaluated on the way "
                "(meta_loss=final); for other objectives take pes"
            )

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> PESTelescopingState:
        assert problem.evaluate is not None  # check refuses such a problem
        state, key = pairs.blank_state(problem, theta, clock.horizon), jax.random.key(0)
        before = jnp.zeros(2, jax.eval_shape(problem.evaluate, theta, state, key).dtype)
        return PESTelescopingState(evolution.twice(state), jnp.zeros_like(ravel_pytree(theta)[0]), before, key, clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESTelescopingState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESTelescopingState]:
        evaluate = problem.evaluate
        assert evaluate is not None  # check refuses such a problem
        clock, keys = state.clock, pairs.window_keys(key)
        noise = evolution.noise_at(self, keys.noise, clock.step, ravel_pytree(theta)[0])
        own_credit = evolution.credit_of(self, noise, clock.step)
        credit = jnp.where(clock.starts, own_credit, state.credit + own_credit)
        evaluate_key = jnp.where(clock.starts, keys.evaluate, state.evaluate_key)
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, state.states, keys)
        now = self.layout.map(
            lambda half: evaluate(half[0], half[1], evaluate_key), (evolution.perturb(theta, noise), unrolled.state)
        )
        losses = (now - jnp.where(clock.starts, 0, state.before)) / self.truncation
        terms = self.terms(evolution.gradient(self, credit, losses), losses, clock, unrolled.capped, final=now)
        clock = self.tick(clock, keys.horizon)
        return terms, PESTelescopingState(unrolled.state, credit, now, evaluate_key, clock)
