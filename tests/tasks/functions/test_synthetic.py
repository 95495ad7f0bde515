"""Quadratics, least squares and test functions against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.types import SPLITS
from tasks.functions.least_squares import LeastSquares
from tasks.functions.quadratic import Quadratic
from tasks.functions.spectra import rotation
from tasks.functions.test_function import FUNCTIONS, TestFunction

KEY = jax.random.key(0)


def exact(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_rotations_are_orthogonal_and_uniform():
    normal = np.random.default_rng(0).normal(size=(4000, 2, 2)).astype(np.float32)
    q = np.asarray(jax.jit(jax.vmap(rotation))(normal))
    np.testing.assert_allclose(q @ q.swapaxes(1, 2), np.broadcast_to(np.eye(2), q.shape), atol=1e-5)
    # Uniform: the first column's angle in each quadrant, and a reflection, as often as not.
    angle = np.arctan2(q[:, 1, 0], q[:, 0, 0])
    counts = np.histogram(angle, 4, (-np.pi, np.pi))[0]
    np.testing.assert_allclose(counts, 1000, atol=4 * 27)
    np.testing.assert_allclose(np.linalg.det(q).mean(), 0, atol=4 * 0.016)


@pytest.fixture(scope="module")
def quadratic():
    """A family and one draw of it."""
    family = Quadratic(dimension=40, condition=1000.0, noise=0.5)
    return family, jax.jit(family.sample)(KEY)


def test_quadratic_has_its_spectrum_and_its_gradient(quadratic):
    family, config = quadratic
    task, c = family.task(config), exact(config)
    eigenvalues = np.linalg.eigvalsh(c["hessian"])
    assert 0.9e-3 < eigenvalues.min() < 3e-3  # of 40: in [1, 2.3] of the 3 decades' bottom with 98 %
    assert 0.3 < eigenvalues.max() < 1.001
    # Logarithms are uniform over 3 decades: their mean has a standard deviation of 3 / sqrt(12 * 40) = 0.14.
    np.testing.assert_allclose(np.log10(eigenvalues).mean(), -1.5, atol=4 * 0.14)
    off_diagonal = c["hessian"] - np.diag(np.diag(c["hessian"]))
    assert np.abs(off_diagonal).max() > 0.05  # turned

    x = np.random.default_rng(1).normal(size=40)
    batch = family.sample_batch({}, KEY, config, "train")
    n, distance = np.asarray(batch["noise"], np.float64), x - c["optimum"]
    value, grads = jax.jit(jax.value_and_grad(task.loss))({"x": jnp.asarray(x, jnp.float32)}, KEY, batch)
    np.testing.assert_allclose(value, distance @ c["hessian"] @ distance / 2, rtol=1e-4)
    np.testing.assert_allclose(grads["x"], c["hessian"] @ distance + n, rtol=1e-4, atol=1e-4)
    assert np.abs(n).min() > 0
    hessian = jax.jit(jax.hessian(lambda x: task.loss({"x": x}, KEY, batch)))(jnp.zeros(40))
    np.testing.assert_allclose(hessian, c["hessian"], atol=1e-6)


def test_quadratic_is_1_at_the_start_and_0_at_the_optimum(quadratic):
    family, config = quadratic
    task, quiet = family.task(config), {"noise": jnp.zeros(40)}
    start = task.init(KEY)
    np.testing.assert_allclose(task.normalize(task.loss(start, KEY, quiet)), 1, rtol=1e-5)
    assert task.loss({"x": config["optimum"]}, KEY, quiet) == 0
    gradient = exact(jax.grad(task.loss)(start, KEY, quiet))["x"]
    keys = jax.random.split(KEY, 200)
    noise = jax.jit(jax.vmap(lambda key: family.sample_batch({}, key, config, "train")["noise"]))(keys)
    np.testing.assert_allclose(noise.std(), 0.5 * np.sqrt((gradient**2).mean()), rtol=0.04)  # 8000 draws: 0.8 %
    draws = [family.sample_batch({}, KEY, config, split)["noise"] for split in SPLITS]
    assert len({float(draw[0]) for draw in draws}) == 4


def test_least_squares_expected_loss():
    family = LeastSquares(dimension=12, nonzero=3, condition=100.0, label_noise=0.5, batch_size=40_000)
    config = jax.jit(family.sample)(KEY)
    task, c = family.task(config), exact(config)
    assert (c["weights"] != 0).sum() == 3
    covariance = c["mixing"].T @ c["mixing"]
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert 0.0099 < eigenvalues.min() < eigenvalues.max() < 1.001
    signal = c["weights"] @ covariance @ c["weights"]
    np.testing.assert_allclose(c["noise"] ** 2, 0.25 * signal, rtol=1e-5)
    batch = jax.jit(family.sample_batch, static_argnames="split")({}, KEY, config, split="train")
    x = np.asarray(batch["x"], np.float64)
    np.testing.assert_allclose(x.T @ x / len(x), covariance, atol=0.03)  # 4 standard deviations of at most 0.007
    for w in (np.zeros(12), c["weights"], np.random.default_rng(2).normal(size=12)):
        away = w - c["weights"]
        expected = away @ covariance @ away + c["noise"] ** 2
        loss = task.loss({"w": jnp.asarray(w, jnp.float32)}, KEY, batch)
        np.testing.assert_allclose(loss, expected, rtol=4 * math.sqrt(2 / 40_000))
    start = task.init(KEY)
    np.testing.assert_allclose(task.normalize(task.loss(start, KEY, batch)), 1, rtol=0.03)
    np.testing.assert_allclose(c["scale"], signal + c["noise"] ** 2, rtol=1e-5)


def test_all_weights_may_be_nonzero():
    assert (jax.jit(LeastSquares(dimension=4, nonzero=9).sample)(KEY)["weights"] != 0).all()


# Values at points where they can be had by hand, of dimension 4: zeros, ones.
BY_HAND = {
    "ackley": (0, 20 + math.e - 20 * math.exp(-0.2) - math.e),
    "beale": (2 * (1.5**2 + 2.25**2 + 2.625**2), 2 * (1.5**2 + 2.25**2 + 2.625**2)),
    "griewank": (0, 1 + 4 / 4000 - math.cos(1) * math.cos(0.5**0.5) * math.cos(3**-0.5) * math.cos(0.5)),
    "himmelblau": (2 * (121 + 49), 2 * (81 + 25)),
    "levy": (
        0.5 + 3 / 16 * (1 + 10 * math.sin(0.75 * math.pi + 1) ** 2) + (1 + math.sin(1.5 * math.pi) ** 2) / 16,
        0,
    ),
    "rastrigin": (0, 4),
    "rosenbrock": (3, 0),
    "styblinski_tang": (0, -4 * 10 / 2),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_at_known_points(function):
    row, key = FUNCTIONS[function], jax.random.key(1)
    family = TestFunction(function=function, dimension=4)
    config = family.sample(key)
    start, minimum = np.asarray(config["start"]), row.minimum * (2 if row.pairs else 4)
    assert start.shape == (4,)
    assert np.abs(start).max() < row.radius
    np.testing.assert_array_equal(family.task(config).init(key)["x"], start)
    assert family.sample_batch({}, key, config, "train") == {}

    @jax.jit
    def evaluate(config, x):
        task = family.task(config)
        value, grads = jax.value_and_grad(task.loss)({"x": x}, key, {})
        return value, task.normalize(value), grads["x"]

    for x, expected in zip((np.zeros(4), np.ones(4)), BY_HAND[function], strict=True):
        value, _, _ = evaluate(config, x.astype(np.float32))
        np.testing.assert_allclose(value, expected - minimum, rtol=1e-5, atol=1e-5)
    _, normalized, gradient = evaluate(config, start)
    np.testing.assert_allclose(normalized, 1, rtol=1e-5)
    assert np.isfinite(gradient).all()
    # The minimum: value 0, gradient 0, and above it all around.
    optimum = np.tile(np.array(row.optimum, np.float32), 4 // len(row.optimum))
    least, _, flat = evaluate(config, optimum)
    np.testing.assert_allclose(least, 0, atol=2e-5)  # styblinski_tang: of 157
    np.testing.assert_allclose(flat, 0, atol=2e-4)
    around = optimum + np.random.default_rng(0).normal(0, 0.1, (20, 4)).astype(np.float32)
    assert all(evaluate(config, x)[0] > least for x in around)


def test_chain_form_against_numpy():
    x = np.random.default_rng(0).uniform(-2, 2, 6)
    rosenbrock = sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(5))
    beale = sum(
        (1.5 - u + u * v) ** 2 + (2.25 - u + u * v**2) ** 2 + (2.625 - u + u * v**3) ** 2
        for u, v in [(x[0], x[1]), (x[2], x[3]), (x[4], x[5])]
    )
    for name, expected in (("rosenbrock", rosenbrock), ("beale", beale)):
        np.testing.assert_allclose(FUNCTIONS[name].value(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4)


def test_names():
    assert Quadratic().name == "quadratic"
    assert Quadratic(dimension=8, noise=0).name == "quadratic:dimension=8:noise=0"
    assert LeastSquares(nonzero=2).name == "least_squares:nonzero=2"
    assert TestFunction(function="ackley", dimension=3).name == "test_function:function=ackley:dimension=3"
    for family in (Quadratic(), LeastSquares(), TestFunction()):
        assert (family.load(1, 2), family.streams) == ({}, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quadratic(condition=0.5), "condition must be a number of at least 1, not 0.5"),
        (lambda: Quadratic(noise=math.nan), "noise must be a number of at least 0, not nan"),
        (lambda: Quadratic(dimension=True), "dimension must be a whole number of at least 1, not True"),
        (lambda: LeastSquares(nonzero=0), "nonzero must be a whole number"),
        (lambda: LeastSquares(label_noise=math.inf), "label_noise must (be|lie)"),
        (lambda: TestFunction(function="akley"), "unknown test function 'akley'. Did you mean 'ackley'"),
        (lambda: TestFunction(function="beale", dimension=5), "dimension must be even, not 5"),
        (lambda: TestFunction(dimension=1), "dimension must be a whole number of at least 2"),
    ],
)
def test_bad_settings_are_input_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
