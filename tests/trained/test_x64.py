"""With jax_enable_x64 on, files load, states and params keep their dtypes, and numbers are the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.trained.folders import shipped_folders

SHAPES = {"w": (4, 3), "b": (3,)}
PARAMS = {name: np.linspace(-1, 1, int(np.prod(shape))).reshape(shape) for name, shape in SHAPES.items()}
FLOATS = {"float32": ("float32", "float32"), "float64": ("float64", "float64"), "both": ("float32", "float64")}
TRANSFORMATIONS = {
    "bare": lambda tx: tx,
    "guarded": lambda tx: lopt.guard(tx, optax.adamw(1e-3, mu_dtype=jnp.float32)),
}


def start(dtypes):
    return {name: jnp.asarray(PARAMS[name], dtype) for name, dtype in zip(SHAPES, dtypes, strict=True)}


def train(tx, carry, num_steps=3) -> Any:
    """A scan, which refuses a state or params that change their types."""

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(lambda p: sum(jnp.sum(jnp.cos(x)) for x in jax.tree.leaves(p)))(params)
        updates, state = tx.update(grads, state, params, value=value)
        assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, length=num_steps)[0]


def dtypes_of(tree):
    return jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize("wrapper", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)
@pytest.mark.parametrize("dtypes", FLOATS.values(), ids=FLOATS)
@pytest.mark.parametrize("name", shipped_folders())
def test_dtypes_do_not_follow_the_flag(name, dtypes, wrapper):
    without = jax.eval_shape(wrapper(lopt.load(name, num_steps=10)).init, start(("float32", "float32")))
    before = wrapper(lopt.load(name, num_steps=10)).init(start(("float32", "float32")))
    with jax.enable_x64(True):
        tx = wrapper(lopt.load(name, num_steps=10))
        params = start(dtypes)
        state = jax.eval_shape(tx.init, params)
        rule = state.rule if hasattr(state, "rule") else state
        assert dtypes_of(rule) == dtypes_of(without.rule if hasattr(without, "rule") else without)
        carry = (params, tx.init(params))
        assert dtypes_of(jax.eval_shape(lambda c: train(tx, c), carry)) == dtypes_of(carry)
        if dtypes == FLOATS["float32"]:  # switched on after init
            carry = (params, before)
            assert dtypes_of(jax.eval_shape(lambda c: train(tx, c), carry)) == dtypes_of(carry)


@pytest.mark.parametrize("name", ["celo_adam_digits", "demo_mlp", "rnn_mlp_digits"])
def test_numbers_do_not_follow_the_flag(name):
    tx = lopt.load(name, num_steps=10)
    params = start(("float32", "float32"))
    wanted = jax.jit(lambda c: train(tx, c))((params, tx.init(params)))
    with jax.enable_x64(True):
        found = jax.jit(lambda c: train(tx, c))((params, tx.init(params)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), found, wanted)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_template_of_theta_is_float32(rule):
    from lopt.trained.export import theta_template

    with jax.enable_x64(True):
        assert {leaf.dtype for leaf in jax.tree.leaves(theta_template(OPTIMIZERS[rule]()))} == {jnp.dtype("float32")}
