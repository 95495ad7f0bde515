"""The supervised contrastive loss against numpy, pair by pair."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.images.image_contrastive import ImageContrastive

KEY = jax.random.key(0)
LABELS = np.array([0, 1, 0, 2, 0, 1])  # 2 is alone


def test_the_loss_is_the_papers():
    family = ImageContrastive(size=2, hidden_sizes=(), latent_size=3, temperature=0.7, batch_size=6)
    task = family.task({})
    params, images = task.init(KEY), np.random.default_rng(0).normal(size=(6, 4))
    batch = {"image": jnp.asarray(images, jnp.float32), "label": jnp.asarray(LABELS)}
    z = images @ np.asarray(params["output"]["kernel"], np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses, nearest = [], []
    for i, label in enumerate(LABELS):
        others = [k for k in range(6) if k != i]
        total = sum(math.exp(z[i] @ z[k] / 0.7) for k in others)
        alike = [-math.log(math.exp(z[i] @ z[k] / 0.7) / total) for k in others if LABELS[k] == label]
        losses += [np.mean(alike)] if alike else []
        nearest.append(LABELS[max(others, key=lambda k: z[i] @ z[k])] == label)
    assert len(losses) == 5
    np.testing.assert_allclose(task.loss(params, KEY, batch), np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(task.metrics(params, KEY, batch)["accuracy"], np.mean(nearest))


def test_codes_that_are_all_alike_cost_1():
    task = ImageContrastive(size=2, hidden_sizes=(), batch_size=6).task({})
    params = jax.tree.map(jnp.ones_like, task.init(KEY))
    batch = {"image": jnp.ones((6, 4)), "label": jnp.asarray(LABELS)}
    np.testing.assert_allclose(task.normalize(task.loss(params, KEY, batch)), 1, rtol=1e-5)


def test_gradients_stay_finite_where_nothing_is_alike_and_where_codes_are_0():
    task = ImageContrastive(size=2, hidden_sizes=(), batch_size=3).task({})
    zero = jax.tree.map(jnp.zeros_like, task.init(KEY))
    for labels in ([0, 1, 2], [0, 0, 1]):
        grads = jax.grad(task.loss)(zero, KEY, {"image": jnp.ones((3, 4)), "label": jnp.asarray(labels)})
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_two_images_have_nothing_to_be_told_apart_from():
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 3"):
        ImageContrastive(batch_size=2)
