"""Many hyperparameters: widths, per-tensor SGD and random search by numpy, and the weaker finding of a short run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import many_hyperparameters
from experiments import many_hyperparameters_problem as inner
from experiments.many_hyperparameters import is_new_best, running_best
from experiments.many_hyperparameters_problem import LAYERS, WIDTH, State, by_tensor, kept_units, masked_loss, sgd


def random_params(seed: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = [64, *[WIDTH] * 5, 10]
    return {
        layer: {"w": rng.normal(size=(sizes[i], sizes[i + 1])) / 3, "b": rng.uniform(size=sizes[i + 1])}
        for i, layer in enumerate(LAYERS)
    }


def loss_of_the_kept(params, kept, images, labels) -> float:
    """The loss of the network from which the other units are cut out, by numpy."""
    x, before = images, images.shape[1]
    for layer, now in zip(LAYERS, [*kept, 10], strict=True):
        x = x @ params[layer]["w"][:before, :now] + params[layer]["b"][:now]
        if layer != LAYERS[-1]:
            x = np.maximum(x, 0)
        before = now
    return float(np.mean(np.log(np.exp(x).sum(1)) - x[np.arange(len(x)), labels]))


def test_kept_units():
    shares = np.asarray([0.01, 0.2, 0.51, 0.8, 0.999])
    logits = jnp.asarray(np.log(shares / (1 - shares)))
    assert kept_units(logits).tolist() == [0, 3, 8, 12, 15]


def test_theta_has_29_numbers_within_the_ranges():
    theta = inner.draw_theta(jax.random.key(0), inner.FULL_RANGES, 500)
    assert {name: x.shape for name, x in theta.items()} == {
        "width": (500, 5),
        "learning_rate": (500, 12),
        "momentum": (500, 12),
    }
    values = {**jax.tree.map(jax.nn.sigmoid, theta), "learning_rate": jnp.exp(theta["learning_rate"])}
    for name, (low, high) in inner.FULL_RANGES.items():
        assert low < values[name].min() < 2 * low
        assert high / 2 < values[name].max() < high


@pytest.mark.usefixtures("x64")
def test_units_that_are_not_kept_have_no_part_in_loss_and_gradient():
    params, rng = random_params(0), np.random.default_rng(1)
    images, labels, kept = rng.normal(size=(8, 64)), rng.integers(10, size=8), [3, 16, 4, 8, 5]
    args = jnp.asarray(kept), jnp.asarray(images), jnp.asarray(labels)
    given = jax.tree.map(jnp.asarray, params)
    np.testing.assert_allclose(masked_loss(given, *args), loss_of_the_kept(params, kept, images, labels), rtol=1e-12)
    grads = jax.jit(jax.grad(masked_loss))(given, *args)
    for layer, units in zip(LAYERS, kept, strict=False):
        assert np.all(grads[layer]["w"][:, units:] == 0)
        assert np.all(grads[layer]["b"][units:] == 0)
    assert np.abs(grads[LAYERS[0]]["w"][:, : kept[0]]).max() > 0


@pytest.mark.usefixtures("x64")
def test_sgd_by_numpy():
    params, momentum, grads = (random_params(seed) for seed in (2, 3, 4))
    theta = {name: np.random.default_rng(5).normal(size=12) for name in ("learning_rate", "momentum")}
    given = jax.tree.map(jnp.asarray, (theta, State(params, momentum), grads))
    new = sgd(*given)
    for i, layer in enumerate(LAYERS):
        for j, tensor in enumerate(("w", "b")):
            rate = np.exp(theta["learning_rate"][2 * i + j])
            beta = 1 / (1 + np.exp(-theta["momentum"][2 * i + j]))
            m = beta * momentum[layer][tensor] + grads[layer][tensor]
            np.testing.assert_allclose(new.momentum[layer][tensor], m, rtol=1e-12)
            np.testing.assert_allclose(new.params[layer][tensor], params[layer][tensor] - rate * m, rtol=1e-12)


def test_by_tensor_goes_by_layer_and_weight_before_bias():
    values = by_tensor(jnp.arange(12.0))
    assert [float(values[layer][tensor]) for layer in LAYERS for tensor in ("w", "b")] == list(range(12))


def test_running_best():
    values = np.asarray([[3.0, 4.0, 2.0, 2.5], [1.0, 0.5, 7.0, 0.1]])
    np.testing.assert_array_equal(running_best(values), [[3, 3, 2, 2], [1, 0.5, 0.5, 0.1]])
    np.testing.assert_array_equal(is_new_best(values), [[1, 0, 1, 0], [1, 1, 0, 1]])


def test_an_objective_is_the_loop_written_out_and_divergence_costs_the_cap():
    horizon, key = 3, jax.random.key(6)
    theta = inner.draw_theta(jax.random.key(7), inner.START_RANGES, 2)
    theta["learning_rate"] = theta["learning_rate"].at[1].set(50.0)
    theta["width"] = jnp.full_like(theta["width"], 10.0)
    got = inner.objectives(inner.load(), theta, jnp.stack([key, key]), horizon)

    problem = inner.problem(inner.load())
    one = jax.tree.map(lambda x: x[0], theta)
    init_key, steps_key = jax.random.split(key)
    state = problem.init(one, init_key, jnp.asarray(horizon))
    step, losses = jax.jit(functools.partial(problem.step, one)), []
    for t in range(horizon):
        state, loss = step(state, jax.random.fold_in(steps_key, t))
        losses.append(float(loss))
    np.testing.assert_allclose(got, np.asarray([np.mean(losses), inner.CAP]), rtol=1e-5)


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert many_hyperparameters.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    rows = {
        label: {row["what"]: row["reached"] for row in method["findings"]}
        for label, method in numbers["methods"].items()
    }
    start = rows["truncated_es"]["objective at the start, mean of runs"]
    assert max(rows[label]["best objective, mean of runs"] for label in rows) < start
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
