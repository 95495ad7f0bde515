"""Gradients and losses that are not finite: what they count as, for every trained optimizer that ships."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.trained.folders import shipped_folders

PARAMS = {"w": jnp.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)), "b": jnp.ones(3)}
GRADS = jax.tree.map(lambda p: p + 0.3, PARAMS)
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}
PLACES: dict[str, Any] = {
    "an element": lambda bad: {**GRADS, "w": GRADS["w"].at[1, 2].set(bad)},
    "a tensor": lambda bad: {**GRADS, "b": jnp.full(3, bad)},
    "all": lambda bad: jax.tree.map(lambda g: jnp.full_like(g, bad), GRADS),
}


def assert_finite(tree):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", shipped_folders())
def test_a_bad_element_counts_as_zero_and_a_bad_loss_leaves_the_state_finite(name):
    tx: Any = lopt.load(name, num_steps=10)
    step = jax.jit(lambda grads, state, value: tx.update(grads, state, PARAMS, value=value))
    one = jnp.ones(())
    _, first = step(GRADS, tx.init(PARAMS), one)
    assert int(optax.tree.get(first, "num_not_finite")) == 0
    reads_loss = "value" in lopt.load_pretrained(name).optimizer.requires
    for bad in BAD.values():
        for place in PLACES.values():
            found, state = step(place(bad), first, one)
            wanted, other = step(place(0.0), first, one)
            jax.tree.map(np.testing.assert_array_equal, (found, state.inner), (wanted, other.inner))
            assert int(state.num_not_finite) == 1
            assert_finite((found, state))
        for place in (lambda bad: GRADS, PLACES["all"]):
            found, state = step(place(bad), first, jnp.asarray(bad, jnp.float32))
            assert int(state.num_not_finite) == int(reads_loss or place is PLACES["all"])
            found, state = step(GRADS, state, one)
            assert_finite((found, state))


def test_the_count_is_read_within_other_states():
    tx = optax.chain(optax.clip(1e9), optax.MultiSteps(lopt.load("learnable_adam_digits"), 1).gradient_transformation())
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = tx.update(PLACES["an element"](np.nan), state, PARAMS)
    assert int(optax.tree.get(state, "num_not_finite")) == 2


def test_a_state_without_a_count_goes_on_without():
    """As one restored from a checkpoint of lopt 0.1.0 does."""
    tx: Any = lopt.load("learnable_adam_digits")
    state = tx.init(PARAMS)
    old = lopt.LearnedState(state.theta, state.inner)
    updates, after = tx.update(PLACES["an element"](np.nan), old, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(old)
    wanted, _ = tx.update(PLACES["an element"](0.0), state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, wanted)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_the_guard_still_sees_a_bad_loss_and_no_bad_gradient(bad):
    tx: Any = lopt.guard(lopt.load("learnable_adam_digits"), optax.sgd(0.1))
    for grads, value, wanted in ((GRADS, bad, True), (PLACES["all"](bad), bad, True), (PLACES["all"](bad), 1.0, False)):
        updates, state = tx.update(grads, tx.init(PARAMS), PARAMS, value=value)
        assert bool(state.handed_over) == wanted
        assert_finite((updates, state._replace(watch=state.watch._replace(lowest=jnp.zeros(())))))
