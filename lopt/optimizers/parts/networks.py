"""A per-parameter network applied to a list of features, and the passes over a tensor that this takes.

The features of a tensor are never in memory together. A first pass over the tensor finds the factor that normalizes
each of them; a second pass computes them again, and the network on them. Whether a network is wide decides how: a wide
one runs as matrix products on one block of the tensor after another, any other as part of one loop over the parameters.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.optimizers.parts import kernels
from lopt.optimizers.parts.adafac_features import TensorStatistics
from lopt.optimizers.parts.blocks import mean_squares, over_blocks
from lopt.optimizers.parts.xla import once
from lopt.types import PyTree, Theta

CHUNK = 1024  # parameters per pass through a network on a CPU, if they are few
MANY = 2**13  # from this number of parameters on, all pass through it together: each product then keeps all cores busy
MAX_UNROLLED = 8  # a hidden layer of more units makes a network wide

Features = Callable[[TensorStatistics], list[jax.Array]]


def layer_sizes(theta: Theta) -> list[int]:
    """Widths of the hidden layers and of the output of a `ParameterMLP`, read off the shapes of its theta."""
    return [theta[f"bias_{i}"].shape[-1] for i in range(len(theta) // 2)]


def is_wide(theta: Theta) -> bool:
    """Whether a hidden layer of a `ParameterMLP` is too wide for its products to be written out one by one."""
    return max(layer_sizes(theta)[:-1]) > MAX_UNROLLED


def apply_mlp(theta: Theta, features: Sequence[jax.Array], constants: jax.Array | None = None) -> list[jax.Array]:
    """The outputs of a `ParameterMLP` with meta-parameters `theta`, one array per output.

    A wide network is computed by matrix products. Any other is written as sums over features, which XLA fuses with what
    computes the features into one loop over the parameters.

    Args:
      theta: `{"kernel_i": [fan_in, size], "bias_i": [size]}` for layers i = 0, 1, ...
      features: arrays that can be broadcast to one another.
      constants: inputs after the features that all parameters share, `[c]`.

    Returns:
      Arrays of the shape to which the features are broadcast.
    """
    sizes = layer_sizes(theta)
    shape = jnp.broadcast_shapes(*(x.shape for x in features))
    constants = jnp.zeros((0,), jnp.float32) if constants is None else constants
    if is_wide(theta):
        return list(matrix_mlp(theta, jnp.stack([jnp.broadcast_to(x, shape) for x in features]), constants))
    kernel, bias = theta["kernel_0"], theta["bias_0"]
    bias = bias + constants @ kernel[len(features) :]
    hidden = [_weighted_sum(features, kernel[: len(features), j], bias[j]) for j in range(sizes[0])]
    for i in range(1, len(sizes)):
        kernel, bias = theta[f"kernel_{i}"], theta[f"bias_{i}"]
        hidden = [nn.relu(x) for x in hidden]
        hidden = [_weighted_sum(hidden, kernel[:, j], bias[j]) for j in range(sizes[i])]
    return [jnp.broadcast_to(x, shape) for x in hidden]


def _weighted_sum(features: Sequence[jax.Array], weights: jax.Array, bias: jax.Array) -> jax.Array:
    """sum_i weights[i] features[i] + bias; features of the same shape are added before they are broadcast."""
    sums: dict[tuple[int, ...], jax.Array] = {(1,) * features[0].ndim: bias.reshape([1] * features[0].ndim)}
    for feature, weight in zip(features, weights, strict=True):
        term = weight * feature
        sums[feature.shape] = sums[feature.shape] + term if feature.shape in sums else term
    small_first = sorted(sums.values(), key=lambda x: x.size)
    total = small_first[0]
    for term in small_first[1:]:
        total = total + term
    return total


def normalized_rule(
    features: Features,
    theta: Theta,
    rule: Callable[..., jax.Array],
    statistics: TensorStatistics,
    *,
    constants: jax.Array | None = None,
    num_axes: int | None = None,
    epsilon: float = 1e-5,
    num_plain: int = 0,
) -> jax.Array:
    """rule(*MLP([x / sqrt(epsilon + mean(x^2)) for x in features(statistics)], constants)), the update of one tensor.

    Args:
      features: computes arrays `[*shape]`, or with some axes of length 1, from the statistics of a tensor or a block.
      theta: meta-parameters of the MLP, as `apply_mlp` takes them.
      rule: maps the outputs of the MLP, followed by the plain features, to an array `[*shape]`, element by element.
      statistics: the statistics of the tensor.
      constants: inputs of the MLP that all parameters share, `[c]`.
      num_axes: the mean of the squares is taken over this number of last axes; None means all of them.
      epsilon: added to the mean square.
      num_plain: this number of last features is passed to the rule as they are, and not to the MLP.
    """
    shape = statistics.grad.shape
    first_axis = 0 if num_axes is None else max(len(shape) - num_axes, 0)
    inputs = features(statistics)
    means = mean_squares(inputs[: len(inputs) - num_plain], shape, first_axis)
    # Both passes compute the features. XLA would keep them for the second: 120 MB, and a third of the time, at 1e7.
    statistics, means = once((statistics, means))

    def block_rule(block: TensorStatistics, means: list[jax.Array]) -> jax.Array:
        inputs = features(block)
        normalized = [x * jax.lax.rsqrt(epsilon + y) for x, y in zip(inputs, means, strict=False)]
        return rule(*apply_mlp(theta, normalized, constants), *inputs[len(means) :])

    if is_wide(theta):
        return over_blocks(block_rule, (statistics, means), shape)
    if kernels.suits(shape):
        return kernels.over_grid(block_rule, (statistics, means), shape)
    return block_rule(statistics, means)


def over_chunks(network: Callable[[jax.Array], tuple[jax.Array, PyTree]], x: jax.Array) -> tuple[jax.Array, PyTree]:
    """`network(x)`: outputs per parameter, `[f, *shape] -> [g, *shape]`, and sums over the parameters.

    On a CPU, a few thousand parameters pass through the network one chunk at a time, so that its activations stay in a
    core's cache. The last chunk is filled up with columns of zeros, which must add nothing to the sums.
    """
    num_features, *shape = x.shape
    n = math.prod(shape)
    if not CHUNK < n < MANY:
        return network(x)
    if len(shape) > 1:
        outputs, sums = over_chunks(network, x.reshape(num_features, n))
        return outputs.reshape(-1, *shape), sums
    num_chunks = math.ceil(n / CHUNK)
    # Equal chunks, rounded up to whole cache lines.
    size = 16 * math.ceil(n / (16 * num_chunks))

    def one_by_one(x: jax.Array) -> tuple[jax.Array, PyTree]:
        padded = jnp.pad(x, ((0, 0), (0, num_chunks * size - n)))
        outputs, sums = jax.lax.map(network, padded.reshape(num_features, num_chunks, size).swapaxes(0, 1))
        outputs = outputs.swapaxes(0, 1).reshape(-1, num_chunks * size)[:, :n]
        return outputs, jax.tree.map(lambda terms: jnp.sum(terms, axis=0), sums)

    return jax.lax.platform_dependent(x, cpu=one_by_one, default=network)


def folded_layers(theta: Theta, num_features: int, constants: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Layers `(kernel [size, fan_in], bias [size, 1])`; the first bias includes the constant inputs, which come last.

    Args:
      theta: `{"kernel_i": [fan_in, size], "bias_i": [size]}` for layers i = 0, 1, ...
      num_features: number of inputs that are not constant.
      constants: the other inputs, `[c]`.
    """
    layers = []
    for i in range(len(theta) // 2):
        kernel, bias = theta[f"kernel_{i}"], theta[f"bias_{i}"]
        if i == 0:
            kernel, bias = kernel[:num_features], bias + constants @ kernel[num_features:]
        # Transposed here, not in the loop over chunks, where the product would take a slower path (XLA on CPU).
        layers.append((kernel.T, bias[:, None]))
    return layers


def dense(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    """kernel x + bias; `[size, f]`, `[size, 1]`, `[f, *shape]` to `[size, *shape]`.

    The shape is kept because flattening would lose the sharding of a tensor along any axis but the first.
    """
    return jnp.tensordot(kernel, x, 1) + bias.reshape(-1, *[1] * (x.ndim - 1))


def matrix_mlp(theta: Theta, features: jax.Array, constants: jax.Array) -> jax.Array:
    """An MLP by matrix products, `[f, *shape] -> [outputs, *shape]`; `theta` and `constants` as in `folded_layers`."""
    layers = folded_layers(theta, len(features), constants)

    def network(x: jax.Array) -> tuple[jax.Array, None]:
        for kernel, bias in layers[:-1]:
            x = nn.relu(dense(kernel, bias, x))
        return dense(*layers[-1], x), None

    return over_chunks(network, features)[0]


class ParameterMLP(nn.Module):
    """An MLP with ReLU, applied to each parameter separately; some of its inputs are the same for all parameters.

    The constant inputs are folded into the first bias, so that they cost nothing per parameter. The long axis comes
    last, so that the small weight matrices multiply one wide matrix.

    Attributes:
      sizes: widths of the hidden layers and of the output.
    """

    sizes: Sequence[int]

    @nn.compact
    def __call__(self, features: jax.Array, constants: jax.Array) -> jax.Array:
        """Args: features `[f, n]`, constants `[c]`. Returns `[sizes[-1], n]`."""
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # std 1 / sqrt(fan_in)
        fan_in = len(features) + len(constants)
        theta = {}
        for i, size in enumerate(self.sizes):
            theta[f"kernel_{i}"] = self.param(f"kernel_{i}", init, (fan_in, size), jnp.float32)
            theta[f"bias_{i}"] = self.param(f"bias_{i}", nn.initializers.zeros, (size,), jnp.float32)
            fan_in = size
        return matrix_mlp(theta, features, constants)
