"""What `rnn_mlp` does with one tensor: the statistics for its LSTM, and the MLP's update of its parameters.

Luke Metz, Niru Maheswaranathan, C. Daniel Freeman, Ben Poole, Jascha Sohl-Dickstein, "Tasks, stability, architecture,
and compute: training more effective learned optimizers, and using them to train themselves", 2020 (arXiv 2009.11243).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.optimizers.parts.accumulators import update_momenta, update_rms
from lopt.optimizers.parts.blocks import map_and_sum, mean_squares_in_blocks
from lopt.optimizers.parts.gradients import clip_gradients
from lopt.optimizers.parts.networks import dense, folded_layers, over_chunks
from lopt.optimizers.parts.tensor_moments import clipped_log, means_and_variances, root, sums_of_squares
from lopt.optimizers.parts.xla import once
from lopt.types import Theta

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
NUM_FEATURES = 3 + 4 * len(DECAYS)  # per parameter
TO_LSTM = 16  # numbers that the MLP of a tensor sends to its LSTM
STEP_SCALE, MAGNITUDE_SCALE = 1e-3, 1e-3


def read_tensor(
    bound: jax.Array, param: jax.Array, grad: jax.Array, momenta: jax.Array, rms: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, list[jax.Array]]:
    """The new state of a tensor, what its LSTM reads, and what normalizes the inputs of its MLP.

    Args:
      bound: the gradient's elements are limited to [-bound, bound].
      param: the tensor.
      grad: its gradient.
      momenta: `[5, *shape]`, before this gradient.
      rms: `[5, *shape]`, before this gradient.

    Returns:
      The new momenta; the new rms; `[16]`: logs of means, variances and norms, signs of means, and the shape; `[2]`:
      sums of squares of the tensor and its gradient; the 23 mean squares of the features.
    """
    decays = jnp.asarray(DECAYS, jnp.float32)
    clipped = clip_gradients(grad, bound)
    momenta, rms = update_momenta(momenta, clipped, decays), update_rms(rms, clipped, decays)
    grad, momenta, rms = once((grad, momenta, rms))
    clipped = clip_gradients(grad, bound)
    means, variances = means_and_variances([list(momenta), list(rms), [param]])
    squares = sums_of_squares(param, clipped)
    logs = clipped_log(jnp.concatenate([means, variances, root(squares)]))
    sizes = (*param.shape, 1, 1, 1, 1)[:4]
    shape = [1.0 if param.ndim == 0 else -1.0, *(math.log(max(size, 1)) - 1 for size in sizes)]
    statistics = jnp.concatenate([logs, jnp.sign(means), jnp.asarray(shape, jnp.float32)])

    def features(param: jax.Array, grad: jax.Array, momenta: jax.Array, rms: jax.Array) -> list[jax.Array]:
        return _features(param, clip_gradients(grad, bound), momenta, rms)

    means = mean_squares_in_blocks(features, (param, grad, momenta, rms), param.shape)
    return momenta, rms, statistics, squares, means


def _features(param: jax.Array, grad: jax.Array, momenta: jax.Array, rms: jax.Array) -> list[jax.Array]:
    """The 23 inputs per parameter of one tensor, or of a block of it, not yet normalized."""
    root_rms = jax.lax.rsqrt(rms + 1e-6)
    return [grad, param, jnp.log(jnp.abs(param) + 1e-8), *momenta, *(momenta * root_rms), *rms, *root_rms]


def step_tensor(
    theta: Theta,
    bound: jax.Array,
    param: jax.Array,
    grad: jax.Array,
    momenta: jax.Array,
    rms: jax.Array,
    means: list[jax.Array],
    constants: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The update of a tensor, and the mean over its parameters of the message to its LSTM, `[16]`.

    The last layer is linear, so this mean is that layer applied to the mean of the last hidden layer: a sum over the
    parameters instead of a product.

    Args:
      theta: meta-parameters of the MLP.
      bound: as in `read_tensor`.
      param: the tensor.
      grad: its gradient.
      momenta: `[5, *shape]`, after this gradient.
      rms: `[5, *shape]`, after this gradient.
      means: 23 mean squares of the features.
      constants: inputs of the MLP that all parameters share.
    """
    *hidden, (last, last_bias) = folded_layers(theta, NUM_FEATURES, constants)

    # The row after the features says which parameters are fresh. A weight of 0 is cheaper than a copy without that row.
    hidden[0] = (jnp.pad(hidden[0][0], ((0, 0), (0, 1))), hidden[0][1])

    def network(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        fresh = x[NUM_FEATURES]
        for kernel, bias in hidden:
            x = nn.relu(dense(kernel, bias, x))
        return dense(last[:2], last_bias[:2], x), jnp.tensordot(x, fresh, fresh.ndim)[:, None]

    def update_block(fresh: jax.Array, param: jax.Array, grad: jax.Array, momenta: jax.Array, rms: jax.Array):
        features = _features(param, clip_gradients(grad, bound), momenta, rms)
        factors = [jax.lax.rsqrt(1e-5 + x) for x in means]
        rows = [x * factor for x, factor in zip(features, factors, strict=True)]
        rows.append(jnp.broadcast_to(fresh, param.shape).astype(jnp.float32))
        (direction, magnitude), total = over_chunks(network, jnp.stack(rows))
        return -STEP_SCALE * direction * jnp.exp(MAGNITUDE_SCALE * magnitude), total

    zeros = jnp.zeros((last.shape[1], 1), jnp.float32)
    update, total = map_and_sum(update_block, (param, grad, momenta, rms), param.shape, zeros)
    message = last[2:] @ (total / max(param.size, 1)) + last_bias[2:]
    return update, message[:, 0] if param.size else jnp.zeros((TO_LSTM,), jnp.float32)
