"""`full_es`: evolution strategies on whole trajectories. Unbiased, one estimate a horizon.

Tim Salimans, Jonathan Ho, Xi Chen, Szymon Sidor, Ilya Sutskever, "Evolution strategies as a scalable alternative to
reinforcement learning", 2017 (arXiv 1703.03864).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import pairs
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, Theta


@dataclasses.dataclass(frozen=True)
class FullES:
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with L the sum of a whole trajectory's losses over E[T].

    Attributes:
      num_pairs: N, antithetic pairs.
      sigma: standard deviation of the noise.
      horizon: lengths of trajectories.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    sigma: float = 0.01
    horizon: Horizon = Horizon(200, 2000)
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        pairs.check_settings(self.num_pairs, self.sigma)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> tuple[()]:
        """Nothing outlives an estimate."""
        del problem, theta, key
        return ()

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: tuple[()], key: jax.Array
    ) -> tuple[Estimate, tuple[()]]:
        _, unravel = ravel_pytree(theta)
        keys = pairs.pair_keys(key, self.num_pairs)
        sums, _ = self.layout.sum_pairs(lambda pair_key: (self._trajectory(problem, theta, pair_key), ()), keys)
        return pairs.mean_over_pairs(sums, self.num_pairs, unravel), state

    def _trajectory(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> pairs.PairTerms:
        """One trajectory of one pair."""
        keys = pairs.window_keys(key)
        flat_theta, unravel = ravel_pytree(theta)
        noise = pairs.draw_noise(keys.noise, self.sigma, flat_theta)
        horizon = self.horizon.sample(keys.horizon)

        def half(flat):
            perturbed = unravel(flat)
            state = problem.init(perturbed, keys.init, horizon)
            return pairs.unroll(problem, perturbed, state, keys.steps, horizon)

        unrolled = self.layout.map(half, jnp.stack([flat_theta + noise, flat_theta - noise]))
        losses = unrolled.loss / self.horizon.mean()
        return pairs.pair_terms(
            noise / self.sigma**2 * pairs.half_difference(losses),
            losses,
            capped=unrolled.capped.mean() / horizon,
            started=jnp.ones((), bool),
            position=horizon,
        )
