"""`bptt`: backpropagation through whole trajectories. The exact gradient, with one estimate per trajectory.

Paul J. Werbos, "Backpropagation through time: what it does and how to do it", Proceedings of the IEEE 78(10), 1990.
"""

import dataclasses
from typing import final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import gradients, pairs, problems
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, Theta


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class BPTT:
    """g = 1 / N sum_i d L_i / dtheta, with L_i the sum of a whole trajectory's losses over E[T].

    Memory per trajectory: T states, T being the longest horizon, and what one step needs. Time grows with the horizon
    drawn.

    Attributes:
      num_pairs: N, number of trajectories; nothing is paired.
      horizon: T, lengths of trajectories.
      max_norm: largest norm of one trajectory's gradient; a longer one, n times that, is divided by n^2, so that the
        longer it is, the less it says. None: no bound. Where trajectories are chaotic, one gradient can be longer than
        all others together. With a bound, the estimate is biased: it follows trajectories that are not chaotic.
      layout: which device runs which trajectory.
    """

    num_pairs: int = 16
    horizon: Horizon = Horizon(200, 2000)
    max_norm: float | None = None
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        pairs.check_num_pairs(self.num_pairs)
        gradients.check_max_norm(self.max_norm)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> jax.Array:
        """Number of estimates made, int32 `[num_pairs]`; nothing else outlives an estimate.

        Raises:
          InputError: the problem is not differentiable, or its functions do not fit each other.
        """
        problems.check_key(key)
        problems.check(problem, theta)
        gradients.check_differentiable("bptt", problem)
        return pairs.no_estimates(self.num_pairs, self.layout)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: jax.Array, key: jax.Array, *, step: jax.Array | None = None
    ) -> tuple[Estimate, jax.Array]:
        """One trajectory per pair, from its start to its end, and the mean of their gradients."""
        state = state if step is None else jnp.full_like(state, step)

        def one_trajectory(step, trajectory_key):
            return self._trajectory(problem, theta, step, trajectory_key)

        return pairs.estimate(one_trajectory, problem, theta, state, key, num_pairs=self.num_pairs, layout=self.layout)

    def _trajectory(
        self, problem: InnerProblem, theta: Theta, step: jax.Array, key: jax.Array
    ) -> tuple[pairs.PairTerms, jax.Array]:
        """One whole trajectory; `step` is the number of estimates made before."""
        keys = pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        horizon = self.horizon.sample(keys.horizon, step=step)
        first = problem.init(theta, keys.init, horizon)
        ran = gradients.reverse(problem, theta, first, keys.steps, horizon, self.horizon.max_length)
        init = gradients.init_function(problem, theta, keys.init, horizon)
        mean_length = self.horizon.mean(step=step)
        grad = (ran.grad + gradients.pull_init(init, flat_theta, ran.cotangent)) / mean_length
        terms = pairs.pair_terms(
            gradients.shorten(grad, self.max_norm),
            (ran.loss[None] / mean_length).astype(ran.loss.dtype),  # one loss, not a pair
            final=ran.loss[None],
            ended=jnp.ones((), bool),
            capped=ran.capped / horizon,
            started=jnp.ones((), bool),
            position=horizon,
            steps=horizon,
        )
        return terms, step + 1
