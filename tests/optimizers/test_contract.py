"""What every learned optimizer does, on one tree with tensors of all ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS

SIZES = {"learnable_adam": 3, "lstm": 5141, "mlp": 1762}
SHAPES = {"scalar": (), "vector": (5,), "matrix": (3, 4), "cube": (2, 3, 2), "kernel": (2, 2, 1, 3), "empty": (0, 2)}

pytestmark = pytest.mark.parametrize("name", OPTIMIZERS)


def tree(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, SHAPES.items(), strict=True)}


def run(optimizer, theta, params, num_steps=3):
    """`num_steps` updates on gradients that depend on the step, without applying them: updates of the last one."""

    def update(state, step):
        grads = jax.tree.map(lambda p: p * (0.5 + step), params)
        updates, state = optimizer.update(theta, grads, state, params, value=jnp.asarray(1.0))
        return state, updates

    @jax.jit
    def scan(state):
        state, updates = jax.lax.scan(update, state, jnp.arange(num_steps))
        return jax.tree.map(lambda x: x[-1], updates), state

    return scan(optimizer.init(theta, params, num_steps=jnp.asarray(10)))


def test_shapes_types_and_one_trace(name):
    optimizer, params = OPTIMIZERS[name](), tree(0)
    theta = optimizer.init_theta(jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == SIZES[name]
    state = optimizer.init(theta, params, num_steps=jnp.asarray(10))
    traces = 0

    @jax.jit
    def update(theta, grads, state, params):
        nonlocal traces
        traces += 1
        return optimizer.update(theta, grads, state, params, value=jnp.asarray(1.0))

    for _ in range(3):
        updates, state = update(theta, params, state, params)
    assert traces == 1
    assert {k: (u.shape, u.dtype) for k, u in updates.items()} == {k: (s, jnp.float32) for k, s in SHAPES.items()}
    assert all(jnp.isfinite(u).all() for u in updates.values())


def test_vmap_over_theta_is_a_loop(name):
    optimizer, params = OPTIMIZERS[name](), tree(0)
    thetas = jax.vmap(optimizer.init_theta)(jax.random.split(jax.random.key(1), 3))
    together, _ = jax.jit(jax.vmap(lambda theta: run(optimizer, theta, params)))(thetas)
    for i in range(3):
        alone, _ = run(optimizer, jax.tree.map(lambda x, i=i: x[i], thetas), params)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-6), together, alone)


def test_tensors_do_not_see_each_other(name):
    """The update of a tensor is the same with the others there or not, and in any order."""
    optimizer, params = OPTIMIZERS[name](), tree(0)
    theta = optimizer.init_theta(jax.random.key(1))
    together, _ = run(optimizer, theta, params)
    for key, param in params.items():
        alone, _ = run(optimizer, theta, {"z": param})
        np.testing.assert_allclose(alone["z"], together[key], rtol=2e-4, atol=1e-7)


def test_zero_gradients_are_finite(name):
    optimizer = OPTIMIZERS[name]()
    params = jax.tree.map(jnp.zeros_like, tree(0))
    updates, state = run(optimizer, optimizer.init_theta(jax.random.key(1)), params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


def test_no_parameters_at_all(name):
    optimizer = OPTIMIZERS[name]()
    updates, _ = run(optimizer, optimizer.init_theta(jax.random.key(1)), {})
    assert updates == {}


def test_unknown_inputs_are_declared(name):
    assert OPTIMIZERS[name]().requires <= {"value", "params", "num_steps"}


def test_settings_out_of_range(name):
    bad = {"learnable_adam": {"b1": 1.0}, "lstm": {"hidden_sizes": ()}, "mlp": {"step_scale": 0.0}}[name]
    with pytest.raises(InputError):
        OPTIMIZERS[name](**bad)
