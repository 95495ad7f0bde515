"""The VAE's bound against float64 numpy with the same draws, and against exact values for a known posterior."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_vae import ImageVAE

RNG = np.random.default_rng(0)
KEY = jax.random.key(5)


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)[None, :]


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_loss_agrees_with_numpy(likelihood):
    family = ImageVAE(size=3, hidden_sizes=(5,), latent_size=2, likelihood=likelihood, activation="tanh", noise=0.7)
    task = family.task({})
    params = jax.tree.map(lambda leaf: leaf + 0.3 * RNG.normal(size=leaf.shape).astype(np.float32), task.init(KEY))
    x = RNG.uniform(size=(6, 9))
    code = dense(params["encoder"]["output"], np.tanh(dense(params["encoder"]["layer_0"], x)))
    m, s = code[:, :2], np.exp(code[:, 2:] / 2)
    z = m + s * np.asarray(jax.random.normal(KEY, (6, 2)), np.float64)
    y = dense(params["decoder"]["output"], np.tanh(dense(params["decoder"]["layer_0"], z)))
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-y))
        surprise = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum(1)
        unit = math.log(2)
    else:
        # log N(x; y, noise^2) without its constant.
        surprise = -(-((x - y) ** 2) / (2 * 0.7**2)).sum(1)
        unit = 1 / (2 * 0.7**2)
    kl = (-np.log(s) + (s**2 + m**2) / 2 - 1 / 2).sum(1)  # of two normal distributions
    expected = (surprise + kl).mean() / 9
    loss = jax.jit(task.loss)(params, KEY, {"image": jnp.asarray(x, jnp.float32)})
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(task.normalize(loss), expected / unit, rtol=1e-5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_net_of_zeros_costs_one(likelihood):
    family = ImageVAE(size=4, likelihood=likelihood)
    task = family.task({})
    pixels = RNG.integers(0, 256, (30, 4, 4, 1), np.uint8)
    mean, std = family._moments(pixels)
    x = (pixels.reshape(30, 16) - mean[None, :]) / std[None, :]
    if likelihood == "bernoulli":
        np.testing.assert_allclose(x, pixels.reshape(30, 16) / 255, rtol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, task.init(KEY))
    loss = task.normalize(task.loss(nothing, KEY, {"image": jnp.asarray(x, jnp.float32)}))
    np.testing.assert_allclose(loss, 1, rtol=1e-5)


def test_the_reparametrised_gradient_is_that_of_the_expectation():
    # Linear decoder, zero encoder but for its biases m and v: E (w z - x)^2 = (w m - x)^2 + w^2 exp(v), in closed form.
    family = ImageVAE(size=1, hidden_sizes=(), latent_size=1, likelihood="gaussian", noise=1.0)
    m, v, w, x, batch = 0.4, -0.6, 1.5, 0.8, 200_000
    params = {
        "encoder": {"output": {"kernel": jnp.zeros((1, 2)), "bias": jnp.array([m, v])}},
        "decoder": {"output": {"kernel": jnp.full((1, 1), w), "bias": jnp.zeros(1)}},
    }
    images = {"image": jnp.full((batch, 1), x)}
    loss, grads = jax.jit(jax.value_and_grad(family.task({}).loss))(params, KEY, images)
    expected = ((w * m - x) ** 2 + w**2 * math.exp(v)) / 2 + (m**2 + math.exp(v) - 1 - v) / 2
    slope = [(w * m - x) * w + m, w**2 * math.exp(v) / 2 + (math.exp(v) - 1) / 2]
    # Standard deviation of one draw about 1.3: 0.003 of the mean.
    np.testing.assert_allclose(loss, expected, atol=0.012)
    np.testing.assert_allclose(grads["encoder"]["output"]["bias"], slope, atol=0.02)


def test_names():
    assert ImageVAE(likelihood="gaussian", noise=0.2).name == "image_vae/digits:likelihood=gaussian:noise=0.2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"likelihood": "normal"}, "unknown likelihood 'normal'"),
        ({"noise": 0}, "noise must be a positive number, not 0"),
        ({"latent_size": 0}, "latent_size must be"),
    ],
)
def test_bad_settings_are_input_errors(settings, message):
    with pytest.raises(InputError, match=message):
        ImageVAE(**settings)
