"""What every learned optimizer does, on one tree with tensors of all ranks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS

SIZES = {
    "adafac_mlp": 197,
    "celo": 37089,
    "celo2": 347,
    "celo_adam": 36865,
    "learnable_adam": 3,
    "learnable_sgd": 2,
    "lstm": 5141,
    "mlp": 1762,
    "nn_adam": 6728,
    "rnn_mlp": 35799,
    "star": 207,
    "velo": 2320385,
}
SEES_ALL_TENSORS = ("rnn_mlp", "velo")  # rules in which the update of a tensor depends on the others
SMALL = {"velo": {"lstm_size": 8, "num_mlps": 4, "weight_scale": 1.0}}
SHAPES = {"scalar": (), "vector": (5,), "matrix": (3, 4), "cube": (2, 3, 2), "kernel": (2, 2, 1, 3), "empty": (0, 2)}

# One worker a rule, as its tests share what they compile.
pytestmark = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in OPTIMIZERS]
)


def make(name):
    """The rule, with settings that are small where the default is large."""
    return OPTIMIZERS[name](**SMALL.get(name, {}))


def tree(seed, names=tuple(SHAPES)):
    keys = jax.random.split(jax.random.key(seed), len(names))
    return {name: jax.random.normal(key, SHAPES[name]) for name, key in zip(names, keys, strict=True)}


LOSSES = np.ones(5, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(optimizer, theta, params, values):
    """One update a loss, on gradients that depend on the step, without applying them: updates of the last one."""

    def update(state, inputs):
        step, value = inputs
        grads = jax.tree.map(lambda p: p * (0.5 + step), params)
        updates, state = optimizer.update(theta, grads, state, params, value=value)
        return state, updates

    state = optimizer.init(theta, params, num_steps=jnp.asarray(10))
    state, updates = jax.lax.scan(update, state, (jnp.arange(len(values)), values))
    return jax.tree.map(lambda x: x[-1], updates), state


def test_shapes_types_and_one_trace(name):
    optimizer, params = make(name), tree(0)
    theta = optimizer.init_theta(jax.random.key(1))
    default = jax.eval_shape(OPTIMIZERS[name]().init_theta, jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(default)) == SIZES[name]
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
    optimizer, params = make(name), tree(0, ("vector", "kernel"))
    thetas = jax.vmap(optimizer.init_theta)(jax.random.split(jax.random.key(1), 3))
    together, _ = jax.vmap(lambda theta: run(optimizer, theta, params, LOSSES))(thetas)
    for i in range(3):
        alone, _ = run(optimizer, jax.tree.map(lambda x, i=i: x[i], thetas), params, LOSSES)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-4, atol=1e-6), together, alone)


def test_tensors_do_not_see_each_other(name):
    """The update of a tensor is the same with the others there or not; or else, at least, in any order."""
    optimizer, params = make(name), tree(0, ("vector", "kernel"))
    theta = optimizer.init_theta(jax.random.key(1))
    together, _ = run(optimizer, theta, params, LOSSES)
    renamed = {"z": "kernel"} | ({"zz": "vector"} if name in SEES_ALL_TENSORS else {})  # the other way round
    alone, _ = run(optimizer, theta, {new: params[old] for new, old in renamed.items()}, LOSSES)
    for new, old in renamed.items():
        np.testing.assert_allclose(alone[new], together[old], rtol=2e-4, atol=1e-7)


def test_zero_gradients_are_finite(name):
    optimizer = make(name)
    params = jax.tree.map(jnp.zeros_like, tree(0))
    updates, state = run(optimizer, optimizer.init_theta(jax.random.key(1)), params, LOSSES)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


@pytest.mark.parametrize("bad", [jnp.inf, -jnp.inf, jnp.nan])
def test_losses_that_are_not_finite(name, bad):
    optimizer = make(name)
    if "value" not in optimizer.requires:
        return
    values = np.asarray([bad, 1.0, 3e38, bad, 0.5], np.float32)
    updates, state = run(optimizer, optimizer.init_theta(jax.random.key(1)), tree(0), values)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


def test_no_parameters_at_all(name):
    optimizer = make(name)
    updates, _ = run(optimizer, optimizer.init_theta(jax.random.key(1)), {}, LOSSES)
    assert updates == {}


def test_unknown_inputs_are_declared(name):
    assert make(name).requires <= {"value", "params", "num_steps"}


def test_settings_out_of_range(name):
    bad = {
        "adafac_mlp": {"mup_keys": "kernel"},
        "celo": {"hidden_sizes": ()},
        "celo2": {"adam_keys": "embedding"},
        "celo_adam": {"lstm_size": 0},
        "learnable_adam": {"b1": 1.0},
        "learnable_sgd": {"momentum": 1.0},
        "lstm": {"hidden_sizes": ()},
        "mlp": {"step_scale": 0.0},
        "nn_adam": {"epsilon": 0.0},
        "rnn_mlp": {"lstm_size": 0},
        "star": {"weight_decay": 1.0},
        "velo": {"num_mlps": 0},
    }[name]
    with pytest.raises(InputError):
        OPTIMIZERS[name](**bad)
