"""What all estimators share: settings, keys, unrolling, and the mean over pairs."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.horizons import Horizon
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, PyTree, Theta


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairEstimator:
    """The settings of every estimator.

    Attributes:
      num_pairs: N, antithetic pairs; for methods without noise on theta, trajectories.
      horizon: lengths of trajectories.
      layout: which device runs which pair.
    """

    num_pairs: int = 16
    horizon: Horizon = Horizon(200, 2000)
    layout: PairLayout = PairLayout()

    def __post_init__(self):
        if self.num_pairs < 1:
            raise InputError(f"num_pairs must be at least 1, not {self.num_pairs}")

    def _no_estimates(self) -> jax.Array:
        """A count of estimates for each pair, int32 `[num_pairs]`, lying as it will after the first one."""
        return jax.lax.with_sharding_constraint(jnp.zeros(self.num_pairs, jnp.int32), self.layout.split)


class WindowKeys(NamedTuple):
    """The keys of one window of one pair. Equal use in all estimators makes their noise comparable."""

    noise: jax.Array
    init: jax.Array
    steps: jax.Array
    horizon: jax.Array
    evaluate: jax.Array


def window_keys(key: jax.Array) -> WindowKeys:
    return WindowKeys(*jax.random.split(key, len(WindowKeys._fields)))


def pair_keys(key: jax.Array, num_pairs: int) -> jax.Array:
    """One key a pair `[num_pairs]`."""
    return jax.random.split(key, num_pairs)


class Unrolled(NamedTuple):
    """Attributes: state after the steps; loss, sum over the steps; capped, number of steps at the problem's cap."""

    state: PyTree
    loss: jax.Array
    capped: jax.Array


def unroll(problem: InnerProblem, theta: Theta, state: PyTree, key: jax.Array, num_steps: int | jax.Array) -> Unrolled:
    """Runs `num_steps` inner steps of one particle; the key of step i is `fold_in(key, i)`."""

    def body(i, carry: Unrolled) -> Unrolled:
        new_state, loss = problem.step(theta, carry.state, jax.random.fold_in(key, i))
        capped = jnp.zeros((), bool) if problem.cap is None else loss >= problem.cap
        return Unrolled(new_state, carry.loss + loss, carry.capped + capped)

    _, loss_shape = jax.eval_shape(problem.step, theta, state, key)
    zero = Unrolled(state, jnp.zeros((), loss_shape.dtype), jnp.zeros((), jnp.int32))
    return jax.lax.fori_loop(0, num_steps, body, zero)


class PairTerms(NamedTuple):
    """What one pair adds to the sums over pairs. Every field is 0 for a pair that is left out, but the last four.

    Attributes:
      grad: `[P]`. square: |grad|^2. loss: mean loss of the steps just run. used: 1 unless left out.
      capped, started: share of steps at the cap, and of trajectories started. position, position_square: inner step.
    """

    grad: jax.Array
    square: jax.Array
    loss: jax.Array
    used: jax.Array
    capped: jax.Array
    started: jax.Array
    position: jax.Array
    position_square: jax.Array


def pair_terms(
    grad: jax.Array, losses: jax.Array, *, capped: jax.Array, started: jax.Array, position: jax.Array
) -> PairTerms:
    """One pair's share in the mean; left out if it is not finite: one diverged particle must not reach theta.

    Args:
      grad: the pair's estimate, `[P]`.
      losses: mean losses of its two halves, `[2]`.
    """
    used = jnp.isfinite(grad).all() & jnp.isfinite(losses).all()
    grad = jnp.where(used, grad, 0)
    position = position.astype(losses.dtype)
    return PairTerms(
        grad=grad,
        square=grad @ grad,
        loss=jnp.where(used, losses.mean(), 0),
        used=used.astype(losses.dtype),
        capped=capped.astype(losses.dtype),
        started=started.astype(losses.dtype),
        position=position,
        position_square=position**2,
    )


def mean_over_pairs(sums: PairTerms, num_pairs: int, theta: Theta) -> Estimate:
    """The mean over the pairs that are used, and what a person tunes by."""
    used = jnp.maximum(sums.used, 1)
    grad = sums.grad / used
    norm_square = grad @ grad
    position = sums.position / num_pairs
    info: Mapping[str, jax.Array] = {
        "grad_norm": jnp.sqrt(norm_square),
        # Of the mean, summed over theta; from the spread of the pairs.
        "grad_variance": jnp.maximum(sums.square / used - norm_square, 0) / jnp.maximum(used - 1, 1),
        "capped": sums.capped / num_pairs,
        "started": sums.started / num_pairs,
        "left_out": 1 - sums.used / num_pairs,
        "position": position,
        "position_std": jnp.sqrt(jnp.maximum(sums.position_square / num_pairs - position**2, 0)),
    }
    return Estimate(ravel_pytree(theta)[1](grad), sums.loss / used, info)


def blank_state(problem: InnerProblem, theta: Theta, horizon: jax.Array) -> PyTree:
    """Zeros in the shape of a problem's state: the place of a trajectory that has not started."""
    shape = jax.eval_shape(problem.init, theta, jax.random.key(0), horizon)

    def zeros(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, shape)
