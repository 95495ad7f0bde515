"""The mixer against float64 numpy."""

import math

import jax
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_mixer import ImageMixer

RNG = np.random.default_rng(0)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def mlp(layer, x):
    z = dense(layer["layer_0"], x)
    return dense(layer["output"], z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))))


def test_logits_agree_with_numpy():
    family = ImageMixer(size=4, width=6, token_width=5, channel_width=7)
    params = family.task({}).init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), params)
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    images = RNG.normal(size=(3, 16)).astype(np.float32)
    expected = []
    for image in images.reshape(3, 4, 4).astype(np.float64):
        corners = [(i, j) for i in (0, 2) for j in (0, 2)]
        x = dense(weights["patches"], np.stack([image[i : i + 2, j : j + 2].reshape(-1) for i, j in corners]))
        for i in range(family.depth):
            x = x + mlp(weights[f"tokens_{i}"], layer_norm(weights[f"norm_{i}_0"], x).T).T
            x = x + mlp(weights[f"channels_{i}"], layer_norm(weights[f"norm_{i}_1"], x))
        expected.append(dense(weights["classes"], layer_norm(weights["norm"], x).mean(0)))
    np.testing.assert_allclose(jax.jit(family._logits)(params, images), expected, rtol=1e-4, atol=1e-5)


def test_names_and_refusals():
    assert ImageMixer(size=14, width=16).name == "image_mixer/digits:size=14:width=16"
    with pytest.raises(InputError, match="patch_size must be a whole number that divides size=8, not 5"):
        ImageMixer(patch_size=5)
    with pytest.raises(InputError, match="token_width must be a whole number of at least 1, not 0"):
        ImageMixer(token_width=0)
