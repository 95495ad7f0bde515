"""`pes_telescoping`: PES for a final loss, which tells every window by how much it changed the loss so far.

Paul Vicol, Luke Metz, Jascha Sohl-Dickstein, "Unbiased gradient estimation in unrolled computation graphs with
Persistent Evolution Strategies", ICML 2021 (arXiv 2112.13835): telescoping sums.
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


class PESTelescopingState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      states: inner states of the two halves, `[num_pairs, 2, ...]`.
      credit: sum of the noises applied so far on this trajectory, `[num_pairs, P]`.
      before: losses of the two halves at the end of the last window, `[num_pairs, 2]`.
      evaluate_key: one for all evaluations of a trajectory.
      position: inner step, int32; 0 for a trajectory that starts with the next window.
      horizon: its length, int32.
    """

    states: PyTree
    credit: jax.Array
    before: jax.Array
    evaluate_key: jax.Array
    position: jax.Array
    horizon: jax.Array


@dataclasses.dataclass(frozen=True)
class PESTelescoping:
    """PES with L_i = (p_w - p_{w-1}) / K, where p_w is the problem's loss after the trajectory's window w, and p_0 = 0.

    The increments add up to the final loss: the mean is that of PES on the final loss, with a signal in every window.
    Increments with the credit of their own window have less variance than p_w credit_w - p_{w-1} credit_{w-1}.

    Attributes:
      num_pairs: N, antithetic pairs.
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

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> PESTelescopingState:
        if not problem.final_loss or problem.evaluate is None:
            raise InputError(
                "pes_telescoping is for a final-loss objective of a problem that can be evaluated on the way "
                "(meta_loss=final); for other objectives take pes"
            )
        flat_theta = ravel_pytree(theta)[0]

        def blank(horizon):
            states = windows.twice(pairs.blank_state(problem, theta, horizon))
            before = jnp.zeros(2, flat_theta.dtype)
            zero = jnp.zeros((), jnp.int32)
            return PESTelescopingState(states, jnp.zeros_like(flat_theta), before, jax.random.key(0), zero, horizon)

        return windows.start(self, functools.partial(self._window, problem, theta), blank, key)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: PESTelescopingState, key: jax.Array
    ) -> tuple[Estimate, PESTelescopingState]:
        return windows.estimate(self, functools.partial(self._window, problem, theta), theta, state, key)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: PESTelescopingState, key: jax.Array
    ) -> tuple[pairs.PairTerms, PESTelescopingState]:
        """One window of one pair."""
        evaluate = problem.evaluate
        assert evaluate is not None  # init refuses such a problem
        keys = pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = pairs.draw_noise(keys.noise, self.sigma, flat_theta)
        started = state.position == 0
        credit = jnp.where(started, noise, state.credit + noise)
        evaluate_key = jnp.where(started, keys.evaluate, state.evaluate_key)
        unrolled = windows.unroll_halves(self, problem, theta, noise, state, state.states, keys)
        now = self.layout.map(
            lambda half: evaluate(unravel(half[0]), half[1], evaluate_key),
            (jnp.stack([flat_theta + noise, flat_theta - noise]), unrolled.state),
        )
        losses = (now - jnp.where(started, 0, state.before)) / self.truncation
        grad = credit / self.sigma**2 * pairs.half_difference(losses)
        terms = windows.window_terms(self, grad, losses, state, unrolled.capped)
        position, horizon = windows.next_position(self, state, keys.horizon)
        return terms, PESTelescopingState(unrolled.state, credit, now, evaluate_key, position, horizon)
