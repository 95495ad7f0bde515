"""`full_es`: evolution strategies on whole trajectories. Unbiased, one estimate a horizon.

Tim Salimans, Jonathan Ho, Xi Chen, Szymon Sidor, Ilya Sutskever, "Evolution strategies as a scalable alternative to
reinforcement learning", 2017 (arXiv 1703.03864).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.estimators import evolution, pairs
from lopt.types import Estimate, InnerProblem, Theta


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullES(evolution.EvolutionStrategy):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with L the sum of a whole trajectory's losses over E[T]."""

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> jax.Array:
        """Estimates made, int32 `[num_pairs]`; nothing else outlives an estimate."""
        del problem, theta, key
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
        """One trajectory of one pair."""
        keys = pairs.window_keys(key)
        noise = self._noise(keys.noise, step, ravel_pytree(theta)[0])
        horizon = self.horizon.sample(keys.horizon, step=step)

        def half(perturbed):
            state = problem.init(perturbed, keys.init, horizon)
            return pairs.unroll(problem, perturbed, state, keys.steps, horizon)

        unrolled = self.layout.map(half, evolution.perturb(theta, noise))
        losses = unrolled.loss / self.horizon.mean(step=step)
        terms = pairs.pair_terms(
            self._gradient(self._credit(noise, step), losses),
            losses,
            capped=unrolled.capped.mean() / horizon,
            started=jnp.ones((), bool),
            position=horizon,
        )
        return terms, step + 1
