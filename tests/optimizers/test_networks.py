"""What the per-parameter rules share: networks, and passes over a tensor in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.memory import working_bytes
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.lstm import LSTMOptimizer
from lopt.optimizers.mlp import MLPOptimizer
from lopt.optimizers.parts import blocks
from lopt.optimizers.parts.blocks import map_and_sum, mean_squares, sums_along
from lopt.optimizers.parts.networks import ParameterMLP, apply_mlp
from lopt.optimizers.parts.tensors import map_tensors
from lopt.optimizers.rnn_mlp import RNNMLPOptimizer


def draws(seed, shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("optimizer", [MLPOptimizer((4,)), RNNMLPOptimizer((4,), lstm_size=3), LSTMOptimizer((2, 3))])
def test_blocks_are_the_whole(monkeypatch, optimizer):
    """The block sizes leave a rest: 7 x 11 and 23 parameters in blocks of at most 9."""
    theta = jax.jit(optimizer.init_theta)(jax.random.key(3))
    params = draws(2, {"b": (0, 3), "c": (7, 11), "d": (23,)})
    state = jax.jit(lambda: optimizer.init(theta, params, num_steps=None))()

    def update(state):
        return optimizer.update(theta, params, state, params, value=jnp.ones(()))

    together = jax.jit(update)(state)
    monkeypatch.setattr(blocks, "BLOCK", 9)
    monkeypatch.setattr("lopt.optimizers.mlp.BLOCK", 9)
    in_blocks = jax.jit(lambda state: update(state))(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), in_blocks, together)


def test_unrolled_sums_are_the_matrix_products():
    network = ParameterMLP((8, 3, 2))
    theta = network.init(jax.random.key(0), jnp.zeros((4, 1)), jnp.zeros((2,)))["params"]
    theta = jax.tree.map(lambda x: x + 0.1, theta)  # biases that are not 0
    shapes = {0: (6, 5), 1: (6, 1), 2: (1, 5), 3: (6, 5)}
    features = list(draws(1, shapes).values())
    constants = jnp.asarray([0.5, -2.0])
    flat = jnp.stack([jnp.broadcast_to(x, (6, 5)).reshape(-1) for x in features])
    products = jnp.asarray(network.apply({"params": theta}, flat, constants)).reshape(2, 6, 5)
    np.testing.assert_allclose(jnp.stack(apply_mlp(theta, features, constants)), products, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (9, 5), (11, 2), (2, 3, 4), (2, 10)])
def test_scaling_in_place_scales_once(monkeypatch, shape):
    monkeypatch.setattr(blocks, "BLOCK", 6)
    x = draws(0, {"x": shape})["x"]
    factor = draws(1, {"factor": (*shape[:-1], 1)})["factor"]
    np.testing.assert_array_equal(jax.jit(blocks.scale_in_place)(x, factor), x * factor)


@pytest.mark.parametrize("shape", [(), (3,), (17,), (9, 5), (2, 3, 4), (2, 13)])
def test_sums_over_blocks_count_every_parameter_once(monkeypatch, shape):
    monkeypatch.setattr(blocks, "BLOCK", 6)
    x = draws(0, {"x": shape})["x"]

    def fn(fresh, block):
        return 2 * block, jnp.sum(jnp.where(fresh, block, 0))

    doubled, total = jax.jit(lambda x: map_and_sum(fn, (x,), shape, jnp.zeros(())))(x)
    np.testing.assert_array_equal(doubled, 2 * x)
    np.testing.assert_allclose(total, np.sum(np.asarray(x, np.float64)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(17,), (9, 5), (5, 9), (2, 3, 4), (3, 2, 13)])
def test_sums_along_axes_of_large_tensors(monkeypatch, shape):
    monkeypatch.setattr(blocks, "LARGE", 4)
    monkeypatch.setattr(blocks, "LARGE_BLOCK", 6)
    x = draws(0, {"x": shape})["x"]
    axes = range(len(shape))
    squares = np.asarray(x, np.float64) ** 2
    for axis, total in zip(axes, jax.jit(lambda x: sums_along(jnp.square, x, axes))(x), strict=True):
        np.testing.assert_allclose(total, squares.sum(axis, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("shape", [(3_000_017,), (20_011, 50), (300, 4_000)])
def test_means_of_large_tensors_are_exact_whatever_divides_their_sides(shape):
    """Two of the sides are primes. A plain sum in float32 would be off by 0.3 % and 0.04 %."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    first, second = jax.jit(lambda x: mean_squares([x, jnp.abs(x) + 1], shape, 0))(x)
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(first, np.full_like(first, np.mean(x**2)), rtol=1e-6)
    np.testing.assert_allclose(second, np.full_like(second, np.mean((np.abs(x) + 1) ** 2)), rtol=1e-6)


def test_mean_squares_have_derivatives():
    """Estimators that differentiate use them."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)

    def total(x):
        first, second = mean_squares([x, 3 * x], (3, 4), 0)
        return (first * second)[0, 0]

    slopes = jax.vmap(jax.grad(total))(x)
    square = np.mean(np.asarray(x, np.float64) ** 2, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(slopes, 9 * 2 * square * 2 * x / 12, rtol=1e-5)


def test_equal_tensors_are_traced_once():
    params = draws(0, {"a": (3, 4), "b": (3, 4), "c": (4,), "d": (3, 4)})
    traced = []

    def fn(kind, param, other):
        traced.append((kind, param.shape))
        return param * len(kind), other

    def both(params):
        return map_tensors(fn, 2, params, {k: {"deeper": x} for k, x in params.items()}, kind=lambda path, _: path[-1])

    scaled, same = jax.jit(both)(params)
    assert sorted(traced) == [("a", (3, 4)), ("b", (3, 4)), ("c", (4,)), ("d", (3, 4))]
    traced.clear()
    jax.jit(lambda params: map_tensors(fn, 2, params, params, kind=lambda path, _: "all"))(params)
    assert sorted(traced) == [("all", (3, 4)), ("all", (4,))]
    jax.tree.map(np.testing.assert_array_equal, scaled, params)
    jax.tree.map(np.testing.assert_array_equal, {k: x["deeper"] for k, x in same.items()}, params)
    assert str(jax.jit(both).lower(params).compile().as_text()).count(" call(") == 4  # none is put into its place


@pytest.mark.parametrize(
    ("name", "limit"),
    [("adafac_mlp", 4e5), ("celo2", 4e5)]
    + [(name, 280 * blocks.BLOCK) for name in ("adafac_mlp:hidden_sizes=(32,32)", "mlp")],
)
def test_features_are_never_in_memory(name, limit):
    assert working_bytes(name, {"w": (2000, 2000)}) < limit


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [{"w": (10_000, 10_000)}, {f"layer_{i}": (3162, 3162) for i in range(10)}])
@pytest.mark.parametrize("name", [*sorted(OPTIMIZERS), "adafac_mlp:hidden_sizes=(32,32)"])
def test_working_memory_at_1e8_parameters(name, shapes):
    assert working_bytes(name, shapes) <= 256 * 2**20
