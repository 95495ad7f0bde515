"""What `blend`'s network reads: numbers without a unit, for every tensor at every step."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.accumulators import Decays, Statistics
from lopt.optimizers.parts.blocks import sums
from lopt.optimizers.parts.progress import LossAverages, loss_drop, loss_features, share_done

TINY = 1e-30
EPSILON = 1e-8  # Adam's
NUM_TENSOR_FEATURES = 7  # of which every variant has all
NUM_HORIZON_FEATURES = 4  # of the variants that know the length of the training and the loss
# Last layers may start near 0. What starts larger than usual has been given that size, such as the factors of a table,
# whose rows are looked up one at a time, so that no sum over the fan-in makes a small update large.
USUAL_GAINS = (0.1, 2.0)


class Moments(NamedTuple):
    """A tensor's momentum and second moment, corrected for their start at zero.

    Attributes:
      momentum: `[*shape]`.
      root: square root of the mean square plus Adam's epsilon, `[*shape]`.
    """

    momentum: jax.Array
    root: jax.Array


def moments_of(decays: Decays, statistics: Statistics, step: jax.Array) -> Moments:
    """A tensor's moments after `step` gradients, corrected for their start at zero."""
    momentum = statistics.momenta[0] / (1 - jnp.float32(decays.momentum[0]) ** step)
    mean_square = statistics.rms[0] / (1 - jnp.float32(decays.rms[0]) ** step)
    # A gradient that was always 0 has no finite derivative of the root, which backpropagation would meet.
    return Moments(momentum, jnp.sqrt(mean_square + TINY) + EPSILON)


class TensorSignals(NamedTuple):
    """What one step tells of a tensor, scalars.

    Attributes:
      agreement: cosine between the gradient and the momentum before it.
      adam_size: root mean square of Adam's direction: 1 for gradients that are always equal, near 0 for noise.
      param_size: root mean square of the parameters.
    """

    agreement: jax.Array
    adam_size: jax.Array
    param_size: jax.Array


def tensor_signals(param: jax.Array, grad: jax.Array, before: jax.Array, moments: Moments) -> TensorSignals:
    """What one step tells of one tensor.

    Args:
      param: `[*shape]`.
      grad: `[*shape]`.
      before: the momentum before this gradient, `[*shape]`.
      moments: those after it.
    """
    products = (grad * before, grad * grad, before * before, jnp.square(moments.momentum / moments.root), param * param)
    g_b, gg, bb, adam, size = (x.reshape(()) for x in sums(list(products)))
    count = max(grad.size, 1)
    adam_size, param_size = (jnp.sqrt(x / count + TINY) for x in (adam, size))
    return TensorSignals(g_b / (jnp.sqrt(gg + TINY) * jnp.sqrt(bb + TINY)), adam_size, param_size)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out: the last axis is the output, all others together are the input."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def is_kernel(shape: tuple[int, ...]) -> bool:
    """Whether a tensor is the kernel of a convolution over images; one of three axes may be that of an attention."""
    return len(shape) > 3


def gain(param: jax.Array, fan_in: int) -> jax.Array:
    """Root mean square times sqrt(fan_in): about 1 after the usual initialisation of a matrix."""
    return jnp.sqrt(jnp.sum(jnp.square(param.astype(jnp.float32))) / max(param.size, 1) * fan_in)


def units(gains: jax.Array, matrices: list[bool]) -> jax.Array:
    """How many times larger or smaller than usual the numbers of each tensor are, `[num_tensors]`.

    A gain between USUAL_GAINS counts as 1, as initialisations differ; beyond them, by how much it is beyond. A tensor
    that starts at 0 gets the geometric mean of those of the matrices, or 1.
    """
    logs, known = jnp.log(jnp.maximum(gains, TINY)), gains > 0
    own = logs - jnp.clip(logs, *map(math.log, USUAL_GAINS))
    counted = known & jnp.asarray(matrices, bool)
    mean = jnp.sum(jnp.where(counted, own, 0)) / jnp.maximum(jnp.sum(counted), 1)
    return jnp.exp(jnp.where(known, own, mean))


def tensor_features(
    shapes: list[tuple[int, ...]], rates: jax.Array, signals: TensorSignals, agreement: jax.Array, step: jax.Array
) -> jax.Array:
    """What is known without the length of the training and the loss, `[NUM_TENSOR_FEATURES, num_tensors]`.

    Args:
      shapes: of the tensors.
      rates: of the tensors: the size of an update at the start, `[num_tensors]`.
      signals: of the tensors, `[num_tensors]` each.
      agreement: their running means of agreement, `[num_tensors]`.
      step: number of updates done.
    """
    shape = [[math.log(max(fan, 1)) for fan in column] for column in zip(*map(fans, shapes), strict=True)]
    kernel = [float(is_kernel(shape)) for shape in shapes]
    over_rate = jnp.log(signals.param_size / rates + 1e-8)
    rows = [10 / (10 + step.astype(jnp.float32)), *shape, kernel, agreement, jnp.log(signals.adam_size), over_rate]
    return jnp.stack([jnp.broadcast_to(jnp.asarray(row, jnp.float32), (len(shapes),)) for row in rows])


def horizon_features(losses: LossAverages, step: jax.Array, num_steps: jax.Array) -> jax.Array:
    """The share of the training that is done, its length, trend and drop of the loss, `[NUM_HORIZON_FEATURES]`."""
    share = jnp.cos(jnp.pi * jnp.minimum(share_done(step, num_steps), 1))
    length = jnp.log(num_steps.astype(jnp.float32))
    return jnp.stack([share, length, loss_features(losses).mean(), loss_drop(losses)])
