"""Toy regression: published values of its landscape, and the weaker finding of a short run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import toy_regression
from experiments.toy_regression import STEPS, THETA, landscape, meta_loss, problem


@pytest.mark.usefixtures("x64")
def test_loss_of_the_start():
    np.testing.assert_allclose(meta_loss(jnp.asarray(THETA)), 2487.77, atol=0.005)


def test_meta_loss_by_numpy():
    theta, x, total = np.asarray((0.5, -1.0)), np.ones(2), 0.0
    for t in range(STEPS):
        rate = np.exp(theta[0]) * (STEPS - t) / STEPS + np.exp(theta[1]) * t / STEPS
        bump = np.exp(-5 * x[0] ** 2)
        by_x0 = x[0] / np.sqrt(x[0] ** 2 + 5) - 10 * x[0] * np.sin(x[1]) ** 2 * bump
        by_x1 = np.sin(2 * x[1]) * bump + 0.25 * np.sign(x[1] - 100)
        x = x - rate * np.asarray((by_x0, by_x1))
        total += np.sqrt(x[0] ** 2 + 5) - np.sqrt(5) + np.sin(x[1]) ** 2 * np.exp(-5 * x[0] ** 2)
        total += 0.25 * np.abs(x[1] - 100)
    with jax.enable_x64(True):
        np.testing.assert_allclose(meta_loss(jnp.asarray(theta)), total, rtol=1e-9)


def test_least_loss_of_the_grid():
    axis, loss = landscape(201)
    i = np.unravel_index(loss.argmin(), loss.shape)[0]
    assert loss.min() == pytest.approx(552.8, abs=3)
    assert axis[i] == pytest.approx(2.80, abs=0.1)
    assert loss[np.abs(axis - 2.8).argmin(), np.abs(axis + 4.1).argmin()] < 570
    assert np.ptp(loss[i, axis < -2]) < 20  # theta1 hardly matters there


def test_rate_goes_from_the_first_to_the_second():
    toy = problem()
    key = jax.random.key(0)
    theta = jnp.asarray([-1.0, -2.0])
    x = jnp.asarray([0.0, 0.0])  # where the gradient is (0, -0.25)
    for t, rate in ((0.0, np.exp(-1)), (STEPS / 2, (np.exp(-1) + np.exp(-2)) / 2)):
        (moved, after), _ = toy.step(theta, (x, jnp.asarray(t)), key)
        np.testing.assert_allclose(moved[1], 0.25 * rate, rtol=1e-5)
        assert after == t + 1


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert toy_regression.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    reached = {label: method["findings"][0]["reached"] for label, method in numbers["methods"].items()}
    assert max(reached["pes"], reached["nres"]) < 700
    assert min(reached["tbptt"], reached["truncated_es"]) > 2000
