"""The parametric MLP: each draw equals an ImageMLP of that size; what draws are like; batches of several sets."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks import datasets
from tasks.images.image_mlp import ImageMLP
from tasks.images.random_mlp import RandomMLP
from tasks.networks import ACTIVATIONS

RNG = np.random.default_rng(0)
FAMILY = RandomMLP(size=4, widths=(3, 9), max_depth=3, batch_size=16)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(16, 16)), jnp.float32),
    "label": jnp.arange(16) * 3 % 10,
    "num_classes": jnp.full(16, 10),
}


def config_of(width, depth, activation, dataset=0, init_scale=1.0):
    index = list(ACTIVATIONS).index(activation)
    whole = {"dataset": dataset, "width": width, "depth": depth, "activation": index}
    return {**{name: jnp.int32(value) for name, value in whole.items()}, "init_scale": jnp.float32(init_scale)}


@jax.jit
def run(config, params, batch):
    task = FAMILY.task(config)
    loss, grads = jax.value_and_grad(task.loss)(params, jax.random.key(1), batch)
    return loss, grads, task.metrics(params, jax.random.key(1), batch)


init = jax.jit(lambda config, key: FAMILY.task(config).init(key))


def cut(params, width, depth):
    """The part of params that a network of that size has, named as ImageMLP names it."""
    small = {"layer_0": {"w": params["layer_0"]["w"][:, :width], "b": params["layer_0"]["b"][:width]}}
    for i in range(1, depth):
        small[f"layer_{i}"] = {"w": params[f"layer_{i}"]["w"][:width, :width], "b": params[f"layer_{i}"]["b"][:width]}
    small[f"layer_{depth}"] = {"w": params["output"]["w"][:width], "b": params["output"]["b"]}
    return small


@pytest.mark.parametrize(("width", "depth", "activation"), [(9, 3, "relu"), (4, 2, "tanh"), (3, 1, "gelu")])
def test_equals_an_image_mlp_of_that_size(width, depth, activation):
    params = init(config_of(width, depth, activation), jax.random.key(0))
    # Also where the optimizer has moved params that play no part.
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.normal(size=leaf.shape).astype(np.float32), params)
    loss, grads, metrics = run(config_of(width, depth, activation), moved, BATCH)
    small = cut(moved, width, depth)
    task = ImageMLP(size=4, hidden_sizes=(width,) * depth, activation=activation).task({})
    expected, expected_grads = jax.jit(jax.value_and_grad(task.loss))(small, jax.random.key(1), BATCH)
    np.testing.assert_allclose(loss, task.normalize(expected), rtol=1e-6)
    scaled = jax.tree.map(lambda grad: grad / math.log(10), expected_grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), cut(grads, width, depth), scaled)
    assert metrics == task.metrics(small, jax.random.key(1), BATCH)


def test_params_that_play_no_part_are_zero_and_stay_zero():
    config = config_of(4, 2, "relu")
    params = init(config, jax.random.key(0))
    grads = run(config, params, BATCH)[1]
    for tree in (params, grads):
        inside = sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(cut(tree, 4, 2)))
        assert sum(int((leaf != 0).sum()) for leaf in jax.tree.leaves(tree)) == inside


def test_initial_variances_count_the_units_in_use():
    family = RandomMLP(size=8, widths=(8, 128))
    init = jax.jit(lambda config: family.task(config).init(jax.random.key(0)))
    for width, activation, scale in ((128, "relu", 1.0), (40, "tanh", 0.5)):
        params = init(config_of(width, 3, activation, init_scale=scale))
        gain = scale**2 * ACTIVATIONS[activation][1]
        for name, expected in (("layer_0", gain / 64), ("layer_1", gain / width), ("output", scale**2 / width)):
            w = params[name]["w"]
            np.testing.assert_allclose((w[w != 0]).var(), expected, rtol=0.25)  # 400 weights: 7 % a sd


def test_draws_are_within_their_ranges_and_spread():
    configs = jax.jit(jax.vmap(FAMILY.sample))(jax.random.split(jax.random.key(0), 3000))
    np.testing.assert_allclose(np.bincount(configs["dataset"]) / 3000, [1 / 2] * 2, atol=0.04)
    np.testing.assert_allclose(np.bincount(configs["activation"]) / 3000, [1 / 3] * 3, atol=0.04)
    np.testing.assert_allclose(np.bincount(configs["depth"])[1:] / 3000, [1 / 3] * 3, atol=0.04)
    # Whole numbers under a width whose logarithm is uniform over 3..10.
    shares = [math.log((w + 1) / w) / math.log(10 / 3) for w in range(3, 10)]
    np.testing.assert_allclose(np.bincount(configs["width"])[3:] / 3000, shares, atol=0.04)
    logs = np.log(configs["init_scale"])
    np.testing.assert_allclose([logs.min(), logs.max()], np.log([0.6, 1.1]), atol=0.01)
    np.testing.assert_allclose(logs.mean(), np.log([0.6, 1.1]).mean(), atol=0.02)


@pytest.fixture
def two_sets(monkeypatch):
    """Two data sets: "dark" with 3 classes, levels 0..49; "bright" with 5 classes, levels 200..249, in colour."""
    pixels = {
        "dark": RNG.integers(0, 50, (30, 4, 4, 1), np.uint8),
        "bright": RNG.integers(200, 250, (20, 6, 6, 3), np.uint8),
    }
    classes = {"dark": 3, "bright": 5}

    def describe(name, data_dir):
        return datasets.DatasetInfo(
            name, "image", classes[name], pixels[name].shape[1:], dict.fromkeys(SPLITS, 9), False
        )

    def load_images(name, data_dir, *, seed=0, block=0):
        label = np.arange(len(pixels[name]), dtype=np.int32) % classes[name]
        arrays = {"image": pixels[name], "label": label}
        return dict.fromkeys(SPLITS, arrays)

    monkeypatch.setattr(datasets, "describe", describe)
    monkeypatch.setattr(datasets, "load_images", load_images)


def test_batches_come_from_the_drawn_set(two_sets):
    family = dataclasses.replace(FAMILY, datasets=("dark", "bright"), num_classes=6, batch_size=2000)
    data = family.load()
    draw = jax.jit(lambda data, config: family.sample_batch(data, jax.random.key(0), config, "meta"))
    for index, (name, count) in enumerate((("dark", 30), ("bright", 20))):
        info = datasets.describe(name, None)
        single = ImageMLP(dataset=name, size=4, num_classes=info.num_classes, batch_size=2000)
        batch = draw(data, config_of(9, 1, "relu", dataset=index))
        expected = single.sample_batch(single.load(), jax.random.key(0), {}, "meta")
        np.testing.assert_allclose(batch["image"], expected["image"], rtol=1e-6)
        np.testing.assert_array_equal(batch["label"], expected["label"])
        np.testing.assert_array_equal(batch["num_classes"], [info.num_classes] * 2000)
        assert len(np.unique(batch["image"], axis=0)) == count


def test_uniform_guessing_costs_one_whatever_the_number_of_classes():
    params = jax.tree.map(jnp.zeros_like, init(config_of(9, 1, "relu"), jax.random.key(0)))
    for classes in (2, 7, 10):
        batch = {**BATCH, "label": BATCH["label"] % classes, "num_classes": jnp.full(16, classes)}
        loss, _, _ = run(config_of(9, 1, "relu"), params, batch)
        np.testing.assert_allclose(loss, 1, rtol=1e-3)  # the classes that are lacking keep e^-10 each


def test_initial_losses_of_the_largest_network():
    # The largest scale makes the largest logits; made-up images, as the real ones are standardised too.
    family = RandomMLP(num_classes=10)
    images = jnp.asarray(RNG.normal(size=(128, 64)), jnp.float32)
    batch = {"image": images, "label": jnp.arange(128) % 10, "num_classes": jnp.full(128, 10)}

    @jax.jit
    def loss(config, key):
        return family.task(config).loss(family.task(config).init(key), key, batch)

    losses = [float(loss(config_of(64, 3, "relu", init_scale=scale), jax.random.key(0))) for scale in (0.6, 1.1)]
    assert 0.9 < losses[0] < losses[1] < 1.6


def test_names():
    assert RandomMLP().name == "random_mlp"
    text = "random_mlp:datasets=('digits','glyphs'):widths=(4,8)"
    assert RandomMLP(datasets=("digits", "glyphs"), widths=(4, 8), data_dir="elsewhere").name == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"datasets": "digits"}, "datasets must be a tuple of names"),
        ({"datasets": ()}, "datasets must be a tuple of names"),
        ({"widths": (8, 4)}, "widths must be numbers with 0 < low <= high"),
        ({"widths": (4.0, 8)}, "widths must be a pair"),
        ({"init_scales": (0, 1)}, "init_scales must be numbers with 0 < low"),
        ({"max_depth": 0}, "max_depth must be a whole number of at least 1"),
    ],
)
def test_bad_settings_are_input_errors(settings: Any, message):
    with pytest.raises(InputError, match=message):
        RandomMLP(**settings)


def test_too_many_classes_are_refused(two_sets):
    with pytest.raises(InputError, match="'bright' has 5 classes, more than num_classes=4"):
        RandomMLP(datasets=("dark", "bright"), num_classes=4).load()
