"""Learning-rate schedule: its pieces against numpy, symmetric pairs, and the weaker finding of a short run."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import lr_schedule
from experiments.lr_schedule import advantage
from experiments.lr_schedule_problem import (
    CAP,
    FAMILY,
    MOMENTUM,
    TASK,
    learning_rate,
    minus_accuracy,
    problem,
    train_loss,
    true_objectives,
)
from lopt.distributed import PairLayout
from lopt.estimators import ESTIMATORS
from lopt.horizons import Horizon
from lopt.names import InputError

THETA = jnp.asarray([math.log(0.05), math.log(2.0)])
HORIZON = 4


@pytest.fixture(scope="module")
def data():
    """Noise with labels that follow from it, in the form of FAMILY.load()."""
    rng = np.random.default_rng(0)

    def split(size):
        image = rng.integers(0, 256, (size, 64), dtype=np.uint8)
        return {"image": jnp.asarray(image), "label": jnp.asarray(image[:, 0] % 10, jnp.int32)}

    moments = {"mean": jnp.full(1, 127.5), "std": jnp.full(1, 74.0)}
    return {"train": split(300), "meta": split(150), **moments}


def forward(params, image: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of each layer, and logits, by numpy in float64."""
    inputs, x = [], image
    for layer in params:
        inputs.append(x)
        x = x @ params[layer]["w"] + params[layer]["b"]
        if layer != list(params)[-1]:
            x = np.maximum(x, 0)
    return inputs, x


def gradients(params, image: np.ndarray, label: np.ndarray):
    """The gradient of the mean cross-entropy, by hand."""
    inputs, logits = forward(params, image)
    p = np.exp(logits - logits.max(1, keepdims=True))
    back = (p / p.sum(1, keepdims=True) - np.eye(10)[label]) / len(label)
    grads = {}
    for layer, x in zip(reversed(params), reversed(inputs), strict=True):
        grads[layer] = {"w": x.T @ back, "b": back.sum(0)}
        back = (back @ params[layer]["w"].T) * (x > 0)
    return grads


def batch_of(data, key, split: str) -> tuple[np.ndarray, np.ndarray]:
    batch = FAMILY.sample_batch(data, key, {}, split)
    return np.asarray(batch["image"], np.float64), np.asarray(batch["label"])


def as_float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def test_schedule():
    lr0, d = 0.003, 30.0
    for t in (0, 1, 500, 999):
        rate = learning_rate(jnp.log(jnp.asarray([lr0, d])), jnp.asarray(t), jnp.asarray(1000))
        np.testing.assert_allclose(rate, lr0 / (1 + t / 1000) ** d, rtol=2e-5)


def test_step_is_sgd_with_momentum(data):
    training = problem(data, "loss")
    key = jax.random.key(1)
    state = jax.jit(training.init)(THETA, key, jnp.asarray(HORIZON))
    step = jax.jit(training.step)
    params = as_float64(state.params)
    momentum = jax.tree.map(np.zeros_like, params)
    for t in range(3):
        step_key = jax.random.fold_in(key, t)
        state, loss = step(THETA, state, step_key)
        batch_key, objective_key = jax.random.split(step_key)
        grads = gradients(params, *batch_of(data, batch_key, "train"))
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, momentum, grads)
        params = jax.tree.map(lambda p, m, t=t: p - 0.05 / (1 + t / HORIZON) ** 2 * m, params, momentum)
        for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        image, label = batch_of(data, objective_key, "train")  # a fresh batch, after the update
        logits = forward(params, image)[1]
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label])
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert int(state.t) == 3


def test_accuracy(data):
    key = jax.random.key(2)
    params = TASK.init(key)
    image, label = batch_of(data, key, "meta")
    right = forward(as_float64(params), image)[1].argmax(1) == label
    assert 0 < right.sum() < 100
    np.testing.assert_allclose(minus_accuracy(data, params, key), -right.mean(), rtol=1e-6)
    tbptt = ESTIMATORS["tbptt"](num_pairs=1, truncation=1, horizon=Horizon(HORIZON, HORIZON))
    with pytest.raises(InputError, match="follows derivatives"):
        tbptt.init(problem(data, "accuracy"), THETA, key)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_divergence_costs_the_cap(data, bad):
    key = jax.random.key(3)
    params = jax.tree.map(lambda x: jnp.full_like(x, bad), TASK.init(key))
    assert float(train_loss(data, params, key)) == pytest.approx(CAP)
    assert -1 <= float(minus_accuracy(data, params, key)) <= 0


def test_pairs_are_symmetric(data):
    """With noise that has no effect, both halves of a pair meet the same start and batches: the estimate is 0."""
    horizon = Horizon(HORIZON, HORIZON)
    pes = ESTIMATORS["pes"](num_pairs=2, sigma=0.1, truncation=2, horizon=horizon, layout=PairLayout(1, False))
    training = problem(data, "accuracy")
    still = jnp.asarray([-100.0, 0.0])  # a learning rate of e^-100

    @jax.jit
    def two_windows(key):
        def window(state, i):
            estimate, state = pes.estimate(training, still, state, jax.random.fold_in(key, i))
            return state, (estimate.grad, estimate.loss)

        return jax.lax.scan(window, pes.init(training, still, key), jnp.arange(2))[1]

    grads, losses = two_windows(jax.random.key(4))
    np.testing.assert_array_equal(grads, np.zeros((2, 2)))
    assert ((losses > -1) & (losses < 0)).all()


def test_true_objectives_are_means_over_a_training(data):
    thetas = np.asarray([[-3.0, 0.0], [200.0, 0.0]], np.float32)  # the second diverges
    reached = true_objectives(data, thetas, HORIZON, 2)
    assert reached["loss"].shape == reached["accuracy"].shape == (2, 2)

    training = problem(data, "loss")
    init_key, steps_key, accuracy_key = jax.random.split(jax.random.split(jax.random.key(0), 2)[1], 3)
    state = training.init(jnp.asarray(thetas[0]), init_key, jnp.asarray(HORIZON))
    losses, accuracies = [], []
    step = jax.jit(training.step)
    for t in range(HORIZON):
        state, loss = step(jnp.asarray(thetas[0]), state, jax.random.fold_in(steps_key, t))
        losses.append(loss)
        accuracies.append(minus_accuracy(data, state.params, jax.random.fold_in(accuracy_key, t)))
    np.testing.assert_allclose(reached["loss"][0, 1], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(reached["accuracy"][0, 1], np.mean(accuracies), rtol=1e-5)
    np.testing.assert_allclose(reached["loss"][1], CAP, rtol=1e-5)


def test_advantage():
    ours = np.asarray([[[1.0, 2.0]], [[1.0, 2.0]]])  # 2 runs, 1 theta, 2 seeds
    theirs = ours + np.asarray([[[5.0, 5.0]], [[2.0, 4.0]]])
    gap, error = advantage(ours, theirs)
    assert (gap, error) == (3.0, pytest.approx(1.0))


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    assert lr_schedule.main(["--quick", "--out", str(tmp_path)]) == 0
    assert "DOES NOT HOLD" not in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    reached = {label: method["findings"][0]["reached"] for label, method in numbers["methods"].items()}
    assert reached["loss pes 10"] < reached["loss truncated_es 10"]
    assert reached["accuracy pes 10"] < reached["accuracy truncated_es 10"]
