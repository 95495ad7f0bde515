"""A state that is moved to another horizon or theta, and what a restored one goes on with if it is not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.optimizers import OPTIMIZERS

PARAMS = {"w": jnp.asarray(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))}
SETTINGS: dict[str, dict[str, Any]] = {
    "learnable_adam": {"schedule_terms": 2},
    "learnable_sgd": {"schedule_terms": 2},
    "velo": {"lstm_size": 8},
}
SCHEDULED = [name for name in OPTIMIZERS if "num_steps" in OPTIMIZERS[name](**SETTINGS.get(name, {})).requires]
WRAPPERS: dict[str, Any] = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "multi_steps": lambda tx: optax.MultiSteps(tx, 2),
    "guard": lambda tx: lopt.guard(tx, optax.sgd(0.1)),
}


def make(name, num_steps, seed=0) -> Any:
    optimizer = OPTIMIZERS[name](**SETTINGS.get(name, {}))
    return lopt.as_optax(optimizer, optimizer.init_theta(jax.random.key(seed)), num_steps=num_steps)


def assert_equal(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), tree, other)
    assert jax.tree.map(lambda x: (x.dtype, x.shape), tree) == jax.tree.map(lambda x: (x.dtype, x.shape), other)


def test_rules_with_a_horizon_are_found():
    assert {"celo", "celo_adam", "velo", "learnable_adam"} <= set(SCHEDULED)


@pytest.mark.parametrize("name", SCHEDULED)
def test_a_fresh_state_moved_is_one_begun_with_the_new_horizon(name):
    assert_equal(lopt.carry_over(make(name, 10).init(PARAMS), num_steps=1000), make(name, 1000).init(PARAMS))


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_a_state_within_another_is_moved(wrapper):
    short, long = (wrapper(make("celo_adam", n)).init(PARAMS) for n in (10, 1000))
    assert_equal(lopt.carry_over(short, num_steps=1000), long)


def test_a_restored_state_decides_unless_it_is_moved():
    """learnable_adam with a schedule: the update at step t depends on t / T alone, and the state on no T."""
    short, long = make("learnable_adam", 10), make("learnable_adam", 1000, seed=1)
    theta = {**long.init(PARAMS).theta, "schedule": jnp.asarray([0.5, -0.2])}
    begun = lopt.carry_over(short.init(PARAMS), theta=theta)
    _, begun = short.update(PARAMS, begun, PARAMS)
    _, expected = long.update(PARAMS, lopt.carry_over(long.init(PARAMS), theta=theta), PARAMS)
    kept, _ = long.update(PARAMS, begun, PARAMS)  # as after a restart with another num_steps
    by_short, _ = short.update(PARAMS, begun, PARAMS)
    np.testing.assert_array_equal(kept["w"], by_short["w"])
    moved, _ = long.update(PARAMS, lopt.carry_over(begun, num_steps=1000), PARAMS)
    wanted, _ = long.update(PARAMS, expected, PARAMS)
    np.testing.assert_allclose(moved["w"], wanted["w"], rtol=1e-6)
    assert np.abs(moved["w"] - kept["w"]).max() > 1e-3 * np.abs(kept["w"]).max()


def test_what_was_gathered_is_kept():
    """Losses of 2 and 4: each mean m of decay d is (2 d + 4) / (1 + d), for the decays of the new horizon as well."""
    tx = make("celo_adam", 10)
    state = tx.init(PARAMS)
    for loss in (2.0, 4.0):
        _, state = tx.update(PARAMS, state, PARAMS, value=loss)
    before = state.inner.schedule.losses
    after = lopt.carry_over(state, num_steps=1000).inner.schedule.losses
    np.testing.assert_allclose(after.decays, np.exp(-1 / (10 * 100 ** (np.arange(10) / 9))), rtol=1e-5)
    for averages in (before, after):
        corrected = averages.means / (1 - averages.decays**2)
        np.testing.assert_allclose(before.means / (1 - before.decays**2), corrected, rtol=1e-5)
    assert int(after.count) == 2
    jax.tree.map(np.testing.assert_array_equal, lopt.carry_over(state).inner, state.inner)


def test_theta_is_replaced_by_a_copy():
    tx, other = make("celo_adam", 10), make("celo_adam", 10, seed=1)
    theta = other.init(PARAMS).theta
    moved = lopt.carry_over(tx.init(PARAMS), theta=theta)
    jax.tree.map(np.testing.assert_array_equal, moved.theta, theta)
    assert all(x is not y for x, y in zip(jax.tree.leaves(moved.theta), jax.tree.leaves(theta), strict=True))


def test_what_cannot_be_moved_is_said():
    with pytest.raises(lopt.InputError, match="no state of a learned optimizer"):
        lopt.carry_over(optax.adam(0.1).init(PARAMS), num_steps=10)
    with pytest.raises(lopt.InputError, match="keeps a num_steps"):
        lopt.carry_over(lopt.load("demo_mlp").init(PARAMS), num_steps=10)
    with pytest.raises(lopt.InputError, match="num_steps must be an integer"):
        lopt.carry_over(make("celo_adam", 10).init(PARAMS), num_steps=0)
    with pytest.raises(lopt.InputError, match="theta does not fit this state: a is float32"):
        lopt.carry_over(make("celo_adam", 10).init(PARAMS), theta={"a": jnp.ones(2)})
