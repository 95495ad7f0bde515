"""The guard: transparent while the rule holds, and what it does when it does not, step for step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.guarding import _observe
from lopt.names import InputError
from tasks import parse_tasks

guard: Any = lopt.guard  # optax's types for states and updates are too wide to look inside

START = {"w": jnp.asarray([3.0, -2.0]), "b": jnp.asarray(1.0, jnp.bfloat16)}


def bowl(params, noise=0.0):
    return jnp.sum(params["w"] ** 2) * (1 + noise) / 2 + (params["b"].astype(jnp.float32) ** 2) / 2


def train(tx, loss, params, noise):
    """Last params, last state; and params after each step, whether they are the fallback's, the loss before it."""

    def step(carry, noise):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, noise)
        updates, state = tx.update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optax.tree.get(state, "handed_over", jnp.zeros((), bool)), value)

    carry, seen = jax.lax.scan(step, (params, tx.init(params)), noise)
    return *carry, *seen


def follow(tx, num_steps, start=START, noise=0.0, loss=bowl):
    noise = np.float32(noise * np.random.default_rng(0).normal(size=num_steps))
    params, state, *seen = jax.jit(functools.partial(train, tx, loss))(start, noise)
    return params, state, *jax.tree.map(np.asarray, seen)


def test_a_rule_that_holds_is_left_alone():
    _, _, wanted, _, _ = follow(optax.adam(0.05), 300, noise=0.3)
    _, state, path, handed_over, _ = follow(guard(optax.adam(0.05), optax.sgd(0.1)), 300, noise=0.3)
    assert not handed_over.any()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), path, wanted)
    assert int(state.snapshot_step) > 0


def breaks_at(step):
    """Gradient descent that converges, 0.95 a step, and from some step on diverges, -1.5 a step."""
    return optax.sgd(lambda t: jnp.where(t < step, 0.05, 2.5))


def test_divergence_is_undone_and_the_fallback_goes_on_from_the_snapshot():
    rule, fallback = breaks_at(120), optax.adam(0.01)
    bare = follow(rule, 400)[4]
    assert not bare[-1] < 1e6  # it does diverge
    params, state, path, handed_over, values = follow(guard(rule, fallback), 400)
    (step,) = np.flatnonzero(np.diff(handed_over)) + 1
    snapshot = jax.tree.map(lambda x: x[int(state.snapshot_step) - 1], path)
    # The step of the handing over brings the snapshot back, and the next ones are the fallback's own.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[step], y, rtol=1e-2), path, snapshot)
    _, _, alone, _, _ = follow(fallback, 400 - step - 1, jax.tree.map(lambda x: jnp.asarray(x[step]), path))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[step + 1 :], y, rtol=2e-2, atol=1e-5), path, alone)
    assert handed_over[step:].all()
    # Bounded loss of progress: what it goes on from is the loss of at most so many steps ago.
    best_before = values[: int(state.snapshot_step) + 1].min()
    assert values[step + 1] <= 1.01 * best_before
    assert bowl(params) < 1.01 * best_before


def test_one_bad_update_hands_over_at_once():
    @jax.jit
    def follow_bad(bad):
        rule = optax.stateless(lambda grads, params: jax.tree.map(lambda g: bad.astype(g.dtype) + 0 * g, grads))
        return train(guard(rule, optax.sgd(0.1)), bowl, START, np.zeros(50, np.float32))

    for bad in (np.nan, np.inf, 1e30):
        params, _, path, handed_over, values = follow_bad(np.float32(bad))
        assert np.all(handed_over)
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(path["w"][0], START["w"])  # the update never reached the params
        assert bowl(params) < 1e-3 * bowl(START)


def test_a_loss_that_is_not_finite_hands_over():
    def loss(params, noise):
        return bowl(params) + jnp.where(params["w"][0] < 2.0, jnp.inf, 0.0)

    _, _, _, handed_over, _ = follow(guard(optax.sgd(0.1), optax.sgd(0.01)), 30, loss=loss)
    (step,) = np.flatnonzero(np.diff(handed_over)) + 1
    assert 3 * 0.9**step < 2.0 <= 3 * 0.9 ** (step - 1)


