"""Inputs and networks that per-parameter rules share. Arrays are features-first, `[num_features, n]`, n parameters."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

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
        x = features
        for i, size in enumerate(self.sizes):
            fan_in = x.shape[0] + (constants.size if i == 0 else 0)
            kernel = self.param(f"kernel_{i}", init, (fan_in, size))
            bias = self.param(f"bias_{i}", nn.initializers.zeros, (size,))
            if i == 0:
                kernel, constant_kernel = kernel[: x.shape[0]], kernel[x.shape[0] :]
                bias = bias + constants @ constant_kernel
            x = kernel.T @ x + bias[:, None]
            if i + 1 < len(self.sizes):
                x = nn.relu(x)
        return x
