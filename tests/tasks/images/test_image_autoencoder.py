"""The autoencoder's loss against float64 numpy, and what it is worth to guess the mean image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_autoencoder import ImageAutoencoder
from tasks.images.reconstruction import pixel_moments

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pixels():
    """uint8 [40, 4, 4, 1] of unequal brightness and contrast."""
    return (np.linspace(20, 90, 16) + RNG.normal(size=(40, 16)) * np.linspace(5, 30, 16)).clip(0, 255).astype(np.uint8)


def standardise(family, pixels):
    mean, std = family._moments(pixels.reshape(-1, 4, 4, 1))
    return {"image": jnp.asarray((pixels - mean[None, :]) / std[None, :], jnp.float32)}


def test_loss_agrees_with_numpy_on_pixels_of_0_to_1(pixels):
    family = ImageAutoencoder(size=4, hidden_sizes=(6, 5), latent_size=2, activation="tanh")
    task = family.task({})
    params = jax.tree.map(lambda leaf: leaf + 0.1, task.init(jax.random.key(0)))
    assert params["encoder"]["output"]["kernel"].shape == (5, 2)
    assert params["decoder"]["layer_0"]["kernel"].shape == (2, 5)
    batch = standardise(family, pixels)
    x = np.asarray(batch["image"], np.float64)
    for part in ("encoder", "decoder"):
        for name in ("layer_0", "layer_1", "output"):
            layer = {kind: np.asarray(leaf, np.float64) for kind, leaf in params[part][name].items()}
            x = x @ layer["kernel"] + layer["bias"][None, :]
            x = x if name == "output" else np.tanh(x)
    truth = pixels / 255
    guess = (x * pixel_moments(pixels)[1] + pixels.mean(0)[None, :]) / 255
    expected = ((guess - truth) ** 2).mean() / ((truth - truth.mean(0)[None, :]) ** 2).mean()
    loss = jax.jit(task.loss)(params, jax.random.key(1), batch)
    np.testing.assert_allclose(task.normalize(loss), expected, rtol=1e-5)


def test_the_mean_image_costs_one(pixels):
    family = ImageAutoencoder(size=4)
    task = family.task({})
    nothing = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
    loss = task.normalize(task.loss(nothing, jax.random.key(1), standardise(family, pixels)))
    np.testing.assert_allclose(loss, 1, rtol=1e-5)
    assert task.metrics(nothing, jax.random.key(1), {}) == {}


def test_names():
    assert ImageAutoencoder(dataset="mnist_5k", latent_size=4).name == "image_autoencoder/mnist_5k:latent_size=4"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_sizes": 8}, "hidden_sizes must be a tuple"),
        ({"latent_size": 0}, "latent_size must be a whole number of at least 1"),
        ({"activation": "sine"}, "unknown activation 'sine'"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageAutoencoder(**settings)
