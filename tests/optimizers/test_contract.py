"""What every learned optimizer does, on one tree with tensors of all ranks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lopt
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS

SIZES = {
    "adafac_mlp": 197,
    "blend": 220,
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
STATE = {  # numbers of state per parameter of a matrix, and per row or column
    "adafac_mlp": (4, 3),
    "blend": (3, 0),
    "celo": (4, 3),
    "celo2": (4, 3),
    "celo_adam": (2, 0),
    "learnable_adam": (2, 0),
    "learnable_sgd": (1, 0),
    "lstm": (80, 0),
    "mlp": (6, 0),
    "nn_adam": (2, 0),
    "rnn_mlp": (10, 0),
    "star": (4, 3),
    "velo": (4, 3),
}
SEES_ALL_TENSORS = ("blend", "rnn_mlp", "velo")  # rules in which the update of a tensor depends on the others
# An MLP of few hidden units is written as a sum of products, which compile one by one.
SMALL = {
    "adafac_mlp": {"hidden_sizes": (2, 2)},
    "celo": {"hidden_sizes": (2, 2)},
    "celo2": {"hidden_sizes": (2, 2)},
    "star": {"hidden_sizes": (2, 2)},
    "velo": {"hidden_sizes": (2, 2), "lstm_size": 8, "num_mlps": 4},
}
SHAPES = {
    "scalar": (),
    "vector": (5,),
    "one": (1, 1),
    "matrix": (3, 4),
    "cube": (2, 3, 2),
    "kernel": (2, 2, 1, 3),
    "empty": (0, 2),
}

# One worker per rule, as its tests share what they compile.
pytestmark = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in OPTIMIZERS]
)


def make(name):
    """The rule, with settings that are small where the default is large."""
    return OPTIMIZERS[name](**SMALL.get(name, {}))


def tree(*without):
    generator = np.random.default_rng(0)
    shapes = {name: shape for name, shape in SHAPES.items() if name not in without}
    return {name: np.asarray(generator.normal(size=shape), np.float32) for name, shape in shapes.items()}


LOSSES = np.ones(5, np.float32)


@functools.partial(jax.jit, static_argnums=0)
def run(optimizer, theta, params, values):
    """One update per loss, on gradients that depend on the step, with fixed params; the last updates and the state."""

    def update(state, inputs):
        step, value = inputs
        grads = jax.tree.map(lambda p: p * (0.5 + step), params)
        updates, state = optimizer.update(theta, grads, state, params, value=value)
        return state, updates

    state = optimizer.init(theta, params, num_steps=jnp.asarray(10))
    state, updates = jax.lax.scan(update, state, (jnp.arange(len(values)), values))
    return jax.tree.map(lambda x: x[-1], updates), state


@functools.cache
def thetas_of(optimizer):
    """Two thetas, along the first axis."""
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(optimizer.init_theta))(jax.random.split(jax.random.key(1), 2)))


def theta_of(optimizer, i):
    return jax.tree.map(lambda x: x[i], thetas_of(optimizer))


def test_sizes_of_theta_and_state(name):
    """The sizes of the papers: numbers in theta, and in the state per parameter, row and column."""
    optimizer = OPTIMIZERS[name]()
    theta = jax.eval_shape(optimizer.init_theta, jax.random.key(1))
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == SIZES[name]

    def numbers(*shape):
        param = jax.ShapeDtypeStruct(shape, jnp.float32)
        state = jax.eval_shape(lambda theta, p: optimizer.init(theta, p, num_steps=jnp.asarray(10)), theta, param)
        return sum(x.size for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating))

    each, lines = STATE[name]
    assert numbers(48, 32) - numbers(24, 32) == each * 24 * 32 + lines * 24
    assert numbers(32, 48) - numbers(32, 24) == each * 24 * 32 + lines * 24
    # A vector has no rows and columns, so all its moments have its own length; celo2 leaves it to Adam.
    assert numbers(48) - numbers(24) == (2 if name == "celo2" else each + lines) * 24


def test_types_stay_and_bfloat16_is_kept_outside(name):
    optimizer, params = make(name), tree()
    tx = lopt.as_optax(optimizer, theta_of(optimizer, 0), num_steps=10)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    start = jax.eval_shape(tx.init, params)
    call = lambda grads, state, params: tx.update(grads, state, params, value=jnp.ones((), jnp.bfloat16))  # noqa: E731
    updates, state = jax.eval_shape(call, params, start, params)
    assert {k: (u.shape, u.dtype) for k, u in updates.items()} == {k: (s, jnp.bfloat16) for k, s in SHAPES.items()}
    # Types are equal from the first state on, so all steps share one trace.
    assert jax.tree.structure(state) == jax.tree.structure(start)
    assert list(map(str, jax.tree.leaves(state))) == list(map(str, jax.tree.leaves(start)))
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(state))


def test_types_do_not_follow_the_x64_flag(name, x64):
    """They are float32 and int32, as without the flag, so it may be set before or after the state is made."""
    optimizer, params = make(name), tree("scalar", "one", "cube", "kernel", "empty")
    theta = jax.eval_shape(optimizer.init_theta, jax.random.key(1))
    state = jax.eval_shape(lambda theta, p: optimizer.init(theta, p, num_steps=10), theta, params)
    call = lambda theta, g, state, p: optimizer.update(theta, g, state, p, value=1.5)  # noqa: E731
    updates, new_state = jax.eval_shape(call, theta, params, state, params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((theta, updates)))
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves(state))
    assert [x.dtype for x in jax.tree.leaves(new_state)] == [x.dtype for x in jax.tree.leaves(state)]


def test_one_tensor_under_vmap_is_the_same_among_others_in_a_loop(name):
    """One tensor is updated alone, or, where tensors see each other, all of them in another order."""
    optimizer, params = make(name), tree("cube", "matrix")
    names = sorted(params, reverse=True) if name in SEES_ALL_TENSORS else ("kernel",)  # trees are in sorted order
    renamed = {f"{i}": key for i, key in enumerate(names)}
    some = {new: params[old] for new, old in renamed.items()}
    together, _ = jax.vmap(lambda theta: run(optimizer, theta, some, LOSSES))(thetas_of(optimizer))
    for i in range(2):
        alone, _ = run(optimizer, theta_of(optimizer, i), params, LOSSES)
        for new, old in renamed.items():
            np.testing.assert_allclose(
                together[new][i], alone[old], rtol=2e-4, atol=1e-6 * np.abs(alone["kernel"]).max()
            )


@pytest.mark.parametrize("bad", [0.0, jnp.inf, -jnp.inf, jnp.nan])
def test_zero_gradients_and_losses_that_are_not_finite(name, bad):
    optimizer, params = make(name), tree("cube", "matrix")
    theta = theta_of(optimizer, 0)
    if not bad:
        updates, state = run(optimizer, theta, jax.tree.map(np.zeros_like, params), LOSSES)
    elif "value" in optimizer.requires:
        updates, state = run(optimizer, theta, params, np.asarray([bad, 1.0, 3e38, bad, 0.5], np.float32))
    else:
        return
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))


def test_no_parameters_at_all(name):
    optimizer = make(name)

    def update(theta):
        return optimizer.update(theta, {}, optimizer.init(theta, {}, num_steps=10), {}, value=jnp.ones(()))[0]

    assert jax.eval_shape(update, theta_of(optimizer, 0)) == {}


def test_unknown_inputs_are_declared(name):
    assert make(name).requires <= {"value", "params", "num_steps"}


def test_settings_out_of_range(name):
    bad = {
        "adafac_mlp": {"mup_keys": "kernel"},
        "blend": {"matrix_size": 0.0},
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
