"""The simpler rules against independent computations, in numpy float64 or by optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.optimizers.learnable_adam import LearnableAdam
from lopt.optimizers.lstm import LSTMOptimizer, log_and_sign
from lopt.optimizers.mlp import MLPOptimizer
from lopt.optimizers.parts.accumulators import learned_decays
from lopt.optimizers.parts.networks import CHUNK, ParameterMLP

PARAMS = {
    "b": np.asarray([0.5, -2.0, 0.1], np.float32),
    "w": np.random.default_rng(7).normal(size=(3, 4)).astype(np.float32),
}


def grads_at(step):
    return {name: np.sin(p * np.float32(step + 1)) for name, p in PARAMS.items()}


def fresh(optimizer):
    return jax.jit(optimizer.init_theta)(jax.random.key(0))


def drawn(optimizer):
    """A theta whose biases are not zero, unlike those of a fresh one."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(optimizer.init_theta, jax.random.key(3))
    return {name: (rng.normal(size=x.shape) / np.sqrt(x.shape[0])).astype(np.float32) for name, x in shapes.items()}


@functools.partial(jax.jit, static_argnums=0)
def path(optimizer, theta, grads):
    """The updates of all steps along the first axis, from gradients likewise."""

    def step(state, grads):
        return optimizer.update(theta, grads, state, PARAMS, value=None)[::-1]

    params = jax.tree.map(jnp.asarray, PARAMS)
    return jax.lax.scan(step, optimizer.init(theta, params, num_steps=len(grads["b"])), grads)[1]


def follow(optimizer, theta, num_steps):
    grads = {name: np.stack([grads_at(step)[name] for step in range(num_steps)]) for name in PARAMS}
    updates = path(optimizer, theta, grads)
    for step in range(num_steps):
        yield {name: np.asarray(x[step], np.float64) for name, x in updates.items()}


def test_fresh_learnable_adam_is_adam():
    optimizer = LearnableAdam(learning_rate=3e-3, b1=0.8, b2=0.99)
    adam = optax.adam(3e-3, b1=0.8, b2=0.99)
    state = adam.init(PARAMS)
    update = jax.jit(adam.update)
    for step, updates in enumerate(follow(optimizer, fresh(optimizer), 20)):
        expected, state = update(grads_at(step), state)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), updates, expected)


def test_learned_schedule_is_a_sum_of_cosines_over_the_training():
    optimizer = LearnableAdam(schedule_terms=2)
    theta = {**fresh(optimizer), "schedule": np.asarray([0.7, -0.4], np.float32)}
    plain = LearnableAdam()
    pairs = zip(follow(optimizer, theta, 10), follow(plain, fresh(plain), 10), strict=True)
    for step, (updates, unscheduled) in enumerate(pairs):
        factor = np.exp(0.7 * np.cos(np.pi * step / 10) - 0.4 * np.cos(2 * np.pi * step / 10))
        np.testing.assert_allclose(updates["w"], factor * unscheduled["w"], rtol=1e-5)
    assert optimizer.requires == {"num_steps"}
    assert plain.requires == frozenset()


def mlp(theta, x, step):
    """The network's outputs, parameters first, for features `[n, 8]` and the time."""
    scales = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
    x = np.concatenate([x, np.tile(np.tanh(step / scales - 1), (len(x), 1))], axis=1)
    for layer in range(3):
        x = x @ np.asarray(theta[f"kernel_{layer}"], np.float64) + np.asarray(theta[f"bias_{layer}"], np.float64)
        x = np.maximum(x, 0) if layer < 2 else x
    return x


