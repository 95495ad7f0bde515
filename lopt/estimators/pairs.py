"""What all estimators share: keys, unrolling one particle, and the mean over pairs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from lopt.distributed import PairLayout
from lopt.estimators import problems, shaping
from lopt.names import InputError
from lopt.types import Estimate, InnerProblem, PyTree, Theta

# The mean losses of the windows whose middles lie there, in an estimate's info.
THIRDS = ("meta_loss_first_third", "meta_loss_middle_third", "meta_loss_last_third")


def check_num_pairs(num_pairs: int) -> None:
    """Raises InputError unless there is a pair."""
    if num_pairs < 1:
        raise InputError(f"num_pairs must be at least 1, not {num_pairs}")


class WindowKeys(NamedTuple):
    """The keys of one window of one pair. All estimators use them alike, so that their noise can be compared.

    Attributes:
      noise: for the noise on theta, or for whatever else the method draws.
      init: for the initial state, where the window starts a trajectory.
      steps: for the inner steps; that of step i is `fold_in(steps, i)`.
      horizon: for the length of the next trajectory, where the window ends one.
      evaluate: for `InnerProblem.evaluate`.
    """

    noise: jax.Array
    init: jax.Array
    steps: jax.Array
    horizon: jax.Array
    evaluate: jax.Array


def window_keys(key: jax.Array) -> WindowKeys:
    """Splits the key of one window of one pair."""
    return WindowKeys(*jax.random.split(key, len(WindowKeys._fields)))


def pair_keys(key: jax.Array, num_pairs: int) -> jax.Array:
    """One key per pair, `[num_pairs]`."""
    return jax.random.split(key, num_pairs)


class Unrolled(NamedTuple):
    """What a particle's inner steps result in.

    Attributes:
      state: inner state after the steps.
      loss: sum over the steps.
      capped: number of steps whose loss reached the problem's cap.
    """

    state: PyTree
    loss: jax.Array
    capped: jax.Array


def unroll(problem: InnerProblem, theta: Theta, state: PyTree, key: jax.Array, num_steps: int | jax.Array) -> Unrolled:
    """Runs `num_steps` inner steps of one particle; the key of step i is `fold_in(key, i)`."""

    def body(i, carry: Unrolled) -> Unrolled:
        new_state, loss = problem.step(theta, carry.state, jax.random.fold_in(key, i))
        capped = problems.is_capped(problem, new_state, loss)
        return Unrolled(new_state, carry.loss + loss, carry.capped + capped)

    loss_dtype = problems.check_step(problem, theta, state, key)
    zero = Unrolled(state, jnp.zeros((), loss_dtype), jnp.zeros((), jnp.int32))
    return jax.lax.fori_loop(0, num_steps, body, zero)


class PairTerms(NamedTuple):
    """What one pair adds to the sums over pairs. For a pair that is left out, the fields from grad to ended are 0,
    and so is by_third.

    Attributes:
      grad: the pair's estimate, `[P]`.
      square: |grad|^2.
      difference: half the difference of the halves' losses; 0 for a single trajectory.
      loss: mean loss of the steps just run.
      used: 1, or 0 for a pair that is left out.
      final: for a trajectory that ended, the sum of the losses of the steps just run, which is its final loss if only
        that counts.
      ended: 1 if the trajectory ended.
      capped: share of the steps whose loss reached the problem's cap.
      started: 1 if a trajectory started.
      position: inner step at which the window started.
      position_square: its square.
      steps: inner steps of its particles.
      by_third: `[2, 3]`, loss and 1 in the column of the third of the trajectory that the window's middle lies in, and
        0 in the others; `[2, 0]` for a method that runs whole trajectories.
      restarted: 1 if the window went on from a stored state; None for a method that stores none.
    """

    grad: jax.Array
    square: jax.Array
    difference: jax.Array
    loss: jax.Array
    used: jax.Array
    final: jax.Array
    ended: jax.Array
    capped: jax.Array
    started: jax.Array
    position: jax.Array
    position_square: jax.Array
    steps: jax.Array
    by_third: jax.Array
    restarted: jax.Array | None = None


def half_difference(losses: jax.Array) -> jax.Array:
    """(L+ - L-) / 2 of a pair's losses `[2]`; 0 for a single trajectory's `[1]`."""
    return (losses[0] - losses[-1]) / 2


def pair_terms(
    grad: jax.Array,
    losses: jax.Array,
    *,
    final: jax.Array,
    ended: jax.Array,
    capped: jax.Array,
    started: jax.Array,
    position: jax.Array,
    steps: int | jax.Array,
    middle: jax.Array | None = None,
) -> PairTerms:
    """One pair's share in the mean. A pair that is not finite is left out: one diverged particle must not reach theta.

    Args:
      grad: the pair's estimate, `[P]`; more than one row for a method that combines them.
      losses: mean losses of its particles: `[2]` for the halves of a pair, `[1]` for a single trajectory.
      final: what `PairTerms.final` is if the trajectory ended, of each particle.
      ended: whether the trajectory ended.
      capped: share of the steps whose loss reached the problem's cap.
      started: whether a trajectory started.
      position: inner step at which the window started.
      steps: number of inner steps that each particle ran.
      middle: where the window's middle lies, as a share of its trajectory; None if it is the whole trajectory.
    """
    used = jnp.isfinite(grad).all() & jnp.isfinite(losses).all()
    grad, loss = jnp.where(used, grad, 0), jnp.where(used, losses.mean(), 0)
    position = position.astype(losses.dtype)
    thirds = jnp.arange(0 if middle is None else len(THIRDS))
    within = used & (thirds == jnp.floor(len(THIRDS) * (0 if middle is None else middle)))
    return PairTerms(
        grad=grad,
        square=jnp.vdot(grad, grad),
        difference=jnp.where(used, half_difference(losses), 0),
        loss=loss,
        used=used.astype(losses.dtype),
        final=jnp.where(used & ended, final.mean(), 0),
        ended=(used & ended).astype(losses.dtype),
        capped=capped.astype(losses.dtype),
        started=started.astype(losses.dtype),
        position=position,
        position_square=position**2,
        steps=jnp.asarray(steps * len(losses), losses.dtype),
        by_third=jnp.stack([jnp.where(within, loss, 0), within.astype(losses.dtype)]),
    )


def mean_over_pairs(sums: PairTerms, num_pairs: int, theta: Theta, *, final_loss: bool) -> Estimate:
    """The mean over the pairs that are used, and the figures that a person tunes by.

    Where only final losses count, the loss is the mean over the trajectories that ended, and NaN if none did. Without
    any usable pair, loss and gradient are NaN: zero would be the best loss there is, and let momentum move theta.
    """
    used = jnp.where(sums.used > 0, sums.used, jnp.nan)  # what is divided by it is NaN without any usable pair
    grad = sums.grad / used
    norm_square = grad @ grad
    position = sums.position / num_pairs
    info: dict[str, jax.Array] = {
        "grad_norm": jnp.sqrt(norm_square),
        # Variance of the mean, summed over theta, from the spread of the pairs.
        "grad_variance": jnp.maximum(sums.square / used - norm_square, 0) / jnp.maximum(used - 1, 1),
        "capped": sums.capped / num_pairs,
        "started": sums.started / num_pairs,
        "left_out": 1 - sums.used / num_pairs,
        "position": position,
        "position_std": jnp.sqrt(jnp.maximum(sums.position_square / num_pairs - position**2, 0)),
        "inner_steps": sums.steps,
    }
    if sums.restarted is not None:
        info["restarted"] = sums.restarted / num_pairs
    if sums.by_third.size and not final_loss:
        losses, number = sums.by_third
        info |= dict(zip(THIRDS, losses / number, strict=True))  # NaN where no window lies
    loss = sums.final / sums.ended if final_loss else sums.loss / sums.used  # 0 / 0 of none
    flat_theta, unravel = ravel_pytree(theta)
    return Estimate(unravel(grad.astype(flat_theta.dtype)), loss, info)


def estimate(
    one_pair: Callable[[Any, jax.Array], tuple[PairTerms, Any]],
    problem: InnerProblem,
    theta: Theta,
    state: PyTree,
    key: jax.Array,
    *,
    num_pairs: int,
    layout: PairLayout,
    pair_shaping: str = "none",
    combine: Callable[[PairTerms], PairTerms] | None = None,
) -> tuple[Estimate, PyTree]:
    """Maps `one_pair: (pair's state, pair's key) -> (terms, new state)` over all pairs and takes the mean.

    Where a shaping needs the differences of all pairs, `terms.grad` is the pair's estimate for a difference of 1, and
    the mean over pairs is taken in a second round. With `combine: sums -> sums`, `terms.grad` may have more than one
    row, of which it makes one.

    Raises:
      InputError: `state` is not of `num_pairs` pairs, or `key` is not one key.
    """
    problems.check_call(num_pairs, state, key)
    each, keys = lambda pair: one_pair(*pair), pair_keys(key, num_pairs)
    if pair_shaping in shaping.ACROSS_PAIRS:
        terms, new_state = layout.map_pairs(each, (state, keys))
        shaped = shaping.shape_all(pair_shaping, terms.difference, terms.used)
        sums, _ = layout.sum_pairs(lambda pair: (_weighted(*pair), ()), (terms, shaped))
    else:
        sums, new_state = layout.sum_pairs(each, (state, keys))
    sums = sums if combine is None else combine(sums)
    return mean_over_pairs(sums, num_pairs, theta, final_loss=problem.final_loss), new_state


def _weighted(terms: PairTerms, weight: jax.Array) -> PairTerms:
    weight = weight.astype(terms.grad.dtype)
    return terms._replace(grad=weight * terms.grad, square=weight**2 * terms.square)


def no_estimates(num_pairs: int, layout: PairLayout) -> jax.Array:
    """Estimates made so far, int32 `[num_pairs]` zeros, sharded as they will be after the first estimate."""
    return jax.lax.with_sharding_constraint(jnp.zeros(num_pairs, jnp.int32), layout.split)


def blank_state(problem: InnerProblem, theta: Theta, horizon: jax.Array) -> PyTree:
    """Zeros in the shape of a problem's state: the place of a trajectory that has not started."""
    shape = jax.eval_shape(problem.init, theta, jax.random.key(0), horizon)

    def zeros(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, shape)
