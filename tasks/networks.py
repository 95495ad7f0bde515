"""What the networks of several families share: activations, initialisation in one draw, an MLP, losses of classes."""

import math
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from lopt.types import Params

# Activation, and the weight variance times fan-in that keeps the size of its outputs: He's 2 if half is cut off.
ACTIVATIONS = {"relu": (jax.nn.relu, 2.0), "gelu": (jax.nn.gelu, 2.0), "tanh": (jnp.tanh, 1.0)}

EMBEDDING_STD = 0.02


def init_params(
    module: nn.Module,
    key: jax.Array,
    input_shape: tuple[int, ...],
    *,
    gain: float = 1.0,
    gains: Mapping[str, float] | None = None,
) -> Params:
    """Initial params of a flax module, whose own initialisers only give the shapes.

    Kernels are normal of variance gain / fan-in, where fan-in is the product of all axes but the last; embeddings are
    normal of standard deviation 0.02; biases are zero, scales one.

    Args:
      module: takes float32 of `input_shape`.
      key: consumed.
      input_shape: includes the batch axis, of any length.
      gain: for every kernel that `gains` does not name.
      gains: for the kernels under the submodule of each name.
    """
    variables = jax.eval_shape(lambda key: module.init(key, jnp.zeros(input_shape)), key)
    leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])

    def std(path: Any, shape: tuple[int, ...]) -> float:
        *modules, kind = (str(part.key) for part in path)
        if kind == "embedding":
            return EMBEDDING_STD
        if kind == "kernel":
            chosen = [gains[name] for name in modules if gains and name in gains]
            return math.sqrt((chosen[-1] if chosen else gain) / math.prod(shape[:-1]))
        return {"bias": 0.0, "scale": 0.0}[kind]

    stds = [std(path, leaf.shape) for path, leaf in leaves]
    # One draw for all leaves, as each call of normal costs a third of a second of compile time.
    size = sum(leaf.size for (_, leaf), scale in zip(leaves, stds, strict=True) if scale)
    flat = jax.random.normal(key, (size,))
    params, start = [], 0
    for (path, leaf), scale in zip(leaves, stds, strict=True):
        if scale:
            params.append(flat[start : start + leaf.size].reshape(leaf.shape) * scale)
            start += leaf.size
        else:
            params.append(jnp.full(leaf.shape, float(path[-1].key == "scale")))
    return jax.tree_util.tree_unflatten(structure, params)


def apply(module: nn.Module, params: Params, x: jax.Array) -> jax.Array:
    """The module's output for `x`."""
    return cast(jax.Array, module.apply({"params": params}, x))


class MLP(nn.Module):
    """Dense layers with an activation between them: [..., d] -> [..., output_size].

    Attributes:
      hidden_sizes: width of each hidden layer.
      output_size: width of the last layer, called `output`, which has no activation.
      activation: one of `ACTIVATIONS`.
    """

    hidden_sizes: tuple[int, ...]
    output_size: int
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer, width in enumerate(self.hidden_sizes):
            x = ACTIVATIONS[self.activation][0](nn.Dense(width, name=f"layer_{layer}")(x))
        return nn.Dense(self.output_size, name="output")(x)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log softmax(logits)[label], in nats: [..., C] and int [...] -> [...]; 0 where the label is none of the C."""
    # A mask rather than an index: the gradient of an indexing is a scatter, which is slow in the inner loop.
    classes = jnp.arange(logits.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    return -jnp.sum(jax.nn.log_softmax(logits), axis=-1, where=labels[..., None] == classes)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of labels, int [...], whose logit is the largest of its row of [..., C]."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)