def test_a_gradient_reaches_learned_decays_wherever_they_are():
    """b = sigmoid(logit(start) + x) and db / dx = b (1 - b) > 0; a sum of noisy outer steps may carry x to +-6."""
    start = np.array([0.9, 0.99, 0.999])
    offsets = np.repeat(np.linspace(-6, 6, 13, dtype=np.float32)[:, None], 3, axis=1)
    slope = jax.jit(jax.vmap(jax.value_and_grad(lambda x: learned_decays(x, tuple(start)).sum())))
    b = 1 / (1 + (1 - start) / start * np.exp(-offsets))
    total, slopes = slope(offsets)
    np.testing.assert_allclose(total, b.sum(1), rtol=1e-6)
    np.testing.assert_allclose(total[6], start.sum(), rtol=1e-6)  # offset 0 gives the start
    np.testing.assert_allclose(slopes, b * (1 - b), rtol=0.02, atol=1e-7)
    assert np.all(slopes > 1e-6)


def test_mlp_in_numpy():
    optimizer = MLPOptimizer(step_scale=0.01, magnitude_scale=0.1)
    theta = drawn(optimizer)
    decays = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    momenta = {name: np.zeros((p.size, 6)) for name, p in PARAMS.items()}
    for step, updates in enumerate(follow(optimizer, theta, 3)):
        for name, param in PARAMS.items():
            g = np.asarray(grads_at(step)[name], np.float64).reshape(-1, 1)
            momenta[name] = decays * momenta[name] + (1 - decays) * g
            x = np.concatenate([g, np.asarray(param, np.float64).reshape(-1, 1), momenta[name]], axis=1)
            x = mlp(theta, x / np.sqrt(1e-5 + (x**2).mean(0)), step)
            expected = (-0.01 * x[:, 0] * np.exp(0.1 * x[:, 1])).reshape(param.shape)
            np.testing.assert_allclose(updates[name], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 37])
def test_network_is_the_same_for_every_parameter_however_many(n):
    rng = np.random.default_rng(0)
    shapes = {"kernel_0": (4, 5), "bias_0": (5,), "kernel_1": (5, 3), "bias_1": (3,)}
    theta = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    x = rng.normal(size=(4, n)).astype(np.float32)

    @jax.jit
    def outputs_and_slope(theta, x):
        def first(x):
            outputs = jnp.asarray(ParameterMLP((5, 3)).apply({"params": theta}, x, jnp.zeros((0,))))
            return outputs[0].sum(), outputs

        slope, outputs = jax.grad(first, has_aux=True)(x)
        return outputs, slope

    outputs, slope = outputs_and_slope(theta, x)
    weights = {name: np.asarray(w, np.float64) for name, w in theta.items()}
    hidden = np.maximum(weights["kernel_0"].T @ x + weights["bias_0"][:, None], 0)
    expected = weights["kernel_1"].T @ hidden + weights["bias_1"][:, None]
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    expected = weights["kernel_0"] @ ((hidden > 0) * weights["kernel_1"][:, :1])
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_lstm_in_numpy():
    optimizer = LSTMOptimizer(hidden_sizes=(4, 3))
    theta = drawn(optimizer)
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
    features = jax.jit(lambda g: log_and_sign(g, 10.0))
    log, sign = features(np.asarray([1.0, -np.exp(5.0), 0.0, 1e-6, -1e-6], np.float32))
    np.testing.assert_allclose(log, [0, 0.5, -1, -1, -1], atol=1e-6)
    np.testing.assert_allclose(sign, [1, -1, 0, np.exp(10) * 1e-6, -np.exp(10) * 1e-6], rtol=1e-5)
    gradient = jax.jit(jax.jacobian(lambda g: features(g)[0]))(np.zeros(1, np.float32))
    assert np.isfinite(gradient).all()


def test_time_is_folded_into_the_first_bias_exactly():
    """A network of 8 features and 11 constants equals a network of 19 features."""
    optimizer = MLPOptimizer()
    theta = drawn(optimizer)
    features = np.random.default_rng(4).normal(size=(8, 50)).astype(np.float32)
    step_of = jax.jit(optimizer._step)
    for step in (0, 5, 100_000):
        direction, magnitude = mlp(theta, features.T, step).T
        expected = -1e-3 * direction * np.exp(1e-3 * magnitude)
        np.testing.assert_allclose(step_of(theta, features, np.int32(step)), expected, rtol=1e-4, atol=1e-8)
