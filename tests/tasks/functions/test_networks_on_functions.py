"""A deep student against numpy, and the curvature of a network against its closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from lopt.types import SPLITS
from tasks.functions.poisson import Poisson
from tasks.functions.teacher_student import TeacherStudent

KEY = jax.random.key(0)


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_the_residual_has_the_second_derivative_of_a_tanh_network():
    family = Poisson(hidden_sizes=(5,), waves=2)
    config = family.sample(KEY)
    task, a = family.task(config), exact(config["amplitudes"])
    params = jax.tree.map(lambda p: p + 0.3, task.init(KEY))  # biases too
    batch = family.sample_batch({}, KEY, config, "train")
    x, p = np.asarray(batch["x"], np.float64), exact(params)
    w, b, v, c = (p[layer][kind] for layer in ("layer_0", "output") for kind in ("kernel", "bias"))
    t = np.tanh(x[:, None] * w[0] + b)
    net = t @ v[:, 0] + c[0]
    slope = ((1 - t**2) * w[0]) @ v[:, 0]
    curvature = (-2 * t * (1 - t**2) * w[0] ** 2) @ v[:, 0]
    second = -2 * net + 2 * (1 - 2 * x) * slope + x * (1 - x) * curvature  # of x (1 - x) net
    force = a[0] * np.sin(np.pi * x) + a[1] * np.sin(2 * np.pi * x)
    np.testing.assert_allclose(task.loss(params, KEY, batch), np.mean((second + force) ** 2), rtol=1e-4)


def test_a_poisson_loss_of_1_is_that_of_the_zero_function():
    """Integrated over [0, 1] by the midpoint rule, which is exact for products of sines."""
    family = Poisson()
    config = family.sample(KEY)
    task = family.task(config)
    params = jax.tree.map(jnp.zeros_like, task.init(KEY))
    points = {"x": (jnp.arange(64) + 0.5) / 64}
    np.testing.assert_allclose(task.normalize(task.loss(params, KEY, points)), 1, rtol=1e-5)


def test_labels_are_those_of_the_teacher_standardised():
    family = TeacherStudent(batch_size=4096)
    config = family.sample(KEY)
    c = exact(config["teacher"])
    ys = []
    for split in SPLITS:
        batch = family.sample_batch({}, KEY, config, split)
        x = np.asarray(batch["x"], np.float64)
        hidden = np.tanh(x @ c["layer_0"]["kernel"] + c["layer_0"]["bias"])
        y = (hidden @ c["output"]["kernel"] + c["output"]["bias"])[:, 0]
        np.testing.assert_allclose(batch["y"], (y - config["mean"]) / config["std"], rtol=1e-4, atol=1e-4)
        ys.append(batch["y"])
    assert len({y.tobytes() for y in map(np.asarray, ys)}) == len(SPLITS)
    # The moments are of 1024 rows: the mean is off by 1/32, the variance by about sqrt(2)/32, each at one sigma.
    np.testing.assert_allclose(np.mean(ys), 0, atol=4 / 32)
    np.testing.assert_allclose(np.var(ys), 1, atol=4 * 1.5 / 32)


def test_the_student_of_the_teachers_form_can_be_the_teacher():
    family = TeacherStudent(hidden_sizes=(8,))
    config = family.sample(KEY)
    task, teacher = family.task(config), config["teacher"]
    output = {
        "kernel": teacher["output"]["kernel"] / config["std"],
        "bias": (teacher["output"]["bias"] - config["mean"]) / config["std"],
    }
    batch = family.sample_batch({}, KEY, config, "train")
    assert jax.tree.map(jnp.shape, {**teacher, "output": output}) == jax.tree.map(jnp.shape, task.init(KEY))
    assert task.loss({**teacher, "output": output}, KEY, batch) < 1e-9
    assert task.loss(task.init(KEY), KEY, batch) > 0.3
