"""`blend`: what it starts as, by optax; and what its network can ask for, in numpy."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lopt.optimizers.blend import BOUND, MAX_DRIFT, Blend
from lopt.optimizers.parts.blend_features import NUM_FEATURES, fans

SHAPES = {"scalar": (), "vector": (5,), "tall": (7, 4), "wide": (4, 9), "kernel": (3, 3, 2, 6), "empty": (0, 2)}
PARAMS = {name: np.random.default_rng(1).normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
STEPS = 12
SMALL = Blend(hidden_size=3)
ONES = np.ones(STEPS, np.float32)
RATE, DECAY = SMALL.matrix_rate, SMALL.weight_decay


@functools.partial(jax.jit, static_argnums=0)
def path(update, theta, state, values):
    """Updates of `STEPS` steps along the first axis, on gradients that depend on params and step."""

    def step(carry, inputs):
        params, state = carry
        t, value = inputs
        grads = jax.tree.map(lambda p: jnp.sin(3 * p + t), params)
        updates, state = update(theta, grads, state, params, value)
        return (jax.tree.map(jnp.add, params, updates), state), (updates, state)

    params = jax.tree.map(jnp.asarray, PARAMS)
    return jax.lax.scan(step, (params, state), (jnp.arange(STEPS), values))[1]


@functools.cache
def update_of(rule):
    """One function per rule, so that a rule is compiled once."""
    return jax.jit(lambda theta, grads, state, params, value: rule.update(theta, grads, state, params, value=value))


def start_of(rule):
    return jax.jit(lambda: rule.init(None, PARAMS, num_steps=STEPS))()


def blend_path(rule, theta, values=ONES):
    return path(update_of(rule), theta, start_of(rule), values)


def fresh(rule=SMALL):
    return rule.init_theta(jax.random.key(0))


def asking(head, output, amount):
    """A fresh theta with one output of one head at `amount`."""
    theta = fresh()
    bias = theta[head]["bias"].at[output].set(BOUND * np.arctanh(amount / BOUND))
    return {**theta, head: {**theta[head], "bias": bias}}


def hand_made(orthogonal):
    """Muon with weight decay for matrices, or AdamW, and Adam for all else, on a cosine schedule, by optax."""
    kinds = {name: "matrix" if len(shape) > 1 and 0 not in shape else "other" for name, shape in SHAPES.items()}
    schedule = optax.cosine_decay_schedule(1.0, STEPS)

    def rate(peak):
        return lambda count: peak * schedule(count)

    dimensions = {
        name: contrib.MuonDimensionNumbers(tuple(range(len(shape) - 1)), len(shape) - 1)
        for name, shape in SHAPES.items()
        if kinds[name] == "matrix"
    }
    numbers: Any = {**dict.fromkeys(SHAPES), **dimensions}
    muon = contrib.muon(rate(RATE), weight_decay=DECAY, muon_weight_dimension_numbers=numbers)
    over_root_fan_in = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u / math.sqrt(math.prod(u.shape[:-1])), updates)
    )
    decay = optax.add_decayed_weights(DECAY), optax.scale_by_learning_rate(rate(RATE))
    adamw = optax.chain(optax.scale_by_adam(b1=0.95), over_root_fan_in, *decay)
    return optax.partition(
        {"matrix": muon if orthogonal else adamw, "other": optax.adam(rate(SMALL.vector_rate), b1=0.8, b2=0.95)}, kinds
    )


@pytest.mark.parametrize("orthogonal", [True, False])
def test_a_fresh_theta_is_a_hand_made_optimizer(orthogonal):
    tx = hand_made(orthogonal)
    update = lambda theta, grads, state, params, value: tx.update(grads, state, params)  # noqa: E731
    expected, _ = path(update, None, tx.init(PARAMS), ONES)
    rule = Blend(hidden_size=3, orthogonalize=orthogonal)
    updates, _ = blend_path(rule, fresh(rule), np.linspace(2, 1, STEPS, dtype=np.float32))
    for name in SHAPES:
        scale = np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def first_ratio(theta, name):
    return blend_path(SMALL, theta)[0][name][0] / blend_path(SMALL, fresh())[0][name][0]


@pytest.mark.parametrize(("head", "name"), [("matrix", "wide"), ("vector", "vector")])
def test_the_network_sets_the_size(head, name):
    np.testing.assert_allclose(first_ratio(asking(head, 0, 0.3), name), np.exp(0.6), rtol=1e-5)


@pytest.mark.parametrize(("head", "name"), [("matrix", "wide"), ("vector", "vector")])
def test_drift_adds_up_within_its_bound(head, name):
    theta = asking(head, 1, 0.7)
    _, states = blend_path(SMALL, theta)
    i = sorted(SHAPES).index(name)
    np.testing.assert_allclose(
        states.drift[:, i], MAX_DRIFT * np.tanh(0.7) * np.arange(1, STEPS + 1) / STEPS, rtol=1e-5
    )
    start = start_of(SMALL)
    full = start._replace(drift=jnp.full_like(start.drift, MAX_DRIFT))
    _, after = update_of(SMALL)(theta, PARAMS, full, PARAMS, jnp.ones(()))
    assert float(after.drift.max()) == MAX_DRIFT


def test_slow_momentum_and_gradient_of_a_vector():
    """By hand: after one step all moments equal the gradient, so each adds Adam's direction once more."""
    sign = blend_path(SMALL, fresh())[0]["vector"][0]
    for output, share in ((2, 0.5), (3, -0.25)):
        np.testing.assert_allclose(
            blend_path(SMALL, asking("vector", output, share))[0]["vector"][0], (1 + share) * sign, rtol=1e-5
        )


def test_adams_direction_and_weight_decay_of_a_matrix():
    plain = blend_path(SMALL, fresh())[0]["wide"][0]
    p = PARAMS["wide"]
    mixed = blend_path(SMALL, asking("matrix", 4, 0.5))[0]["wide"][0]
    np.testing.assert_allclose(mixed - plain, -RATE / 2 * 0.5 * np.sign(np.sin(3 * p)), rtol=1e-3, atol=1e-7)  # n = 4
    decayed = blend_path(SMALL, asking("matrix", 5, 1.0))[0]["wide"][0]
    np.testing.assert_allclose(decayed - plain, -RATE * DECAY * (np.e - 1) * p, rtol=1e-3, atol=1e-7)


def test_it_does_not_depend_on_units_of_the_loss():
    """Gradients and losses times 1000: the same updates, at a theta that reads every feature."""
    theta = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), fresh())
    grads = [{name: np.sin(3 * p + t) for name, p in PARAMS.items()} for t in range(5)]
    results = []
    for factor in (1.0, 1000.0):
        state = start_of(SMALL)
        for t, g in enumerate(grads):
            g = {name: np.float32(factor) * x for name, x in g.items()}
            updates, state = update_of(SMALL)(theta, g, state, PARAMS, jnp.float32(factor * (2 - 0.3 * t)))
        results.append(updates)
    for name in SHAPES:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-4, atol=1e-7)


def test_fans():
    assert [fans(shape) for shape in SHAPES.values()] == [(1, 1), (1, 5), (7, 4), (4, 9), (18, 6), (0, 2)]


def test_theta_is_small():
    rows = NUM_FEATURES + 1
    for size in (0, 3):
        for orthogonal, outputs in ((True, 10), (False, 9)):
            theta = fresh(Blend(hidden_size=size, orthogonalize=orthogonal))
            assert sum(x.size for x in jax.tree.leaves(theta)) == rows * outputs + size * (rows + outputs)
