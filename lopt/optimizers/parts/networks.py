"""A per-parameter network applied to a list of features, and the passes over a tensor that it takes.

The features of a tensor are never in memory together: they are normalized by a factor that a first pass over the tensor
gives, and a second pass computes them again, a block of the tensor at a time where the tensor is large.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.optimizers.parts import kernels
from lopt.optimizers.parts.adafac_features import TensorStatistics
from lopt.optimizers.parts.blocks import mean_squares, over_blocks
from lopt.types import PyTree, Theta

CHUNK = 1024  # parameters that pass through a network together on a CPU, where they are few
MANY = 2**13  # parameters that all pass through it together, and more: each product then keeps all cores busy
MAX_UNROLLED = 8  # widest hidden layer that is written as sums of scalars times features

Features = Callable[[TensorStatistics], list[jax.Array]]


def apply_mlp(theta: Theta, features: Sequence[jax.Array], constants: jax.Array | None = None) -> list[jax.Array]:
    """The outputs of a `ParameterMLP` with meta-parameters `theta`, one array an output.

    Up to a width of `MAX_UNROLLED` it is written as sums over features, which XLA fuses with what computes the features
    into one loop over the parameters; above that, as matrix products.

    Args:
      theta: `{"kernel_i": [fan_in, size], "bias_i": [size]}` for layers i = 0, 1, ...
      features: arrays that can be broadcast to one another.
      constants: inputs after the features that all parameters share, `[c]`.

    Returns:
      Arrays of the shape to which the features are broadcast.
    """
    sizes = [theta[f"bias_{i}"].shape[-1] for i in range(len(theta) // 2)]
    shape = jnp.broadcast_shapes(*(x.shape for x in features))
    constants = jnp.zeros((0,), jnp.float32) if constants is None else constants
    if max(sizes[:-1]) > MAX_UNROLLED:
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
    rule: Callable[[list[jax.Array]], jax.Array],
    statistics: TensorStatistics,
    *,
    num_axes: int | None = None,
    epsilon: float = 1e-5,
    num_plain: int = 0,
    in_blocks: bool = False,
) -> jax.Array:
    """rule([x / sqrt(epsilon + mean(x^2)) for x in features(statistics)]), the output of one tensor.

    Args:
      features: computes arrays `[*shape]`, or with some axes of length 1, from the statistics of a tensor or a block.
      rule: maps the normalized features to an array `[*shape]`, each parameter on its own.
      statistics: of the tensor.
      num_axes: the mean of the squares is over so many of the last axes; all of them if None.
      epsilon: added to the mean square.
      num_plain: so many of the last features are given to the rule as they are.
      in_blocks: whether a large tensor passes through the rule in blocks: for a rule that XLA cannot fuse.
    """
    shape = statistics.grad.shape
    first_axis = 0 if num_axes is None else max(len(shape) - num_axes, 0)
    inputs = features(statistics)
    means = mean_squares(inputs[: len(inputs) - num_plain], shape, first_axis)
    # Without the barrier XLA would keep what both passes compute: for 1e7 parameters 120 MB and a third of the time.
    statistics, means = jax.lax.optimization_barrier((statistics, means))

    def block_rule(block: TensorStatistics, means: list[jax.Array]) -> jax.Array:
        inputs = features(block)
        normalized = [x * jax.lax.rsqrt(epsilon + y) for x, y in zip(inputs, means, strict=False)]
        return rule(normalized + inputs[len(means) :])

    if in_blocks:
        return over_blocks(block_rule, (statistics, means), shape)
    if kernels.suits(shape):
        return kernels.over_grid(block_rule, (statistics, means), shape)
    return block_rule(statistics, means)


def over_chunks(network: Callable[[jax.Array], tuple[jax.Array, PyTree]], x: jax.Array) -> tuple[jax.Array, PyTree]:
    """`network(x)`: outputs `[f, *shape] -> [g, *shape]`, of each parameter on its own, and sums over the parameters.

    On a CPU a few thousand parameters pass through it a chunk at a time, as its activations stay in a core's cache. The
    last chunk is filled up with columns of zeros, which must add nothing to the sums.
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
    """Layers `(kernel [size, fan_in], bias [size, 1])` with the constant inputs, which come last, in the first bias.

    Args:
      theta: `{"kernel_i": [fan_in, size], "bias_i": [size]}` for layers i = 0, 1, ...
      num_features: inputs that are not constant.
      constants: the others, `[c]`.
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

    A tensor that is sharded along any but its first axis cannot stay so while it is flattened: hence `*shape`.
    """
    return jnp.tensordot(kernel, x, 1) + bias.reshape(-1, *[1] * (x.ndim - 1))


def matrix_mlp(theta: Theta, features: jax.Array, constants: jax.Array) -> jax.Array:
    """The MLP of these weights as matrix products; `[f, *shape] -> [outputs, *shape]`, arguments as `folded_layers`."""
    layers = folded_layers(theta, len(features), constants)

    def network(x: jax.Array) -> tuple[jax.Array, None]:
        for kernel, bias in layers[:-1]:
            x = nn.relu(dense(kernel, bias, x))
        return dense(*layers[-1], x), None

    return over_chunks(network, features)[0]


class ParameterMLP(nn.Module):
    """An MLP with ReLU applied to every parameter on its own, with inputs that are constant over the parameters.

    The constant inputs are folded into the first bias, so that they cost nothing per parameter; and the long axis
    comes last, so that the small weight matrices multiply one wide matrix.

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
            theta[f"kernel_{i}"] = self.param(f"kernel_{i}", init, (fan_in, size))
            theta[f"bias_{i}"] = self.param(f"bias_{i}", nn.initializers.zeros, (size,))
            fan_in = size
        return matrix_mlp(theta, features, constants)
