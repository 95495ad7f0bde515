"""`full_es`: evolution strategies on whole trajectories. Unbiased, with one estimate per trajectory.

Tim Salimans, Jonathan Ho, Xi Chen, Szymon Sidor, Ilya Sutskever, "Evolution strategies as a scalable alternative to
reinforcement learning", 2017 (arXiv 1703.03864).
"""

import dataclasses
from typing import final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, pairs, problems
from lopt.horizons import Horizon
from lopt.types import Estimate, InnerProblem, Theta


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class FullES:
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2, with L the sum of a whole trajectory's losses over E[T].

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: none, signed, standardised or rank: what a difference L+ - L- counts; biased, as `shaping.py` says.
      horizon: T, lengths of trajectories.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    sigma: float = 0.01
    sigma_last: float | None = None
    sigma_steps: int = 0
    pair_shaping: str = "none"
    horizon: Horizon = Horizon(200, 2000)
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        pairs.check_num_pairs(self.num_pairs)
        evolution.check_noise(self)

    def init(self, problem: InnerProblem, theta: Theta, key: jax.Array) -> jax.Array:
        """Number of estimates made, int32 `[num_pairs]`; nothing else outlives an estimate.

        Raises:
          InputError: the problem's functions do not fit each other.
        """
        problems.check_key(key)
        problems.check(problem, theta)
        return pairs.no_estimates(self.num_pairs, self.layout)

    def estimate(
        self, problem: InnerProblem, theta: Theta, state: jax.Array, key: jax.Array, *, step: jax.Array | None = None
    ) -> tuple[Estimate, jax.Array]:
        """One whole trajectory of every pair, and the mean of their estimates."""
        state = state if step is None else jnp.full_like(state, step)

        def one_pair(step, pair_key):
            return self._trajectory(problem, theta, step, pair_key)

        return pairs.estimate(
            one_pair,
            problem,
            theta,
            state,
            key,
            num_pairs=self.num_pairs,
            layout=self.layout,
            pair_shaping=self.pair_shaping,
        )

    def _trajectory(
        self, problem: InnerProblem, theta: Theta, step: jax.Array, key: jax.Array
    ) -> tuple[pairs.PairTerms, jax.Array]:
        """One whole trajectory of one pair; `step` is the number of estimates made before."""
        keys = pairs.window_keys(key)
        noise = evolution.noise_at(self, keys.noise, step, ravel_pytree(theta)[0])
        horizon = self.horizon.sample(keys.horizon, step=step)

        def half(perturbed):
            state = problem.init(perturbed, keys.init, horizon)
            return pairs.unroll(problem, perturbed, state, keys.steps, horizon)

        unrolled = self.layout.map(half, evolution.perturb(theta, noise))
        losses = (unrolled.loss / self.horizon.mean(step=step)).astype(unrolled.loss.dtype)
        terms = pairs.pair_terms(
            evolution.gradient(self, evolution.credit_of(self, noise, step), losses),
            losses,
            final=unrolled.loss,
            ended=jnp.ones((), bool),
            capped=unrolled.capped.mean() / horizon,
            started=jnp.ones((), bool),
            position=horizon,
            steps=horizon,
        )
        return terms, step + 1
