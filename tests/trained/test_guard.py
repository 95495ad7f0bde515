"""The guard: transparent while the rule holds, and what it does when it does not, step for step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
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
    # The step of the handing over and the next bring the snapshot back, and those after them are the fallback's own.
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[step + 1], y), path, snapshot)
    _, _, alone, _, _ = follow(fallback, 400 - step - 2, jax.tree.map(lambda x: jnp.asarray(x[step + 1]), path))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[step + 2 :], y, rtol=2e-2, atol=1e-5), path, alone)
    assert handed_over[step:].all()
    # Bounded loss of progress: what it goes on from is the loss of at most so many steps ago.
    best_before = values[: int(state.snapshot_step) + 1].min()
    assert values[step + 2] <= best_before * (1 + 1e-6)
    assert bowl(params) < 1.01 * best_before


@pytest.mark.parametrize("offset", [0.0, -1.0])
def test_divergence_within_the_warm_up_is_undone(offset):
    """The params double, ten times, and stay there: the loss of 2.5 becomes a million. It may start below 0 too."""

    def double(updates, state, params=None):
        return jax.tree.map(lambda p: jnp.where(state < 10, p, 0 * p), params), state + 1

    rule = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), double)
    _, state, path, handed_over, values = follow(
        guard(rule, optax.sgd(0.1), snapshot_every=3),
        100,
        start={"w": jnp.asarray([1.0, -2.0])},
        loss=lambda params, _: jnp.sum(params["w"] ** 2) / 2 + 4 * offset,
    )
    assert values.max() > 2e6
    assert np.argmax(handed_over) == 10  # half the warm-up of 20 steps
    assert int(state.snapshot_step) == 0
    np.testing.assert_array_equal(path["w"][11], [1.0, -2.0])
    assert float(state.watch.first) <= values[0]
    np.testing.assert_allclose(values[-1], 4 * offset, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_return_is_exact(dtype):
    kept = {"w": jnp.asarray([0.1, -0.2123, 0.03, 7.0, 0.0], dtype)}
    tx = guard(optax.sgd(0.1), optax.sgd(1.0))
    update = jax.jit(
        lambda state, params, value: tx.update(jax.tree.map(jnp.ones_like, params), state, params, value=value)
    )
    for factor in (-3.0, 10.0, 1e3, 1e9):
        params, state = {"w": (kept["w"] * factor).astype(dtype)}, tx.init(kept)
        for value in (np.nan, 1e9):
            updates, state = update(state, params, np.float32(value))
            params = {"w": params["w"] + updates["w"]}
        np.testing.assert_array_equal(params["w"], kept["w"])
        updates, _ = update(state, params, np.float32(1.0))
        np.testing.assert_array_equal(updates["w"], np.full(5, -1.0))  # the fallback's


def test_params_that_start_at_zero():
    params, grads = {"w": jnp.zeros(5), "b": jnp.zeros(())}, {"w": -2 * jnp.arange(5.0), "b": jnp.asarray(0.5)}
    for rule, wanted in ((optax.adam(1e-3), False), (optax.sgd(0.01), False), (optax.sgd(0.1), True)):
        tx = guard(rule, optax.sgd(1.0))
        # sgd's updates: 0.11 and 1.1 long, where 0.1 sqrt(6) = 0.24 are allowed.
        assert bool(tx.update(grads, tx.init(params), params, value=1.0)[1].handed_over) == wanted


def test_mixed_precision():
    def cast(dtype):
        return {"w": jnp.ones(3, dtype)}

    low, full = jnp.bfloat16, jnp.float32
    for params, grads, wanted in ((low, full, full), (full, low, full), (low, low, low)):
        tx = guard(optax.adam(1e-3, mu_dtype=full), optax.adamw(1e-3, mu_dtype=full))
        state = tx.init(cast(params))
        updates, after = jax.eval_shape(
            lambda s, tx=tx, p=params, g=grads: tx.update(cast(g), s, cast(p), value=1.0), state
        )
        assert updates["w"].dtype == wanted
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


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

    def losses(tx):
        run = jax.jit(functools.partial(train, tx, loss))
        _, _, _, handed_over, values = run(task.init(jax.random.key(1)), jax.random.split(jax.random.key(2), 400))
        return np.asarray(values), np.asarray(handed_over)

    bare, _ = losses(lopt.load("demo_mlp"))
    guarded, handed_over = losses(guard(lopt.load("demo_mlp"), optax.adamw(1e-5)))
    assert not bare[-20:].mean() < 10  # times the loss of guessing
    assert handed_over[-1]
    assert 10 <= np.argmax(handed_over) <= 200
    assert np.isfinite(guarded).all()
    assert guarded[np.argmax(handed_over) + 2 :].max() < 3
    assert guarded[-20:].mean() < 0.1
