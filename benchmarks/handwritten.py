"""Two training loops as a person would write them for one task, without this project; benchmarks/tasks.py uses them.

Each is a jitted step in a Python loop over numpy arrays, and the models are written out.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Loss = Callable[[Any, Any, Any], jax.Array]


def convnet_loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy of `tasks.images.image_conv` with its default settings: images [B, 8, 8, 1], labels [B]."""
    x = images
    for name, stride in (("stage_0", 1), ("stage_1", 2)):
        dimensions = ("NHWC", "HWIO", "NHWC")
        kernel = params[name]["kernel"]
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=dimensions)
        x = jax.nn.relu(x + params[name]["bias"])
    logits = x.mean((1, 2)) @ params["output"]["kernel"] + params["output"]["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def transformer_loss(params: Any, read: jax.Array, wanted: jax.Array) -> jax.Array:
    """Mean cross-entropy of `tasks.sequences.text_transformer` with its default settings: int32 [B, L] each."""

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params[name]["scale"] + params[name]["bias"]

    def attention(block, x):
        batch, length, width = x.shape
        projected = x @ block["query_key_value"]["kernel"] + block["query_key_value"]["bias"]
        q, k, v = jnp.moveaxis(projected.reshape(batch, length, 3, 4, width // 4), 2, 0)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        return mixed @ block["out"]["kernel"] + block["out"]["bias"]

    x = params["embed"]["embedding"][read] + params["embedding"]
    for layer in range(2):
        x = x + attention(params[f"attention_{layer}"], norm(f"attention_norm_{layer}", x))
        hidden = jax.nn.gelu(dense(f"expand_{layer}", norm(f"mlp_norm_{layer}", x)))
        x = x + dense(f"contract_{layer}", hidden)
    logits = dense("readout", norm("norm", x))
    return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()


def train(loss: Loss, params: Any, draw: Callable[[np.random.Generator], tuple], num_steps: int) -> float:
    """Trains with Adam at 1e-3 on batches drawn by numpy; returns seconds per step, without compiling."""
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, *batch):
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state)
        return optax.apply_updates(params, updates), state

    generator, state = np.random.default_rng(0), optimizer.init(params)
    params, state = jax.block_until_ready(step(params, state, *draw(generator)))
    began = time.perf_counter()
    for _ in range(num_steps):
        params, state = step(params, state, *draw(generator))
    jax.block_until_ready(params)
    return (time.perf_counter() - began) / num_steps
