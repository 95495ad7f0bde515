"""What `blend`'s network reads: numbers without a unit, for every tensor at every step."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.optimizers.parts.blocks import sums
from lopt.optimizers.parts.progress import LossAverages, loss_features

NUM_FEATURES = 21
TINY = 1e-30


class Moments(NamedTuple):
    """A tensor's momenta and second moment, corrected for their start at zero.

    Attributes:
      fast: momentum, `[*shape]`.
      slow: momentum of longer memory, `[*shape]`.
      root: square root of the mean square plus Adam's epsilon, `[*shape]`.
    """

    fast: jax.Array
    slow: jax.Array
    root: jax.Array


class TensorSignals(NamedTuple):
    """What one step tells of a tensor, scalars.

    Attributes:
      agreement: cosine between the gradient and the fast momentum before it.
      persistence: cosine between the two momenta.
      adam_size: root mean square of Adam's direction: 1 for gradients that are always equal, near 0 for noise.
      param_size: root mean square of the parameters.
    """

    agreement: jax.Array
    persistence: jax.Array
    adam_size: jax.Array
    param_size: jax.Array


def tensor_signals(param: jax.Array, grad: jax.Array, before: jax.Array, moments: Moments) -> TensorSignals:
    """What one step tells of one tensor.

    Args:
      param: `[*shape]`.
      grad: `[*shape]`.
      before: the fast momentum before this gradient, `[*shape]`.
      moments: those after it.
    """
    fast, slow, root = moments
    pairs = (grad * before, grad * grad, before * before, fast * slow, fast * fast, slow * slow)
    products = [*pairs, jnp.square(fast / root), jnp.square(param)]
    g_b, gg, bb, f_s, ff, ss, adam, size = (x.reshape(()) for x in sums(products))

    def cosine(product: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return product / (jnp.sqrt(a + TINY) * jnp.sqrt(b + TINY))

    count = max(grad.size, 1)
    sizes = (jnp.sqrt(x / count + TINY) for x in (adam, size))
    return TensorSignals(cosine(g_b, gg, bb), cosine(f_s, ff, ss), *sizes)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Fan-in and fan-out: the last axis is the output, all others together are the input."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def features(
    shapes: list[tuple[int, ...]],
    rates: list[float],
    signals: TensorSignals,
    agreement: jax.Array,
    drift: jax.Array,
    losses: LossAverages,
    step: jax.Array,
    num_steps: jax.Array,
) -> jax.Array:
    """The inputs of the network, `[NUM_FEATURES, num_tensors]`, each about within [-1, 1].

    Args:
      shapes: of the tensors.
      rates: of the tensors: the size of an update at the start.
      signals: of the tensors, `[num_tensors]` each.
      agreement: their running means of agreement, `[num_tensors]`.
      drift: of their sizes so far, in units of its bound, `[num_tensors]`.
      losses: running means of the loss.
      step: number of updates done.
      num_steps: length of the training.
    """
    count, length = step.astype(jnp.float32), num_steps.astype(jnp.float32)
    share = jnp.minimum(count / length, 1.0)
    time = [
        jnp.cos(jnp.pi * share),
        jnp.cos(2 * jnp.pi * share),
        10 / (10 + count),
        jnp.tanh((jnp.log(length) - math.log(500)) / 2),
    ]
    trend = list(loss_features(losses).reshape(3, 3).mean(axis=1))  # of short, middle and long means
    shape = [[(math.log(max(fan, 1)) - 3) / 3 for fan in column] for column in zip(*map(fans, shapes), strict=True)]
    rank = [[float(test(len(shape))) for shape in shapes] for test in ((2).__lt__, (0).__eq__)]
    number = (math.log(len(shapes)) - 2) / 2
    adam_size = jnp.tanh(1 + jnp.log(signals.adam_size) / 2)
    param_size = jnp.clip(jnp.log(signals.param_size / jnp.asarray(rates, jnp.float32) + 1e-8) / 4, -2, 2)
    own = [signals.agreement, agreement, signals.persistence, adam_size, param_size, drift]
    shared = [x.mean() for x in (agreement, adam_size, signals.persistence)]
    rows = [*time, *trend, *shape, *rank, number, *own, *shared]
    return jnp.stack([jnp.broadcast_to(jnp.asarray(row, jnp.float32), (len(shapes),)) for row in rows])
