"""Running statistics of gradients that rules share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from lopt.optimizers.parts.blocks import mean, sums_along


def zeros_beside(param: jax.Array, count: int, *, without: int | None = None) -> jax.Array:
    """Zeros `[count, *param.shape]`, float32; the axis `without` has length 1. They are sharded like the parameter."""
    shape = (count, *[1 if axis == without else size for axis, size in enumerate(param.shape)])
    sharding = None if isinstance(param, Tracer) else getattr(param, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1:
        return jnp.zeros(shape, jnp.float32)
    names = [None if axis == without else name for axis, name in enumerate(sharding.spec)]
    place = NamedSharding(sharding.mesh, PartitionSpec(None, *names), memory_kind=sharding.memory_kind)
    return jnp.zeros(shape, jnp.float32, device=place)


def init_momenta(param: jax.Array, num_decays: int) -> jax.Array:
    """Zeros `[num_decays, *param.shape]`, float32."""
    return zeros_beside(param, num_decays)


def update_momenta(momenta: jax.Array, grad: jax.Array, decays: jax.Array) -> jax.Array:
    """One momentum per decay b, without bias correction: m_b <- b m_b + (1 - b) g.

    Args:
      momenta: `[num_decays, *shape]`.
      grad: `[*shape]`.
      decays: `[num_decays]`.
    """
    b = decays.reshape(-1, *[1] * grad.ndim)
    return b * momenta + (1 - b) * grad[None]


def init_rms(param: jax.Array, num_decays: int) -> jax.Array:
    """Zeros `[num_decays, *param.shape]`, float32."""
    return zeros_beside(param, num_decays)


def update_rms(rms: jax.Array, grad: jax.Array, decays: jax.Array) -> jax.Array:
    """One mean square per decay b, without bias correction: v_b <- b v_b + (1 - b) g^2; see `update_momenta`."""
    return update_momenta(rms, jnp.square(grad), decays)


class FactoredMoments(NamedTuple):
    """Second moments of a tensor, one per decay, in factored form.

    The two largest axes are factored. A tensor with fewer than two axes has its full second moment in `row`.
    Noam Shazeer, Mitchell Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018 (arXiv
    1804.04235).

    Attributes:
      row: means over the largest axis, `[num_decays, *shape]`, in which that axis has length 1.
      column: means over the second largest axis, likewise; None for tensors with fewer than two axes.
    """

    row: jax.Array
    column: jax.Array | None


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The second largest and the largest axis; of equal axes the later counts as larger. None below two axes."""
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-2], order[-1]


def init_factored(param: jax.Array, num_decays: int) -> FactoredMoments:
    """The moments before the first gradient: zeros, float32."""
    axes = factored_axes(param.shape)
    if axes is None:
        return FactoredMoments(zeros_beside(param, num_decays), None)
    second, largest = axes
    row, column = (zeros_beside(param, num_decays, without=axis) for axis in (largest, second))
    return FactoredMoments(row, column)


def update_factored(moments: FactoredMoments, grad: jax.Array, decays: jax.Array) -> FactoredMoments:
    """row_b <- b row_b + (1 - b) mean_largest(g^2), likewise the columns; without bias correction.

    Args:
      moments: the tensor's moments before this gradient.
      grad: `[*shape]`.
      decays: `[num_decays]`.
    """
    axes = factored_axes(grad.shape)
    if axes is None or moments.column is None:
        return FactoredMoments(update_momenta(moments.row, jnp.square(grad) + 1e-30, decays), None)
    second, largest = axes
    rows, columns = sums_along(lambda g: jnp.square(g) + 1e-30, grad, (largest, second))
    row = update_momenta(moments.row, rows / max(grad.shape[largest], 1), decays)
    return FactoredMoments(row, update_momenta(moments.column, columns / max(grad.shape[second], 1), decays))


class Decays(NamedTuple):
    """The decays of `Statistics`, each a sequence of numbers or an array `[num_decays]`.

    Attributes:
      momentum: decays of the momenta.
      rms: decays of the mean squares.
      factored: decays of the factored second moments.
    """

    momentum: Sequence[float] | jax.Array
    rms: Sequence[float] | jax.Array
    factored: Sequence[float] | jax.Array


class Statistics(NamedTuple):
    """Running statistics of one tensor's gradient.

    Attributes:
      momenta: `[num_decays, *shape]`.
      rms: `[num_decays, *shape]`.
      factored: FactoredMoments, or None if they have no decays.
    """

    momenta: jax.Array
    rms: jax.Array
    factored: Any


def init_statistics(param: jax.Array, decays: Decays) -> Statistics:
    """The statistics before the first gradient: zeros."""
    num_momenta, num_rms, num_factored = (len(x) for x in decays)
    factored = init_factored(param, num_factored) if num_factored else None
    return Statistics(init_momenta(param, num_momenta), init_rms(param, num_rms), factored)


def update_statistics(statistics: Statistics, grad: jax.Array, decays: Decays) -> Statistics:
    """The statistics after one more gradient."""
    momentum, rms, factored = (jnp.asarray(x, jnp.float32) for x in decays)
    return Statistics(
        update_momenta(statistics.momenta, grad, momentum),
        update_rms(statistics.rms, grad, rms),
        None if statistics.factored is None else update_factored(statistics.factored, grad, factored),
    )


def factored_scales(moments: FactoredMoments, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Row and column factors of 1 / sqrt(second moment), each `[num_decays, ...]`, which broadcast to the tensor.

    row_factor = rsqrt(row / mean(row)), column_factor = rsqrt(column), both at most 10^4.5; their product with the
    gradient is Adafactor's direction. Below two axes they are rsqrt(v) and 1.

    Args:
      moments: the tensor's moments.
      shape: the tensor's shape.
    """
    row, column = moments
    axes = factored_axes(shape)
    if axes is None or column is None:
        return _bounded_rsqrt(row + 1e-9), jnp.ones((len(row), *[1] * len(shape)), jnp.float32)
    row_mean = mean(row, (1 + axes[0],))  # axis 0 holds the decays
    return _bounded_rsqrt(row / (row_mean + 1e-9)), _bounded_rsqrt(column)


def _bounded_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def learned_decays(offsets: jax.Array, start: Sequence[float]) -> jax.Array:
    """sigmoid(logit(start) + offset), within (0, 1); offset 0 means `start`.

    Metz et al. (arXiv 2203.11860) use 1 - exp(log(1 - start) + 10 offset), clipped to [0, 1], with outer learning rates
    of about 1e-4. At 1e-2, Adam moves that exponent by up to 0.1 per outer step: noise alone carries it past the clip,
    and no gradient brings it back.

    Args:
      offsets: part of theta, `[num_decays]`.
      start: `[num_decays]` decays, between 0 and 1.
    """
    b = np.asarray(start, np.float64)
    return jax.nn.sigmoid(jnp.asarray(np.log(b) - np.log1p(-b), jnp.float32) + offsets)
