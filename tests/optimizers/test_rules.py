"""Each rule against an independent computation, in numpy float64 or by optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.optimizers.features import CHUNK, ParameterMLP
from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.optimizers.lstm import LSTMOptimizer, log_and_sign
from lopt.optimizers.mlp import MLPOptimizer

PARAMS = {"b": jnp.asarray([0.5, -2.0, 0.1]), "w": jax.random.normal(jax.random.key(7), (3, 4))}


def grads_at(step):
    return jax.tree.map(lambda p: jnp.sin(p * (step + 1)), PARAMS)


def follow(optimizer, theta, num_steps):
    state = optimizer.init(theta, PARAMS, num_steps=jnp.asarray(num_steps))
    for step in range(num_steps):
        updates, state = optimizer.update(theta, grads_at(step), state, PARAMS, value=None)
        yield jax.tree.map(lambda x: np.asarray(x, np.float64), updates)


def test_fresh_learnable_adam_is_adam():
    optimizer = LearnableAdam(learning_rate=3e-3, b1=0.8, b2=0.99)
    adam = optax.adam(3e-3, b1=0.8, b2=0.99)
    state = adam.init(PARAMS)
    for step, updates in enumerate(follow(optimizer, optimizer.init_theta(jax.random.key(0)), 20)):
        expected, state = adam.update(grads_at(step), state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), updates, expected)


def test_learned_schedule_is_a_sum_of_cosines_over_the_training():
    optimizer = LearnableAdam(schedule_terms=2)
    theta = optimizer.init_theta(jax.random.key(0))
    theta["schedule"] = jnp.asarray([0.7, -0.4])
    plain = LearnableAdam()
    pairs = zip(follow(optimizer, theta, 10), follow(plain, plain.init_theta(jax.random.key(0)), 10), strict=True)
    for step, (updates, unscheduled) in enumerate(pairs):
        factor = np.exp(0.7 * np.cos(np.pi * step / 10) - 0.4 * np.cos(2 * np.pi * step / 10))
        np.testing.assert_allclose(updates["w"], factor * unscheduled["w"], rtol=1e-5)
    assert optimizer.requires == {"num_steps"}
    assert plain.requires == frozenset()


def test_mlp_in_numpy():
    optimizer = MLPOptimizer(step_scale=0.01, magnitude_scale=0.1)
    theta = optimizer.init_theta(jax.random.key(3))
    weights = {name: np.asarray(w, np.float64) for name, w in theta.items()}
    decays = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    scales = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
    momenta = {name: np.zeros((p.size, 6)) for name, p in PARAMS.items()}
    for step, updates in enumerate(follow(optimizer, theta, 3)):
        for name, param in PARAMS.items():
            g = np.asarray(grads_at(step)[name], np.float64).reshape(-1, 1)
            momenta[name] = decays * momenta[name] + (1 - decays) * g
            x = np.concatenate([g, np.asarray(param, np.float64).reshape(-1, 1), momenta[name]], axis=1)
            x = x / np.sqrt(1e-5 + (x**2).mean(0))
            x = np.concatenate([x, np.tile(np.tanh(step / scales - 1), (len(x), 1))], axis=1)
            for layer in range(3):
                x = x @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
                x = np.maximum(x, 0) if layer < 2 else x
            expected = (-0.01 * x[:, 0] * np.exp(0.1 * x[:, 1])).reshape(param.shape)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 37])
def test_network_is_the_same_for_every_parameter_however_many(n):
    network = ParameterMLP((5, 3))
    x = jax.random.normal(jax.random.key(1), (4, n))
    theta = network.init(jax.random.key(0), x[:, :1], jnp.zeros((0,)))

    def outputs(x):
        return jnp.asarray(network.apply(theta, x, jnp.zeros((0,))))

    slope = jax.grad(lambda x: outputs(x)[0].sum())(x)

    weights = {name: np.asarray(w, np.float64) for name, w in theta["params"].items()}
    hidden = np.maximum(weights["kernel_0"].T @ np.asarray(x, np.float64), 0)
    np.testing.assert_allclose(outputs(x), weights["kernel_1"].T @ hidden, rtol=1e-4, atol=1e-6)
    expected = weights["kernel_0"] @ ((hidden > 0) * weights["kernel_1"][:, :1])
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_lstm_in_numpy():
    optimizer = LSTMOptimizer(hidden_sizes=(4, 3))
    theta = optimizer.init_theta(jax.random.key(3))
    weights = {name: np.asarray(w, np.float64) for name, w in theta.items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    num = PARAMS["w"].size
    carry = [(np.zeros((num, h)), np.zeros((num, h))) for h in (4, 3)]
    for step, updates in enumerate(follow(optimizer, theta, 3)):
        g = np.asarray(grads_at(step)["w"], np.float64).reshape(-1)
        large = np.abs(g) >= np.exp(-10)
        x = np.stack([np.where(large, np.log(np.abs(g)) / 10, -1), np.where(large, np.sign(g), np.exp(10) * g)], axis=1)
        for layer, (c, h) in enumerate(carry):
            gates = np.concatenate([x, h], axis=1) @ weights[f"kernel_{layer}"] + weights[f"bias_{layer}"]
            i, f, candidate, o = np.split(gates, 4, axis=1)
            c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(candidate)
            h = x = sigmoid(o) * np.tanh(c)
            carry[layer] = (c, h)
        expected = -0.01 * (x @ weights["kernel_out"] + weights["bias_out"]).reshape(3, 4)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-4, atol=1e-7)


def test_log_and_sign_at_the_edges():
    log, sign = log_and_sign(jnp.asarray([1.0, -np.exp(5.0), 0.0, 1e-6, -1e-6]), 10.0)
    np.testing.assert_allclose(log, [0, 0.5, -1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(sign, [1, -1, 0, np.exp(10) * 1e-6, -np.exp(10) * 1e-6], rtol=1e-5)
    gradient = jax.jacobian(lambda g: log_and_sign(g, 10.0)[0])(jnp.zeros((1,)))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("step", [0, 5, 100_000])
def test_time_is_folded_into_the_first_bias_exactly(step):
    """The network on 8 features and 11 constants is the network on 19 features."""
    optimizer = MLPOptimizer()
    theta = optimizer.init_theta(jax.random.key(3))
    features = jax.random.normal(jax.random.key(4), (8, 50))
    step = jnp.asarray(step)
    scales = jnp.asarray([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
    times = jnp.tile(jnp.tanh(step / scales - 1)[:, None], (1, 50))
    whole = optimizer._network.apply({"params": theta}, jnp.concatenate([features, times]), jnp.zeros((0,)))
    direction, magnitude = jnp.asarray(whole)
    expected = -1e-3 * direction * jnp.exp(1e-3 * magnitude)
    np.testing.assert_allclose(optimizer._step(theta, features, step), expected, rtol=1e-4, atol=1e-8)
