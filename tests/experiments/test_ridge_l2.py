"""Ridge regression: the two stationary points in closed form, and the weaker finding of a short run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ridge_l2
from experiments.ridge_l2 import (
    OPTIMUM,
    WRONG,
    best_weights,
    hypergradient,
    one_step_gradient,
    problem,
    validation_loss,
)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("theta", [-3.0, 0.5, 2.0, 4.0])
def test_hypergradient_is_that_of_autodiff(theta):
    by_autodiff = jax.grad(validation_loss)(jnp.asarray(theta))
    np.testing.assert_allclose(hypergradient(theta), by_autodiff, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("theta", [-3.0, 0.5, 2.0, 4.0])
def test_gradient_of_one_step_is_that_of_autodiff(theta):
    """From the best weights, as the first order of the step size: the loss is evaluated after the step."""
    ridge = problem()
    w = best_weights(jnp.asarray(theta))
    one_step = jax.grad(lambda theta: ridge.step(theta, w, jax.random.key(0))[1])(jnp.asarray(theta))
    np.testing.assert_allclose(one_step_gradient(theta), one_step, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_stationary_points():
    assert pytest.approx(2.49, abs=0.015) == OPTIMUM
    assert pytest.approx(0.82, abs=0.005) == WRONG
    grid = jnp.linspace(-5, 5, 1001)
    losses = jax.vmap(validation_loss)(grid)
    assert float(grid[losses.argmin()]) == pytest.approx(OPTIMUM, abs=0.01)
    assert float(jax.grad(validation_loss)(jnp.asarray(WRONG))) < -1  # no optimum


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("theta", [-1.0, OPTIMUM])
def test_inner_training_reaches_the_best_weights(theta):
    ridge = problem()
    theta = jnp.asarray(theta)
    start = ridge.init(theta, jax.random.key(0), jnp.asarray(1))
    w = jax.lax.fori_loop(0, 20_000, lambda _, w: ridge.step(theta, w, jax.random.key(0))[0], start)
    np.testing.assert_allclose(w, best_weights(theta), rtol=1e-8)


def test_quick(tmp_path, capsys):
    assert ridge_l2.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    reached = {label: [row["reached"] for row in m["findings"]] for label, m in numbers["methods"].items()}
    np.testing.assert_allclose(reached["pes"], [OPTIMUM] * 2, atol=0.5)
    np.testing.assert_allclose(reached["nres"], [OPTIMUM] * 2, atol=0.2)
    np.testing.assert_allclose(reached["truncated_es"], [WRONG] * 2, atol=0.2)
