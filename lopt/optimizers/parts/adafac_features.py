"""Inputs of the per-parameter rules that read momenta, mean squares and factored second moments of the gradient.

Luke Metz, C. Daniel Freeman, James Harrison, Niru Maheswaranathan, Jascha Sohl-Dickstein, "Practical tradeoffs between
memory, compute, and performance in learned optimizers", 2022 (arXiv 2203.11860); the second list: Luke Metz et al.,
"VeLO: training versatile learned optimizers by scaling up", 2022 (arXiv 2211.09760).

A feature has the tensor's shape, or length 1 along an axis on which it is constant: what the elements of a row share is
computed, and multiplied by a network's weight, once per row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.accumulators import FactoredMoments, factored_scales

NUM_ADAFAC_FEATURES = 28
NUM_VELO_FEATURES = 30

PerDecay = jax.Array | Sequence[jax.Array]  # `[3, ...]`, or three arrays: in a kernel an axis cannot have length 3


class TensorStatistics(NamedTuple):
    """The arrays from which the features of a tensor, or of a block of it, are computed; all broadcast to its shape.

    Attributes:
      grad: `[*shape]`.
      param: `[*shape]`.
      momenta: one per decay, `[*shape]`.
      rms: `[*shape]`, running mean of g^2.
      row: factored second moments, one per decay; below two axes the full ones.
      column: likewise.
      row_factor: of `factored_scales`, one per decay.
      column_factor: likewise.
    """

    grad: jax.Array
    param: jax.Array
    momenta: PerDecay
    rms: jax.Array
    row: PerDecay
    column: PerDecay
    row_factor: PerDecay
    column_factor: PerDecay


def tensor_statistics(
    grad: jax.Array, param: jax.Array, momenta: jax.Array, rms: jax.Array, moments: FactoredMoments
) -> TensorStatistics:
    """The statistics of one tensor as its accumulators hold them, where rms is `[1, *shape]`, put together."""
    row, column = moments
    column = row if column is None else column
    return TensorStatistics(grad, param, momenta, rms[0], row, column, *factored_scales(moments, grad.shape))


def adafac_features(s: TensorStatistics) -> list[jax.Array]:
    """The 28 normalized inputs of `adafac_mlp` and `star`.

    g, p, m[3], rms, m / sqrt(rms)[3], 1 / sqrt(rms), factored g[3], rows[3], columns[3], 1 / sqrt of both[6],
    factored m[3].
    """
    rsqrt = jax.lax.rsqrt(s.rms + 1e-6)
    momenta = list(s.momenta)
    return [s.grad, s.param, *momenta, s.rms, *(m * rsqrt for m in momenta), rsqrt, *_factored_grad(s), *_factored(s)]


def velo_features(s: TensorStatistics, *, epsilon: float = 1e-6) -> list[jax.Array]:
    """The 30 inputs of `velo`, `celo` and `celo2`.

    g, g clipped to +-0.1, p, m[3], rms, m / sqrt(rms)[3], 1 / sqrt(rms), factored g[3], g / sqrt(rms), rows[3],
    columns[3], 1 / sqrt of both[6], factored m[3].

    Args:
      s: statistics of one tensor.
      epsilon: added to rms under the root.
    """
    rsqrt = jax.lax.rsqrt(s.rms + epsilon)
    momenta = list(s.momenta)
    start = [s.grad, jnp.clip(s.grad, -0.1, 0.1), s.param, *momenta, s.rms, *(m * rsqrt for m in momenta), rsqrt]
    return [*start, *_factored_grad(s), s.grad * rsqrt, *_factored(s)]


def _factored_grad(s: TensorStatistics) -> list[jax.Array]:
    return [s.grad * r * c for r, c in zip(s.row_factor, s.column_factor, strict=True)]


def _factored(s: TensorStatistics) -> list[jax.Array]:
    """Rows, columns, their reciprocal roots, and the momenta divided by the factored root."""
    rows, columns, momenta = list(s.row), list(s.column), list(s.momenta)
    if s.grad.ndim < 2:
        factored_momenta = [m * jax.lax.rsqrt(v + 1e-6) for m, v in zip(momenta, rows, strict=True)]
    else:
        factored_momenta = [m * r * c for m, r, c in zip(momenta, s.row_factor, s.column_factor, strict=True)]
    roots = [jax.lax.rsqrt(v + 1e-8) for v in (*rows, *columns)]
    return [*rows, *columns, *roots, *factored_momenta]
