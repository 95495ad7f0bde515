"""The convnets against loops in float64 numpy, the residual block at zero, initial losses, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_conv import ImageConv, Norm, ResidualBlock
from tasks.networks import apply, init_params

RNG = np.random.default_rng(0)


def conv(layer, x, stride=1):
    """Same padding, as loops: the window's first row is above the image where the padding is odd on that side."""
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    size, (batch, height, width, _) = kernel.shape[0], x.shape
    out = -(-height // stride)
    total = max((out - 1) * stride + size - height, 0)
    padded = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2), (0, 0)))
    y = np.zeros((batch, out, -(-width // stride), kernel.shape[3]))
    for i in range(out):
        for j in range(y.shape[2]):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel) + bias[None, :]
    return y


def norm(layer, x, groups):
    """Mean 0 and variance 1 over pixels and the channels of a group."""
    batch, height, width, channels = x.shape
    split = x.reshape(batch, height * width, groups, channels // groups)
    moments = [f(split, axis=(1, 3), keepdims=True) for f in (np.mean, np.var)]
    split = (split - moments[0]) / np.sqrt(moments[1] + 1e-6)
    scale, bias = (np.asarray(layer["norm"][name], np.float64)[None, None, None, :] for name in ("scale", "bias"))
    return split.reshape(x.shape) * scale + bias


def relu(x):
    return np.maximum(x, 0)


def logits(family, params, images):
    groups = {"none": 0, "layer": 1, "group": family.num_groups}[family.norm]

    def activate(names, x):
        leaves = params
        for name in names if groups else ():
            leaves = leaves[name]
        return relu(norm(leaves, x, groups) if groups else x)

    x = np.asarray(images, np.float64).reshape(-1, family.size, family.size, family.channels)
    if family.residual:
        x = conv(params["stem"], x)
    for stage in range(len(family.widths)):
        name, stride = f"stage_{stage}", 1 if stage == 0 else 2
        if not family.residual:
            x = activate([f"norm_{stage}"], conv(params[name], x, stride))
            continue
        y = conv(params[name]["conv_0"], activate([name, "norm_0"], x), stride)
        y = conv(params[name]["conv_1"], activate([name, "norm_1"], y))
        x = y + (conv(params[name]["shortcut"], x, stride) if "shortcut" in params[name] else x)
    if family.residual:
        x = activate(["norm"], x)
    return x.mean((1, 2)) @ np.asarray(params["output"]["kernel"]) + np.asarray(params["output"]["bias"])[None, :]


@pytest.mark.parametrize(
    "settings",
    [{}, {"norm": "layer"}, {"residual": True, "norm": "group"}, {"residual": True, "size": 5, "channels": 3}],
)
def test_logits_agree_with_numpy(settings):
    family = ImageConv(**{"size": 4, "widths": (4, 8), "num_groups": 2, **settings})
    params = family.task({}).init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), params)
    images = RNG.normal(size=(3, family.size**2 * family.channels)).astype(np.float32)
    got = jax.jit(family._logits)(params, images)
    np.testing.assert_allclose(got, logits(family, params, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "layer"])
def test_a_residual_block_of_zero_kernels_is_the_identity(kind):
    block = ResidualBlock(width=4, stride=1, norm=kind, num_groups=1)
    params = init_params(block, jax.random.key(0), (1, 5, 5, 4))
    assert "shortcut" not in params
    x = jnp.asarray(RNG.normal(size=(2, 5, 5, 4)))
    params = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(apply(block, params, x), x)


def test_a_norm_looks_at_one_image_alone():
    module = Norm("group", 2)
    params = init_params(module, jax.random.key(0), (1, 3, 3, 4))
    x = RNG.normal(size=(4, 3, 3, 4)) * np.array([1, 10, 100, 1000])[:, None, None, None]
    together = apply(module, params, jnp.asarray(x))
    for i in range(4):
        np.testing.assert_allclose(together[i : i + 1], apply(module, params, jnp.asarray(x[i : i + 1])), rtol=1e-5)
    halves = np.asarray(together).reshape(4, 9, 2, 2)
    np.testing.assert_allclose(halves.mean((1, 3)), np.zeros((4, 2)), atol=1e-5)
    np.testing.assert_allclose(halves.var((1, 3)), np.ones((4, 2)), rtol=1e-4)


@pytest.mark.parametrize("settings", [{"norm": "none"}, {"norm": "none", "residual": True, "widths": (8,) * 5}])
def test_initial_loss_is_near_that_of_guessing(settings):
    family = ImageConv(**settings)
    batch = {"image": jnp.asarray(RNG.normal(size=(64, 64)), jnp.float32), "label": jnp.arange(64) % 10}
    task = family.task({})
    loss = jax.jit(lambda key: task.normalize(task.loss(task.init(key), key, batch)))(jax.random.key(0))
    assert 0.9 < loss < 1.5


def test_names():
    assert ImageConv(residual=True, norm="group").name == "image_conv/digits:residual=True:norm=group"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": ()}, "widths must name at least one stage"),
        ({"widths": (8, 0)}, "widths must be a tuple of positive whole numbers"),
        ({"norm": "batch"}, "unknown norm 'batch'"),
        ({"residual": 1}, "residual must be True or False"),
        ({"norm": "group", "widths": (6,)}, r"needs widths that num_groups=4 divides, not \(6,\)"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageConv(**settings)
