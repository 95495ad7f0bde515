"""What an outer step makes of the estimates of its families: the scale of each, and their mean."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.estimators.pairs import THIRDS
from lopt.types import Estimate, PyTree

FAMILY_SCALES = ("none", "normalised", "signed")
DECAY = 0.99  # of the running mean squares: they look back over about 100 estimates of a family
VARIANCE, INNER_STEPS = "grad_variance", "inner_steps"  # in an estimate's info


class FamilyEstimates(NamedTuple):
    """What the families of one outer step have said.

    Attributes:
      mean: the estimate for the mixture.
      squares: new running squares; () where estimates are not normalised.
      losses: each family's mean loss, `[families]`; NaN for one that was not drawn.
      norms: norm of each family's estimate before it was scaled, likewise.
    """

    mean: Estimate
    squares: PyTree
    losses: jax.Array
    norms: jax.Array


class RunningSquares(NamedTuple):
    """How large the estimates of each family have been.

    Attributes:
      sum: decaying sum of squared norms, (1 - DECAY) sum_j DECAY^j |g|^2 over its last estimates, `[families]`.
      count: estimates summed, int32 `[families]`.
    """

    sum: jax.Array
    count: jax.Array


def no_squares(kind: str, num_families: int) -> RunningSquares | tuple[()]:
    """The running squares before the first estimate; () for a scale that needs none, so that checkpoints lack them."""
    if kind != "normalised":
        return ()
    return RunningSquares(jnp.zeros(num_families), jnp.zeros(num_families, jnp.int32))


def scale(kind: str, squares: PyTree, family: int | jax.Array, estimate: Estimate) -> tuple[Estimate, PyTree]:
    """A family's estimate in the size that it has in the mixture, and the running squares after it.

    `normalised`: g / r with r^2 = (1 - d) sum_j d^j |g_j|^2 / (1 - d^n), over the n estimates g_j of this family so
    far, the newest first and included; d is `DECAY`. One number per family: the direction of its estimate stays, and
    its norm is about 1 and at most 1 / sqrt(1 - d) = 10. An estimate that is not finite, which the mean leaves out,
    does not count in r.
    `signed`: the sign of each coordinate of g, so that families vote on it with their weights.

    Both are biased. The mean of the scaled estimates follows sum_i w_i dJ_i / r_i rather than sum_i w_i dJ_i: it is
    not the direction in which the weighted mean of the J_i falls fastest, and may raise it where a family that is
    raised has a small gradient against the others. As r_i falls with the noise as well, a family whose estimates are
    mostly noise counts less; and an unusually large estimate counts less than its share, since it is part of its r_i.
    Signs forget the sizes within a family too: a coordinate counts by how certain its sign is, whatever it matters.

    Args:
      kind: one of `FAMILY_SCALES`.
      squares: what `no_squares` gives, or the last call of this function.
      family: number of the family.
      estimate: the family's.

    Returns:
      The estimate, with its `grad_variance` in the unit of the new gradient (left out where that is not known), and
      the new running squares.
    """
    if kind == "none":
        return estimate, squares
    if kind == "signed":
        info = {name: x for name, x in estimate.info.items() if name != VARIANCE}
        return estimate._replace(grad=jax.tree.map(jnp.sign, estimate.grad), info=info), squares
    square = jnp.square(optax.tree.norm(estimate.grad)).astype(squares.sum.dtype)
    usable = jnp.isfinite(square)
    new_sum = DECAY * squares.sum[family] + (1 - DECAY) * square
    new_count = squares.count[family] + 1
    mean_square = new_sum / (1 - DECAY ** new_count.astype(new_sum.dtype))
    # All estimates so far may be zero, whose direction is none; and of one that is not usable, nothing is divided.
    factor = jnp.where(mean_square > 0, jax.lax.rsqrt(mean_square), 0)
    grad = jax.tree.map(lambda x: (jnp.where(usable, factor, 1) * x).astype(x.dtype), estimate.grad)
    info = dict(estimate.info)
    if VARIANCE in info:
        info[VARIANCE] = jnp.where(usable, factor**2, 1) * info[VARIANCE]
    squares = RunningSquares(
        squares.sum.at[family].set(jnp.where(usable, new_sum, squares.sum[family])),
        squares.count.at[family].set(jnp.where(usable, new_count, squares.count[family])),
    )
    return estimate._replace(grad=grad, info=info), squares


def gather(
    estimates: Sequence[Estimate],
    drawn: jax.Array,
    weights: Sequence[float] | jax.Array,
    kind: str,
    squares: PyTree,
    num_families: int,
) -> FamilyEstimates:
    """Scales the estimates of one outer step, one after another, and takes their mean.

    Args:
      estimates: of the families.
      drawn: which family each one is of, int32 `[estimates]`; a family may be there more than once.
      weights: of the estimates, as for `mean`.
      kind: one of `FAMILY_SCALES`.
      squares: the running squares before.
      num_families: number of families in the mixture.
    """
    losses = norms = jnp.full(num_families, jnp.nan)
    scaled = []
    for i, estimate in enumerate(estimates):
        losses = losses.at[drawn[i]].set(estimate.loss)
        norms = norms.at[drawn[i]].set(optax.tree.norm(estimate.grad))
        estimate, squares = scale(kind, squares, drawn[i], estimate)
        scaled.append(estimate)
    return FamilyEstimates(mean(jax.tree.map(lambda *xs: jnp.stack(xs), *scaled), weights), squares, losses, norms)


def mean(estimates: Estimate, weights: Sequence[float] | jax.Array) -> Estimate:
    """mean_i w_i estimate_i, of estimates stacked along a leading axis, for weights whose mean is 1.

    The mean of an array of weights is 1 in expectation only, over draws: the gradient, which has to be right in
    expectation, takes them as they are, and what is logged takes them over their mean.

    A family without any usable pair, whose gradient is NaN, adds nothing to the mean; if no family is usable, the mean
    is NaN. The loss, and that of each third of the trajectories, is the mean over the families that have one.
    The variance of the mean of n independent estimates is sum_i (w_i / n)^2 variance_i. Where families are drawn, that
    is the variance for those drawn, not what the draw adds.
    """
    w = jnp.asarray(weights, jnp.float32)
    logged = w / jnp.mean(w) if isinstance(weights, jax.Array) else w

    def per_family(x: jax.Array, like: jax.Array) -> jax.Array:
        return x.reshape(-1, *[1] * (like.ndim - 1))

    def mean_of(x: jax.Array, w: jax.Array = logged) -> jax.Array:
        return jnp.mean(per_family(w, x) * x, axis=0)

    def mean_of_told(x: jax.Array) -> jax.Array:
        told = jnp.isfinite(x)
        return mean_of(jnp.where(told, x, 0)) / mean_of(told.astype(w.dtype))  # 0 / 0 without any

    usable = jnp.isfinite(jax.vmap(optax.tree.norm)(estimates.grad))
    nothing = jnp.where(usable.any(), 0, jnp.nan)
    grad = jax.tree.map(lambda x: mean_of(jnp.where(per_family(usable, x), x, nothing), w), estimates.grad)
    loss = mean_of_told(estimates.loss)
    info = {name: (mean_of_told if name in THIRDS else mean_of)(x) for name, x in estimates.info.items()}
    if INNER_STEPS in info:
        info[INNER_STEPS] = jnp.sum(estimates.info[INNER_STEPS])
    if (variance := estimates.info.get(VARIANCE)) is not None:
        info[VARIANCE] = jnp.sum(jnp.square(w / len(weights)) * variance)
    return Estimate(grad, loss, info)
