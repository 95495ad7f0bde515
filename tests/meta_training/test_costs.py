"""What `benchmarks.meta_training` counts: operations against formulas, memory against what grows with what.

And what `benchmarks.processes` counts: the bytes that cross devices.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.meta_training import TASK, Setting, compile_estimate, flops_per_inner_step, read_settings
from benchmarks.processes import reduced_bytes, step_program, training_of
from benchmarks.products import product_flops
from lopt.distributed import PairLayout
from lopt.names import InputError
from lopt.optimizers import OPTIMIZERS
from lopt.pool import read_mixture
from tests.toy_family import Quadratic

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
IMAGE, KERNEL = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)
ONE = 2 * 3 * 5 * 7  # operations of A B


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def several(a, b):
    return jax.lax.scan(lambda carry, x: (carry + (x @ b).sum(), None), 0.0, jnp.stack([a] * 4))[0]


PRODUCTS = {
    "one": (lambda a, b: a @ b, (A, B), ONE),
    "none": (lambda a, b: a.sum() * b.sum(), (A, B), 0),
    "jit": (lambda a, b: jax.jit(jnp.matmul)(a, b), (A, B), ONE),
    "vmap": (lambda a, b: jax.vmap(lambda x: x @ b)(a), (A, B), ONE),
    "a loop": (several, (A, B), 4 * ONE),
    "a counted loop": (lambda a, b: jax.lax.fori_loop(0, 6, lambda i, x: x + (a @ b).sum(), 0.0), (A, B), 6 * ONE),
    "a condition": (lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((3, 7))), (A, B), ONE),
    "forward and backward": (lambda a, b: jax.grad(lambda a, b: jnp.sum((a @ b) ** 2), (0, 1))(a, b), (A, B), 3 * ONE),
    "a convolution": (convolve, (IMAGE, KERNEL), 2 * (2 * 8 * 8 * 4) * (3 * 3 * 3)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted(name):
    function, arguments, wanted = PRODUCTS[name]
    assert product_flops(function, *arguments) == wanted


def test_an_inner_step_has_the_products_of_its_formula():
    """An MLP 64-32-10 goes forward, and back to weights and hidden layer; `mlp` has its products for each parameter."""
    (family,) = read_mixture(TASK).families
    task = 128 * (2 * 64 * 32 + 3 * 32 * 10)
    rule = (64 * 32 + 32 + 32 * 10 + 10) * (8 * 32 + 32 * 32 + 32 * 2)
    times = 11 * 32  # of the 11 time features, once for all parameters
    found = flops_per_inner_step(Setting(OPTIMIZERS["mlp"](), family, 2, 50, PairLayout()), PairLayout().load(family))
    assert abs(found / (2 * (task + rule + times)) - 1) < 0.02


@functools.cache
def compiled(num_pairs, truncation, vmap=False):
    layout = PairLayout(1, sequential=not vmap)
    rule = OPTIMIZERS["learnable_adam"]()
    return compile_estimate(Setting(rule, Quadratic(dim=2048), num_pairs, truncation, layout), {})


def test_memory_is_linear_in_pairs_and_flat_in_k():
    few, many = compiled(4, 10), compiled(16, 10)
    assert many.state == 4 * few.state
    each = 2 * 3 * 2048 * 4  # bytes of params and two momenta of both halves
    assert each < few.state / 4 < 1.1 * each
    # One after another, particles share what a step needs; what grows is the new state.
    assert (many.working - few.working) / 12 < 1.5 * each
    longer = compiled(4, 40)
    assert (longer.state, longer.working) == (few.state, few.working)


@pytest.mark.thorough
def test_side_by_side_particles_need_memory_in_proportion():
    few, many = compiled(4, 10, vmap=True), compiled(16, 10, vmap=True)
    assert 2.5 < many.working / few.working < 4.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": "mpl"}, "unknown optimizer 'mpl'. Did you mean 'mlp'"),
        ({"tasks": "image_mpl"}, "Did you mean 'image_mlp'"),
        ({"pairs": "16,0"}, "--pairs takes whole numbers above 0"),
        ({"K": "fifty"}, "--K takes whole numbers above 0"),
        ({"pairs": "3", "devices": 2}, "2 devices cannot share 3 pairs"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, message):
    settings = {"rules": "mlp", "tasks": "quadratic", "pairs": "4", "K": "10", "devices": 1, "vmap": False}
    with pytest.raises(InputError, match=message):
        read_settings(argparse.Namespace(**{**settings, **changes}))


def test_each_combination_is_a_row():
    args = argparse.Namespace(
        rules="mlp,learnable_adam", tasks="quadratic,least_squares", pairs="4,8", K="10", devices=2, vmap=False
    )
    rows = read_settings(args)
    assert len(rows) == 8
    assert rows[1][0] == "`mlp` | `quadratic` | 8 | 10"
    assert rows[1][1].num_pairs == 8


@pytest.mark.thorough  # two large programs are compiled
@pytest.mark.parametrize("num_pairs", [2, 6])
def test_what_crosses_devices_is_as_large_as_theta_whatever_the_pairs(num_pairs):
    """The sum of the meta-gradient, and 14 numbers; no state of a trajectory, and none of a task."""
    training = training_of(num_pairs, PairLayout(2))
    data = jax.device_put(tuple(family.load() for family in training.families), training.layout.replicated)
    state = training.template(data)
    theta = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.theta))
    assert reduced_bytes(step_program(training, state, data)) == theta + 14 * 4
