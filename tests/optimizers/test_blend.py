"""`blend`: what it starts as, by optax; and what its network can ask for, in numpy."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from lopt.optimizers.blend import ANYTIME_STEPS, Blend
from lopt.optimizers.parts.blend_features import fans, gain, units
from lopt.optimizers.parts.blend_network import BOUND
from lopt.optimizers.parts.progress import init_loss_averages, loss_drop, update_loss_averages

SHAPES = {"scalar": (), "vector": (5,), "tall": (7, 4), "wide": (4, 9), "kernel": (3, 3, 2, 6), "empty": (0, 2)}
SHAPES["embedding"] = (6, 3)
PARAMS = {
    name: (np.random.default_rng(1).normal(size=shape) / math.sqrt(max(math.prod(shape[:-1]), 1))).astype(np.float32)
    for name, shape in SHAPES.items()
}
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


VARIANTS = [
    Blend(hidden_size=3, orthogonalize=orthogonal, anytime=anytime)
    for orthogonal in (True, False)
    for anytime in (True, False)
]


def sum_of(*transformations) -> Any:
    """The sum of their updates."""

    def update(grads, states, params=None):
        updates, states = zip(
            *(tx.update(grads, state, params) for tx, state in zip(transformations, states, strict=True)), strict=True
        )
        return jax.tree.map(lambda *xs: sum(xs), *updates), states

    return optax.GradientTransformation(lambda params: tuple(tx.init(params) for tx in transformations), update)  # pyright: ignore[reportArgumentType]


def hand_made(rule):
    """Muon with weight decay and a share of Adam for matrices, or AdamW; and Adam for all else; by optax.

    That is the rule without its `decay_gain`.
    """
    kinds = {name: "matrix" if len(shape) > 1 and 0 not in shape else "other" for name, shape in SHAPES.items()}
    kinds |= {"kernel": "kernel", "embedding": "other"}
    cosine = optax.cosine_decay_schedule(1.0, STEPS)

    def rate(peak):
        return lambda count: peak * (1 / jnp.sqrt(1 + count / ANYTIME_STEPS) if rule.anytime else cosine(count))

    over_root_fan_in = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u / math.sqrt(math.prod(u.shape[:-1])), updates)
    )

    def of_matrices(peak, kind):
        if rule.orthogonalize:
            dimensions: Any = {
                name: contrib.MuonDimensionNumbers(tuple(range(len(SHAPES[name]) - 1)), len(SHAPES[name]) - 1)
                if kinds[name] == kind
                else None
                for name in SHAPES
            }
            decay = rule.weight_decay
            muon = contrib.muon(rate(peak), weight_decay=decay, muon_weight_dimension_numbers=dimensions)
            share = optax.scale(rule.adam_share), optax.scale_by_learning_rate(rate(peak))
            return sum_of(muon, optax.chain(optax.scale_by_adam(b1=0.95, b2=0.95), over_root_fan_in, *share))
        decay = optax.add_decayed_weights(rule.weight_decay), optax.scale_by_learning_rate(rate(peak))
        return optax.chain(optax.scale_by_adam(b1=0.8, b2=0.95), over_root_fan_in, *decay)

    parts: Any = {
        "matrix": of_matrices(rule.matrix_rate, "matrix"),
        "kernel": of_matrices(rule.kernel_rate, "kernel"),
        "other": optax.adam(rate(rule.vector_rate), b1=0.8, b2=0.95),
    }
    return optax.partition(parts, kinds)


@pytest.mark.parametrize("rule", VARIANTS, ids=str)
def test_a_fresh_theta_is_a_hand_made_optimizer(rule):
    tx, rule = hand_made(rule), dataclasses.replace(rule, decay_gain=0.0)
    update = lambda theta, grads, state, params, value: tx.update(grads, state, params)  # noqa: E731
    expected, _ = path(update, None, tx.init(PARAMS), ONES)
    updates, _ = blend_path(rule, fresh(rule), np.linspace(2, 1, STEPS, dtype=np.float32))
    for name in SHAPES:
        scale = np.abs(expected[name]).max(initial=0)
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def first_ratio(theta, name):
    return blend_path(SMALL, theta)[0][name][0] / blend_path(SMALL, fresh())[0][name][0]


@pytest.mark.parametrize(("head", "name"), [("matrix", "wide"), ("vector", "vector")])
def test_the_network_sets_the_size(head, name):
    np.testing.assert_allclose(first_ratio(asking(head, 0, 0.3), name), np.exp(0.6), rtol=1e-5)


def test_adams_direction_and_weight_decay_of_a_matrix():
    plain = blend_path(SMALL, fresh())[0]["wide"][0]
    p = PARAMS["wide"]
    mixed = blend_path(SMALL, asking("matrix", 2, 0.5))[0]["wide"][0]
    np.testing.assert_allclose(mixed - plain, -RATE / 2 * 0.5 * np.sign(np.sin(3 * p)), rtol=1e-3, atol=1e-7)  # n = 4
    decayed = blend_path(SMALL, asking("matrix", 1, 1.0))[0]["wide"][0]
    np.testing.assert_allclose(decayed - plain, -RATE * DECAY * (np.e - 1) * p, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("factor", [-1.0, 1.0])
def test_decay_falls_where_gradients_disagree(factor):
    """The second update, in numpy: the first gradient meets no momentum, the second the first gradient."""
    before = np.sin(3 * PARAMS["wide"])
    now = factor * before + np.cos(7 * PARAMS["wide"]).astype(np.float32) / 2
    cosine = np.sum(before * now) / np.linalg.norm(before) / np.linalg.norm(now)
    agreement = np.clip(0.05 * cosine / (1 - 0.95**2), -0.5, 0)
    assert (agreement < -0.3) == (factor < 0)
    updates = {}
    for k in (0.0, 2.0, 4.0):
        rule = dataclasses.replace(SMALL, decay_gain=k)
        state, params = start_of(rule), PARAMS
        for grad in (before, now):
            grads = {**{name: np.zeros_like(p) for name, p in PARAMS.items()}, "wide": grad}
            step, state = update_of(rule)(fresh(rule), grads, state, params, jnp.ones(()))
            updates[k], at, params = step["wide"], params["wide"], jax.tree.map(jnp.add, params, step)
    schedule = (1 + np.cos(np.pi / STEPS)) / 2
    for k in (2.0, 4.0):
        less = schedule * RATE * DECAY * (1 - np.exp(k * agreement)) * at
        np.testing.assert_allclose(updates[k] - updates[0.0], less, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("rule", VARIANTS, ids=str)
def test_it_does_not_depend_on_units_of_the_loss(rule):
    """Gradients and losses times 1000: the same updates, at a theta that reads every feature."""
    theta = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), fresh(rule))
    grads = [{name: np.sin(3 * p + t) for name, p in PARAMS.items()} for t in range(5)]
    results = []
    for factor in (1.0, 1000.0):
        state = start_of(rule)
        for t, g in enumerate(grads):
            g = {name: np.float32(factor) * x for name, x in g.items()}
            updates, state = update_of(rule)(theta, g, state, PARAMS, jnp.float32(factor * (2 - 0.3 * t)))
        results.append(updates)
    for name in SHAPES:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-4, atol=1e-7)


def test_the_drop_of_the_loss():
    """By running means in numpy, of memories of 10 and 50 losses; 0 where a loss is not above 0."""
    values, averages = np.linspace(3, 0.01, 30), init_loss_averages(jnp.int32(50))
    means = []
    for value in values:
        averages = update_loss_averages(averages, jnp.float32(value))
    for memory in (10, 50):
        weights = np.exp(-1 / memory) ** np.arange(len(values))[::-1]
        means.append(np.sum(weights * values) / np.sum(weights))
    np.testing.assert_allclose(loss_drop(averages), np.log(means[0] / means[1]), rtol=1e-5)
    for _ in range(30):
        averages = update_loss_averages(averages, jnp.float32(-1))
    assert loss_drop(averages) == 0 == loss_drop(init_loss_averages(jnp.int32(50)))


def test_units():
    """By hand: sizes from a tenth to twice the usual one count as 1; 1,000 as 500, a thousandth as a hundredth."""
    np.testing.assert_allclose(gain(jnp.full((3, 3, 2, 6), -0.5), 18), 0.5 * math.sqrt(18), rtol=1e-6)
    np.testing.assert_allclose(gain(jnp.full((5,), 2.0), 1), 2.0, rtol=1e-6)
    matrices = [True, True, True, False, False, True]
    gains = jnp.array([1e3, 1.9, 1e-3, 1e4, 0.0, 0.11])
    mean = (500 * 1 * 0.01 * 1) ** (1 / 4)  # of the matrices
    np.testing.assert_allclose(units(gains, matrices), [500, 1, 0.01, 5e3, mean, 1], rtol=1e-5)
    np.testing.assert_allclose(units(jnp.array([1e3, 0.0]), [True, False]), [500, 500], rtol=1e-5)
    np.testing.assert_allclose(units(jnp.array([0.0, 1e-3]), [False, False]), [1, 0.01], rtol=1e-5)


@pytest.mark.parametrize("rule", VARIANTS, ids=str)
def test_updates_have_the_unit_of_the_parameters(rule):
    """Beyond the usual sizes: parameters a hundred times larger get updates a hundred times larger.

    The gradients stay as they are: the rule does not see their unit, up to Adam's epsilon.
    """
    theta = jax.tree.map(lambda x: 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), fresh(rule))
    grads, updates = {name: np.sin(3 * p) for name, p in PARAMS.items()}, []
    for factor in (1e3, 1e5):
        params = {name: np.float32(factor) * p for name, p in PARAMS.items()}
        state = jax.jit(lambda params: rule.init(None, params, num_steps=STEPS))(params)
        updates.append(update_of(rule)(theta, grads, state, params, jnp.ones(()))[0])
    for name in SHAPES:
        np.testing.assert_allclose(updates[1][name], 100 * updates[0][name], rtol=1e-3, atol=1e-4)


def test_fans():
    assert [fans(shape) for shape in SHAPES.values()] == [(1, 1), (1, 5), (7, 4), (4, 9), (18, 6), (0, 2), (6, 3)]


def test_theta_is_small():
    for size in (0, 3):
        for orthogonal, outputs in ((True, 4), (False, 3)):
            for anytime, read in ((False, 11), (True, 7)):
                theta = fresh(Blend(hidden_size=size, orthogonalize=orthogonal, anytime=anytime))
                numbers = (read + 1) * outputs + size * (read + 1 + outputs)
                assert sum(x.size for x in jax.tree.leaves(theta)) == numbers
