"""The vision transformer against float64 numpy, and what a permutation of the patches does."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_vit import ImageViT
from tasks.images.patches import to_patches
from tasks.networks import apply

RNG = np.random.default_rng(0)
FAMILY = ImageViT(size=4, channels=3, width=8, num_heads=2)


@pytest.fixture(scope="module")
def params():
    params = FAMILY.task({}).init(jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), params)


@pytest.fixture(scope="module")
def patches():
    return to_patches(jnp.asarray(RNG.normal(size=(3, 48)), jnp.float32), 4, 3, 2)


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(layer, x, num_heads):
    """One image [N, width], a head at a time."""
    q, k, v = (dense(layer[name], x) for name in ("query", "key", "value"))
    size, heads = x.shape[-1] // num_heads, []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
    return dense(layer["output"], np.concatenate(heads, axis=1))


def test_logits_agree_with_numpy(params, patches):
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    expected = []
    for image in np.asarray(patches, np.float64):
        x = dense(weights["patches"], image) + weights["position"]["embedding"]
        for i in range(FAMILY.depth):
            x = x + attention(weights[f"attention_{i}"], layer_norm(weights[f"norm_{i}_0"], x), 2)
            mlp = weights[f"mlp_{i}"]
            x = x + dense(mlp["output"], gelu(dense(mlp["layer_0"], layer_norm(weights[f"norm_{i}_1"], x))))
        expected.append(dense(weights["classes"], layer_norm(weights["norm"], x).mean(0)))
    got = jax.jit(lambda params, patches: apply(FAMILY._net, params, patches))(params, patches)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_only_positions_tell_the_order_of_patches(params, patches):
    net = jax.jit(lambda params, patches: apply(FAMILY._net, params, patches))
    order = np.array([2, 0, 3, 1])
    unplaced = {**params, "position": {"embedding": jnp.zeros((4, 8))}}
    np.testing.assert_allclose(net(unplaced, patches[:, order]), net(unplaced, patches), rtol=1e-5, atol=1e-6)
    moved = {**params, "position": {"embedding": params["position"]["embedding"][order]}}
    np.testing.assert_allclose(net(moved, patches[:, order]), net(params, patches), rtol=1e-5, atol=1e-6)
    assert np.abs(net(params, patches[:, order]) - net(params, patches)).max() > 1e-3


def test_initial_variances():
    params = ImageViT().task({}).init(jax.random.key(0))
    for kernel, expected in (
        (params["attention_0"]["query"]["kernel"], 1 / 32),
        (params["mlp_1"]["layer_0"]["kernel"], 2 / 32),
        (params["mlp_1"]["output"]["kernel"], 1 / 64),
        (params["position"]["embedding"], 0.02**2),
    ):
        np.testing.assert_allclose(kernel.var(), expected, rtol=0.2)  # 512 weights: 6 % a standard deviation


def test_names():
    assert ImageViT(patch_size=4, depth=1).name == "image_vit/digits:patch_size=4:depth=1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 3}, "patch_size must be a whole number that divides size=8, not 3"),
        ({"num_heads": 5}, "num_heads must divide width=32, not be 5"),
        ({"depth": 0}, "depth must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageViT(**settings)
