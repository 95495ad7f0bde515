"""LSTMs: the cell, and the network that runs along a training with one state per tensor. Arrays are features-first.

Sepp Hochreiter, Juergen Schmidhuber, "Long short-term memory", 1997; the network: Luke Metz et al., "VeLO: training
versatile learned optimizers by scaling up", 2022 (arXiv 2211.09760).
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.trees import leaf_name
from lopt.types import PyTree, Theta

INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")  # std 1 / sqrt(fan_in)
TRUNCATED_STD = 0.8796256610342398  # of a standard normal distribution cut off at +-2


class Carry(NamedTuple):
    """The state of n cells side by side.

    Attributes:
      c: memory, `[hidden, n]`.
      h: output, `[hidden, n]`.
    """

    c: jax.Array
    h: jax.Array


def lstm_cell(kernel: jax.Array, bias: jax.Array, carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Carry:
    """One step of n cells that share their weights.

    Args:
      kernel: `[features + hidden, 4 hidden]`, for input gate, forget gate, candidate and output gate in this order.
      bias: `[4 hidden]`.
      carry: c and h, each `[hidden, n]`.
      x: `[features, n]`.
    """
    c, h = carry
    # Two products rather than one of the joined inputs, which would copy the hidden state. They contract the first
    # axis, as n may stand for several axes.
    products = (jnp.tensordot(k.T, y, 1) for k, y in ((kernel[: x.shape[0]], x), (kernel[x.shape[0] :], h)))
    gates = sum(products, bias.reshape(-1, *[1] * (x.ndim - 1)))
    input_gate, forget_gate, candidate, output_gate = jnp.split(gates, 4)
    # The +1 starts the cell as one that remembers (Jozefowicz et al. 2015).
    c = nn.sigmoid(forget_gate + 1) * c + nn.sigmoid(input_gate) * jnp.tanh(candidate)
    return Carry(c, nn.sigmoid(output_gate) * jnp.tanh(c))


def first_carry(theta: Theta, num_tensors: int) -> Carry:
    """The learned first state, `theta["initial_c"]` and `theta["initial_h"]`, one copy per tensor."""
    columns = (theta["initial_c"][:, None], theta["initial_h"][:, None])
    return Carry(*(jnp.broadcast_to(x, (len(x), num_tensors)) for x in columns))


class TensorLSTM(nn.Module):
    """A per-tensor LSTM with shared weights; the tensors see each other through a maximum over all of them.

    x' = A x + max over tensors of relu(B x), then the cell, then linear read-outs. `kernel_unused` and `bias_unused`
    belong to a first mixing layer that the published networks have and nothing reads.

    Attributes:
      hidden_size: width of the mixing layers and of the cell.
      num_weights: size of the first read-out; 0 means none.
    """

    hidden_size: int
    num_weights: int

    def _linear(self, name: str, x: jax.Array, size: int) -> jax.Array:
        kernel = self.param(f"kernel_{name}", INIT, (x.shape[0], size), jnp.float32)
        return kernel.T @ x + self.param(f"bias_{name}", nn.initializers.zeros, (size,), jnp.float32)[:, None]

    def shapes(self, num_features: int) -> dict[str, tuple[int, ...]]:
        """Shapes of theta, by name."""
        params = jax.eval_shape(self.init, jax.random.key(0), None, jnp.zeros((num_features, 1), jnp.float32))["params"]
        return {name: leaf.shape for name, leaf in params.items()}

    def advance(self, theta: Theta, carry: Carry, x: jax.Array) -> tuple[Carry, jax.Array, jax.Array]:
        """One step of all LSTMs; arguments and results as in `__call__`."""
        carry, weights, step = self.apply({"params": theta}, carry, x)  # type: ignore[misc]
        return carry, jnp.asarray(weights), jnp.asarray(step)

    @nn.compact
    def __call__(self, carry: Carry | None, x: jax.Array) -> tuple[Carry, jax.Array, jax.Array]:
        """One step.

        Args:
          carry: state of the LSTMs; None means the first one.
          x: `[features, n]`.

        Returns:
          The new carry; the first read-out, `[num_weights, n]`; the second, `[n]`.
        """
        size = self.hidden_size
        zeros = nn.initializers.zeros
        first = {name: self.param(name, zeros, (size,), jnp.float32) for name in ("initial_c", "initial_h")}
        carry = first_carry(first, x.shape[1]) if carry is None else carry
        self._linear("unused", x, size)
        mixed = jnp.max(nn.relu(self._linear("mix", x, size)), axis=1, keepdims=True)
        x = self._linear("input", x, size) + mixed
        kernel = self.param("kernel_lstm", INIT, (2 * size, 4 * size), jnp.float32)
        carry = lstm_cell(kernel, self.param("bias_lstm", zeros, (4 * size,), jnp.float32), carry, x)
        weights = self._linear("weights", carry.h, self.num_weights) if self.num_weights else carry.h[:0]
        return carry, weights, self._linear("step", carry.h, 1)[0]


def draw_kernels(key: jax.Array, shapes: PyTree) -> Theta:
    """Arrays of these shapes: those named `kernel...`, `[..., fan_in, size]`, drawn like `INIT`, all others zero.

    All kernels come from one draw, as every draw takes a third of a second to compile.

    Args:
      key: key of the draw.
      shapes: nested dicts of tuples.
    """
    paths, treedef = jax.tree.flatten_with_path(shapes, is_leaf=lambda x: isinstance(x, tuple))
    is_kernel = [leaf_name(path[-1:]).startswith("kernel") for path, _ in paths]
    sizes = [kernel * math.prod(shape) for kernel, (_, shape) in zip(is_kernel, paths, strict=True)]
    noise = jax.random.truncated_normal(key, -2, 2, (sum(sizes),), jnp.float32) / TRUNCATED_STD
    arrays, start = [], 0
    for (_, shape), kernel, size in zip(paths, is_kernel, sizes, strict=True):
        if kernel:
            arrays.append(noise[start : start + size].reshape(shape) / math.sqrt(shape[-2]))
        else:
            arrays.append(jnp.zeros(shape, jnp.float32))
        start += size
    return jax.tree.unflatten(treedef, arrays)
