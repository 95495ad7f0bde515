"""`bptt`: backpropagation through whole trajectories. The exact gradient, one estimate a horizon.

Paul J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78(10), 1990.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import gradients, pairs
from lopt.types import Estimate, InnerProblem, Theta


@dataclasses.dataclass(frozen=True, kw_only=True)
class BPTT(pairs.PairEstimator):
    """g = 1 / N sum_i d L_i / dtheta, with L_i the sum of a whole trajectory's losses over E[T].

    `num_pairs` is N, the number of trajectories; nothing is paired. Memory T states a trajectory, T the longest
    horizon, and the inside of one step; time as long as the horizon drawn.
    """

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> jax.Array:
        """Estimates made, int32 `[num_pairs]`; nothing else outlives an estimate."""
        del theta, key
        gradients.check_differentiable("bptt", problem)
        return self._no_estimates()

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: jax.Array, key: jax.Array
    ) -> tuple[Estimate, jax.Array]:
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, state = self.layout.sum_pairs(lambda pair: self._trajectory(problem, theta, *pair), (state, keys))
        return pairs.mean_over_pairs(sums, self.num_pairs, theta), state

    def _trajectory(
        self, problem: InnerProblem, theta: Theta, step: jax.Array, key: jax.Array
    ) -> tuple[pairs.PairTerms, jax.Array]:
        """One trajectory."""
        keys = pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        horizon = self.horizon.sample(keys.horizon, step=step)
        first = problem.init(theta, keys.init, horizon)
        ran = gradients.reverse(problem, theta, first, keys.steps, horizon, self.horizon.max_length)
        init = gradients.init_function(problem, theta, keys.init, horizon)
        mean_length = self.horizon.mean(step=step)
        terms = pairs.pair_terms(
            (ran.grad + gradients.pull_init(init, flat_theta, ran.cotangent)) / mean_length,
            ran.loss[None] / mean_length,  # one loss, not a pair
            capped=ran.capped / horizon,
            started=jnp.ones((), bool),
            position=horizon,
        )
        return terms, step + 1
