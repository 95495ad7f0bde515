"""Inputs and networks that per-parameter rules share. Arrays are features-first, `[num_features, n]`, n parameters."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.types import PyTree, Theta

CHUNK = 1024  # parameters that pass through a network together on a CPU, where they are few
MANY = 2**13  # parameters that all pass through it together, and more: each product then keeps all cores busy
TIME_SCALES = (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)  # inner steps


def second_moment_normalize(x: jax.Array, *, epsilon: float = 1e-5) -> jax.Array:
    """Scales each feature `x[i]` of one tensor to unit mean square: x_i / sqrt(epsilon + mean(x_i^2)).

    Args:
      x: `[num_features, n]`, all n parameters of the tensor.
    """
    return x * jax.lax.rsqrt(epsilon + jnp.mean(jnp.square(x), axis=1, keepdims=True))


def time_features(step: jax.Array) -> jax.Array:
    """`[11]`: tanh(t / s - 1) for s of `TIME_SCALES`, where t is the number of updates done."""
    return jnp.tanh(step / jnp.asarray(TIME_SCALES, jnp.float32) - 1)


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
