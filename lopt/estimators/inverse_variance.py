"""`inverse_variance`: evolution strategies and backpropagation on the same windows, each trusted where it varies less.

Luke Metz, Niru Maheswaranathan, Jeremy Nixon, C. Daniel Freeman, Jascha Sohl-Dickstein, "Understanding and correcting
pathologies in the training of learned optimizers", ICML 2019 (arXiv 1810.10180).
"""

import dataclasses
from typing import NamedTuple, final

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import evolution, gradients, pairs, windows
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import InnerProblem, PyTree, Theta


class InverseVarianceState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the unperturbed trajectory.
      clock: where it stands.
    """

    state: PyTree
    clock: windows.Clock


def combine(sums: pairs.PairTerms) -> pairs.PairTerms:
    """The combined estimate of all pairs, from sums over the rows es, bp, es^2, bp^2, es bp of each pair, `[5, P]`.

    g = (bp / v_bp + es / v_es) / (1 / v_bp + 1 / v_es) = w bp + (1 - w) es with w = v_es / (v_es + v_bp), for each
    coordinate; where both variances are 0, as with a single pair, w = 1/2. The variance that is logged is that of the
    pairs' w bp_i + (1 - w) es_i, which the same noise has made, so that they are no independent estimates.
    """
    number = jnp.maximum(sums.used, 1)
    es, bp, es_square, bp_square, product = sums.grad / number
    v_es, v_bp = jnp.maximum(es_square - es**2, 0), jnp.maximum(bp_square - bp**2, 0)
    both = v_es + v_bp
    w = jnp.where(both > 0, v_es / jnp.where(both > 0, both, 1), 0.5)
    grad = w * bp + (1 - w) * es
    variance = jnp.sum(w**2 * v_bp + (1 - w) ** 2 * v_es + 2 * w * (1 - w) * (product - es * bp))
    return sums._replace(grad=number * grad, square=number * (variance + grad @ grad))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseVariance(windows.WindowedEstimator):
    """g = (g_bp / v_bp + g_es / v_es) / (1 / v_bp + 1 / v_es), for each coordinate of theta.

    g_es is the mean of eps_i (L_i+ - L_i-) / (2 sigma^2) over pairs, g_bp that of the gradients of (L_i+ + L_i-) / 2 by
    backpropagation; v_es and v_bp are their variances over the pairs. Both halves start from the pair's unperturbed
    state, so both estimate the gradient of the same smoothed window, with the bias of `truncated_es`. Where
    trajectories are chaotic, backpropagation varies wildly and evolution strategies count; elsewhere the other way
    round. The weights come from the pairs that they weigh: with few pairs that adds bias, where an estimate and its
    deviation are correlated.

    Attributes:
      num_pairs: N, number of antithetic pairs; with 1, the two estimates count alike.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: must be none: backpropagation gives the size of the gradient, and the two must agree.
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

    combine = staticmethod(combine)

    def __post_init__(self):
        windows.check_windows(self)
        evolution.check_noise(self)
        if self.pair_shaping != "none":
            raise InputError(
                "inverse_variance combines differences of losses with gradients, so it needs their size: "
                "take another estimator for pair_shaping"
            )

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable and every window has a loss."""
        gradients.check_differentiable("inverse_variance", problem)
        windows.check_every_window_has_a_loss("inverse_variance", self, problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> InverseVarianceState:
        return InverseVarianceState(pairs.blank_state(problem, theta, clock.horizon), clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: InverseVarianceState, key: jax.Array
    ) -> tuple[pairs.PairTerms, InverseVarianceState]:
        clock, keys = state.clock, pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        noise = evolution.noise_at(self, keys.noise, clock.step, flat_theta)

        def half(perturbed: Theta) -> tuple[gradients.Reversed, jax.Array]:
            ran = gradients.reverse_window(problem, perturbed, state.state, clock, keys, self.truncation)
            return ran, ran.grad / self.truncation

        ran, by_half = self.layout.map(half, evolution.perturb(theta, noise))
        losses, bp = ran.loss / self.truncation, by_half.mean(0)
        es = evolution.gradient(self, evolution.credit_of(self, noise, clock.step), losses)
        rows = jnp.stack([es, bp, es**2, bp**2, es * bp])
        terms = self.terms(rows, losses, clock, ran.capped)
        first = windows.start_or_continue(problem, theta, clock, state.state, keys.init)
        unperturbed = pairs.unroll(problem, theta, first, keys.steps, self.truncation)
        return terms, InverseVarianceState(unperturbed.state, self.tick(clock, keys.horizon))
