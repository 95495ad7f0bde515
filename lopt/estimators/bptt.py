"""`bptt`: backpropagation through whole trajectories. The exact gradient, one estimate a horizon.

Paul J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78(10), 1990.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, Theta


@dataclasses.dataclass(frozen=True)
class BPTT:
    """g = 1 / N sum_i d L_i / dtheta, with L_i the sum of a whole trajectory's losses over E[T].

    Memory T states a trajectory, T the longest horizon, and the inside of one step; time as long as the horizon drawn.

    Attributes:
      num_pairs: N, the number of trajectories; nothing is paired.
      horizon: lengths of trajectories.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    horizon: Horizon = Horizon(200, 2000)
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        gradients.check_num_pairs(self.num_pairs)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> tuple[()]:
        """Nothing outlives an estimate."""
        del theta, key
        gradients.check_differentiable("bptt", problem)
        return ()

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: tuple[()], key: jax.Array
    ) -> tuple[Estimate, tuple[()]]:
        _, unravel = ravel_pytree(theta)
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, _ = self.layout.sum_pairs(lambda one_key: (self._trajectory(problem, theta, one_key), ()), keys)
        return pairs.mean_over_pairs(sums, self.num_pairs, unravel), state

    def _trajectory(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> pairs.PairTerms:
        """One trajectory."""
        keys = pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        horizon = self.horizon.sample(keys.horizon)
        first = problem.init(theta, keys.init, horizon)
        ran = gradients.reverse(problem, theta, first, keys.steps, horizon, self.horizon.max_length)
        init = gradients.init_function(problem, theta, keys.init, horizon)
        mean_length = self.horizon.mean()
        return pairs.pair_terms(
            (ran.grad + gradients.pull_init(init, flat_theta, ran.cotangent)) / mean_length,
            ran.loss[None] / mean_length,  # one loss, not a pair
            capped=ran.capped / horizon,
            started=jnp.ones((), bool),
            position=horizon,
        )
