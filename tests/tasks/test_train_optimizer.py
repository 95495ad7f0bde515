"""The meta-task against an unroll written out by hand, and that a diverging theta costs and does no more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from tasks.functions.quadratic import Quadratic
from tasks.functions.test_function import TestFunction
from tasks.tables.table_mlp import TableMLP
from tasks.train_optimizer import TrainOptimizer


@dataclasses.dataclass(frozen=True)
class SGD:
    """Updates -exp(theta) * gradient, and counts."""

    requires = frozenset({"value"})

    def init_theta(self, key):
        del key
        return {"log_rate": jnp.zeros(())}

    def init(self, theta, params, *, num_steps):
        assert num_steps == 4
        return jnp.zeros((), jnp.int32)

    def update(self, theta, grads, state, params, *, value):
        assert value.shape == ()
        return jax.tree.map(lambda g: -jnp.exp(theta["log_rate"]) * g, grads), state + 1


FAMILY = TrainOptimizer(optimizer=SGD(), task_family=Quadratic(dimension=5), num_steps=4, optimizer_name="sgd:x=1")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def drawn():
    """A config and a batch."""
    config = FAMILY.sample(KEY)
    return config, FAMILY.sample_batch({}, KEY, config, "meta")


@pytest.fixture(scope="module")
def loss_and_gradient():
    return jax.jit(lambda config, theta, batch: jax.value_and_grad(FAMILY.task(config).loss)(theta, KEY, batch))


def by_hand(config, batch, rate):
    """In float64: the mean normalised loss, each step bounded by 2; the losses; and what its gradient is the slope of.

    That is the same with the noise of the gradient, n^T (x - b), added to the losses that are not bounded.
    """
    c = jax.tree.map(lambda x: np.asarray(x, np.float64), config)
    x, losses, sloped = c["start"], [], []
    for noise in np.asarray(batch["batches"]["noise"], np.float64):
        distance = x - c["optimum"]
        loss = distance @ c["hessian"] @ distance / 2 / c["start_loss"]
        losses.append(min(loss, 2))
        sloped.append(loss + noise @ distance / c["start_loss"] if loss < 2 else 2)
        x = x - rate * (c["hessian"] @ distance + noise)
    return np.mean(losses), losses, np.mean(sloped)


@pytest.mark.parametrize("rate", [0.5, 1.0, 30.0])
def test_loss_and_its_gradient_are_those_of_the_unroll(drawn, loss_and_gradient, rate):
    config, batch = drawn
    loss, grads = loss_and_gradient(config, {"log_rate": jnp.log(rate)}, batch)
    expected, losses, _ = by_hand(config, batch, rate)
    assert (max(losses) == 2) == (rate == 30.0)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    step = 1e-5
    up, down = (by_hand(config, batch, rate * (1 + sign * step))[2] for sign in (1, -1))
    slope = (up - down) / (2 * step)
    np.testing.assert_allclose(grads["log_rate"], slope, rtol=1e-3, atol=1e-5)


def test_batch_is_a_stack_of_different_inner_batches(drawn):
    _, batch = drawn
    noise = np.asarray(batch["batches"]["noise"])
    assert noise.shape == (4, 5)
    assert len(np.unique(noise)) == 20
    task = FAMILY.task(drawn[0])
    assert task.normalize(jnp.float32(0.7)) == jnp.float32(0.7)
    assert task.metrics({}, KEY, batch) == {}
    assert jax.tree.map(float, task.init(KEY)) == {"log_rate": 0.0}


@pytest.mark.parametrize("inner", [TestFunction(), TableMLP(hidden_sizes=(4, 4)), Quadratic()], ids=lambda f: f.name)
@pytest.mark.parametrize("log_rate", [20.0, 88.0, np.inf, np.nan])
def test_a_diverging_theta_costs_the_cap_and_its_gradient_is_finite(inner, log_rate, gradients):
    data = {"train": {"x": np.ones((6, 30), np.float32), "label": np.arange(6, dtype=np.int32) % 2}}
    (loss, grads), first = gradients(inner)(data, {"log_rate": jnp.float32(log_rate)})
    if np.isnan(log_rate):
        np.testing.assert_allclose(loss, (first + 3 * 2) / 4, rtol=1e-5)
    else:
        assert 1 < loss <= 2
    if np.isfinite(log_rate):
        assert np.isfinite(grads["log_rate"])


@pytest.fixture(scope="module")
def gradients():
    """The loss and gradient of the meta-task on a family, and the loss of the first inner step; compiled once."""
    known = {}

    def make(inner):
        family = TrainOptimizer(optimizer=SGD(), task_family=inner, num_steps=4)

        def evaluate(data, theta):
            config = family.sample(KEY)
            batch, task = family.sample_batch(data, KEY, config, "train"), inner.task(config)
            first = jax.tree.map(lambda x: x[0], batch["batches"])
            start = task.normalize(task.loss(task.init(jax.random.split(batch["key"])[0]), KEY, first))
            return jax.value_and_grad(family.task(config).loss)(theta, KEY, batch), start

        return known.setdefault(inner, jax.jit(evaluate))

    return make


def test_name_and_what_is_passed_on():
    assert FAMILY.name == "train_optimizer[sgd:x=1][quadratic:dimension=5]:num_steps=4"
    unnamed = TrainOptimizer(optimizer=SGD(), task_family=Quadratic(dimension=5), num_steps=4)
    assert unnamed == FAMILY
    assert hash(unnamed) == hash(FAMILY)
    assert unnamed.name.startswith("train_optimizer[SGD]")
    assert FAMILY.load(1, 2) == {}
    assert FAMILY.streams is False
    with pytest.raises(InputError, match="num_steps must be a whole number of at least 1"):
        TrainOptimizer(optimizer=SGD(), task_family=Quadratic(), num_steps=0)
    with pytest.raises(InputError, match="cap must be a number of at least 1"):
        TrainOptimizer(optimizer=SGD(), task_family=Quadratic(), cap=0.5)
