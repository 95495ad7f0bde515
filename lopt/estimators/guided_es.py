"""`guided_es`: evolution strategies on windows, with half of the noise along recent gradients by backpropagation.

Niru Maheswaranathan, Luke Metz, George Tucker, Dami Choi, Jascha Sohl-Dickstein, "Guided evolutionary strategies:
augmenting random search with surrogate gradients", ICML 2019 (arXiv 1806.10230).
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

SPANNED = 1e-4  # of the largest eigenvalue of the gradients' products: what is below is no direction of its own


class GuidedESState(NamedTuple):
    """Every array has a leading axis of `num_pairs`.

    Attributes:
      state: inner state of the unperturbed trajectory.
      recent: its latest window gradients, scaled to norm 1 and the newest first, `[num_pairs, k, P]`; zeros where there
        was none yet, or none that was finite.
      clock: where it stands.
    """

    state: PyTree
    recent: jax.Array
    clock: windows.Clock


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedES(windows.WindowedEstimator):
    """g = 1 / (sigma^2 N) sum_i eps_i (L_i+ - L_i-) / 2 with eps_i ~ N(0, sigma^2 [a I + (1 - a) (P / k) U_i U_i^T]).

    The columns of U_i `[P, k]` are an orthonormal basis of the gradients of pair i's latest windows, by backpropagation
    through its unperturbed trajectory. This is the paper's N(0, s^2 [a/P I + (1 - a)/k U U^T]) with s^2 = P sigma^2:
    noise has the size that it has in `truncated_es` with this sigma, and a = 1 is `truncated_es`.

    E[g] is the covariance, over sigma^2, times the gradient of the window: a descent direction, but biased towards the
    span of U_i, where it is P / k times as large, and in that to the bias of `truncated_es`. For outer optimizers that
    rescale. The variance is that of a problem with about k numbers in place of P, as far as the gradient lies in the
    span.

    Attributes:
      num_pairs: N, number of antithetic pairs.
      sigma: standard deviation of the noise on theta; with a schedule, the first one.
      sigma_last: the value that sigma reaches, geometrically, after `sigma_steps` estimates; None: sigma is constant.
      sigma_steps: number of estimates until sigma reaches `sigma_last`.
      pair_shaping: none, signed, standardised or rank: what a difference L+ - L- counts; biased, as `shaping.py` says.
      isotropic: a, share of the noise's variance that has no preferred direction, above 0 and at most 1.
      num_gradients: k, number of latest gradients that span the subspace; fewer if they are not independent.
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
    isotropic: float = 0.5
    num_gradients: int = 4
    truncation: int = 50
    horizon: Horizon = Horizon(200, 2000)
    staggered: bool = True
    restarts: float = 0.0
    restart_rise: float = 0.1
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        windows.check_windows(self)
        evolution.check_noise(self)
        if not 0 < self.isotropic <= 1:
            raise InputError(
                f"isotropic, a share of the noise's variance, must be above 0 and at most 1, not {self.isotropic}"
            )
        if self.num_gradients < 1:
            raise InputError(f"num_gradients must be at least 1, not {self.num_gradients}")

    def check(self, problem: InnerProblem, theta: Theta) -> None:
        """Raises InputError unless the problem is differentiable and every window has a loss."""
        gradients.check_differentiable("guided_es", problem)
        windows.check_every_window_has_a_loss("guided_es", self, problem)

    def _blank(self, problem: InnerProblem, theta: Theta, clock: windows.Clock) -> GuidedESState:
        flat_theta, _ = ravel_pytree(theta)
        recent = jnp.zeros((self.num_gradients, flat_theta.size), flat_theta.dtype)
        return GuidedESState(pairs.blank_state(problem, theta, clock.horizon), recent, clock)

    def _window(
        self, problem: InnerProblem, theta: Theta, state: GuidedESState, key: jax.Array
    ) -> tuple[pairs.PairTerms, GuidedESState]:
        clock, keys = state.clock, pairs.window_keys(key)
        flat_theta, _ = ravel_pytree(theta)
        everywhere = evolution.noise_at(self, keys.noise, clock.step, flat_theta)
        within = evolution.noise_at(self, jax.random.fold_in(keys.noise, 1), clock.step, state.recent[:, 0])
        noise = guide(everywhere, within, state.recent, self.isotropic)
        unrolled = evolution.unroll_halves(self, problem, theta, noise, clock, evolution.twice(state.state), keys)
        losses = unrolled.loss / self.truncation
        grad = evolution.gradient(self, evolution.credit_of(self, noise, clock.step), losses)
        terms = self.terms(grad, losses, clock, unrolled.capped)
        ran = gradients.reverse_window(problem, theta, state.state, clock, keys, self.truncation)
        recent = jnp.concatenate([_unit(ran.grad)[None], state.recent[:-1]])
        return terms, GuidedESState(ran.state, recent, self.tick(clock, keys.horizon))


def guide(everywhere: jax.Array, within: jax.Array, recent: jax.Array, isotropic: float) -> jax.Array:
    """sqrt(a) x + sqrt((1 - a) P / k) U y, `[P]`, with U an orthonormal basis of the span of k vectors.

    Vectors that depend on the others count once, and k with them; x alone where all of them are 0.

    Args:
      everywhere: x, `[P]`.
      within: y, one number per vector.
      recent: the vectors, `[k, P]`.
      isotropic: a.
    """
    # U = G^T V lambda^(-1/2) V^T, for the vectors G and the eigenvectors V of G G^T: of all bases, the one in which the
    # signs and the order of the eigenvectors, which rounding decides, do not matter.
    values, vectors = jnp.linalg.eigh(recent @ recent.T)
    spanned = values > jnp.maximum(SPANNED * values[-1], jnp.finfo(values.dtype).tiny)
    number = spanned.sum()
    coordinates = jnp.where(spanned, (within @ vectors) * jax.lax.rsqrt(jnp.where(spanned, values, 1)), 0)
    share = jnp.where(number > 0, isotropic, 1.0)
    scale = jnp.sqrt((1 - share) * everywhere.size / jnp.maximum(number, 1))
    noise = jnp.sqrt(share) * everywhere + scale * ((vectors @ coordinates) @ recent)
    return noise.astype(everywhere.dtype)


def _unit(grad: jax.Array) -> jax.Array:
    """The vector with norm 1; 0 for one that is 0 or not finite."""
    norm = jnp.linalg.norm(grad)
    usable = jnp.isfinite(norm) & (norm > 0)
    return jnp.where(usable, grad / jnp.where(usable, norm, 1), 0)