def test_noise_alone_does_not_hand_over():
    """At the optimum of a noisy loss nothing rises but by chance: 20 runs of 2,000 steps."""

    @jax.jit
    @jax.vmap
    def handed_over(losses):
        tx = guard(optax.sgd(0.01), optax.sgd(0.1))
        params = {"w": jnp.zeros(3)}

        def step(carry, value):
            params, state = carry
            _, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params, value=value)
            return (params, state), None

        return jax.lax.scan(step, (params, tx.init(params)), losses)[0][1].handed_over

    losses = 1 + 0.5 * np.random.default_rng(1).normal(size=(20, 2000))
    assert not np.any(handed_over(np.float32(losses)))


def test_averages_are_the_debiased_ones():
    losses = np.random.default_rng(0).normal(size=40).cumsum()
    watch, watches = guard(optax.sgd(1.0), optax.sgd(1.0)).init(START).watch, []
    observe = jax.jit(functools.partial(_observe, decay=0.9, warm_up=10))
    for step, loss in enumerate(losses):
        watch = observe(watch, jnp.asarray(loss, jnp.float32), jnp.asarray(step))
        watches.append(watch)
    weights = 0.9 ** np.arange(40)[::-1]
    np.testing.assert_allclose(watch.mean, weights @ losses / weights.sum(), rtol=1e-4)
    means = [float(w.mean) for w in watches]
    np.testing.assert_allclose(watch.first, means[9], rtol=1e-6)
    np.testing.assert_allclose(watch.best, min(means[9:]), rtol=1e-6)
    np.testing.assert_allclose(watch.weight, 1 - 0.9**40, rtol=1e-5)
    same = observe(watch, jnp.asarray(jnp.nan), jnp.asarray(40))
    np.testing.assert_array_equal(np.asarray(same), np.asarray(watch))


def test_it_is_traced_once_and_composes():
    traces = 0
    inner = optax.chain(guard(lopt.load("demo_mlp"), optax.adamw(1e-3)), optax.add_decayed_weights(1e-4))
    params, state = START, inner.init(START)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        nonlocal traces
        traces += 1
        value, grads = jax.value_and_grad(bowl)(params)
        updates, state = inner.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.copy, params)
    for _ in range(4):
        params, state = step(params, state)
    assert traces == 1
    assert jax.tree.map(lambda x: x.dtype, params) == jax.tree.map(lambda x: x.dtype, START)


def test_what_is_missing_is_said():
    tx = guard(optax.sgd(0.1), optax.sgd(0.1))
    with pytest.raises(InputError, match="value=loss"):
        tx.update(START, tx.init(START), START)
    with pytest.raises(InputError, match="value=loss"):
        tx.update(START, tx.init(START), value=1.0)
    with pytest.raises(InputError, match="above 0"):
        guard(optax.sgd(0.1), optax.sgd(0.1), rise=0.0)


def test_a_learned_rule_on_a_task_in_other_units():
    """The demo's rule, meta-trained on one scale of weights, diverges where their unit is 1,000 times larger."""
    (family,) = parse_tasks("image_mlp/digits+reparametrize:low=1000.0:high=1000.0")
    data = jax.tree.map(jnp.asarray, family.load())
    config = family.sample(jax.random.key(0))
    task = family.task(config)

    def loss(params, key):
        return task.normalize(task.loss(params, key, family.sample_batch(data, key, config, "train")))

    def final_loss(tx):
        @jax.jit
        def scan(params, keys):
            def step(carry, key):
                params, state = carry
                value, grads = jax.value_and_grad(loss)(params, key)
                updates, state = tx.update(grads, state, params, value=value)
                return (optax.apply_updates(params, updates), state), value

            return jax.lax.scan(step, (params, tx.init(params)), keys)

        (_, state), values = scan(task.init(jax.random.key(1)), jax.random.split(jax.random.key(2), 400))
        return np.asarray(values)[-20:].mean(), bool(optax.tree.get(state, "handed_over", False))

    bare = final_loss(lopt.load("demo_mlp"))[0]
    guarded, handed_over = final_loss(guard(lopt.load("demo_mlp"), optax.adamw(1e-5)))
    assert not bare < 10  # times the loss of guessing
    assert handed_over
    assert guarded < 0.1
