"""What every learned optimizer does, on one tree with tensors of all ranks."""

import functools

import jax
import jax.numpy as jnp
import pytest

from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.testing.optimizers import NOT_FINITE, RuleTrials

SIZES = {
    "adafac_mlp": 197,
    "blend": 48,
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
    "blend": (2, 0),
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
pytestmark = pytest.mark.parametrize("name", OPTIMIZERS)


def make(name):
    """The rule, with settings that are small where the default is large."""
    return OPTIMIZERS[name](**SMALL.get(name, {}))


@functools.cache
def trials(name):
    return RuleTrials(make(name))


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


def test_it_is_a_value_with_known_inputs_that_can_be_exported(name):
    trials(name).check_value()
    trials(name).check_requires()


def test_types_stay_and_bfloat16_is_kept_outside(name):
    trials(name).check_types()


def test_types_do_not_follow_the_x64_flag(name):
    trials(name).check_x64()


def test_one_tensor_under_vmap_is_the_same_among_others_in_a_loop(name):
    """One tensor is updated alone, or, where tensors see each other, all of them in another order."""
    trials(name).check_vmap(sees_all_tensors=name in SEES_ALL_TENSORS)


@pytest.mark.whole_table
@pytest.mark.parametrize("bad", [0.0, *NOT_FINITE])
def test_zero_gradients_and_losses_that_are_not_finite(name, bad):
    trials(name).check_finite(bad)


def test_no_parameters_at_all(name):
    trials(name).check_no_params()


def test_a_fresh_state_can_be_donated(name):
    trials(name).check_donation()


def test_settings_out_of_range(name):
    bad = {
        "adafac_mlp": {"mup_keys": "kernel"},
        "blend": {"matrix_rate": 0.0},
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
