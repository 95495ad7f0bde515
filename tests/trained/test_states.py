"""States of learned optimizers between programs: saved and restored with orbax, sharded over devices."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

import lopt
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.parts import blocks

SETTINGS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_sizes": (4,)},
    "lstm": {"hidden_sizes": (3,)},
    "celo2": {"hidden_sizes": (2,)},  # momenta, mean squares and factored moments
}
TARGET = {"w": np.linspace(-1, 1, 8 * 6, dtype=np.float32).reshape(8, 6), "b": np.ones(6, np.float32)}


def loss_fn(params):
    return sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(TARGET), strict=True))


def start(name) -> tuple[Any, Any]:
    optimizer = OPTIMIZERS[name](**SETTINGS[name])
    tx = lopt.as_optax(optimizer, optimizer.init_theta(jax.random.key(1)))
    return tx, {"w": jnp.zeros((8, 6)), "b": jnp.zeros(6)}


def trainer(tx: Any):
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    def run(params, state, num_steps):
        for _ in range(num_steps):
            params, state = jax.block_until_ready(step(params, state))  # on a CPU several in flight may hang
        return params, state

    return run


@pytest.mark.parametrize("name", SETTINGS)
def test_a_state_goes_on_bit_for_bit_from_an_orbax_checkpoint(name, tmp_path):
    tx, params = start(name)
    run = trainer(tx)
    middle = run(params, tx.init(params), 3)
    whole = run(*middle, 3)
    ocp.save(tmp_path / "state", middle)
    # Restored into shapes alone, as a program does that has not trained yet.
    shapes = jax.eval_shape(lambda p: (p, tx.init(p)), params)
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=single), shapes)
    restored: Any = ocp.load(tmp_path / "state", shapes)
    assert jax.tree.structure(restored) == jax.tree.structure(middle)
    params, state = restored
    jax.tree.map(np.testing.assert_array_equal, run(params, state, 3), whole)


@pytest.mark.parametrize(("name", "axes"), [*((name, AxisType.Auto) for name in SETTINGS), ("mlp", AxisType.Explicit)])
def test_a_state_shards_with_its_parameters(name, axes):
    tx, params = start(name)
    run = trainer(tx)
    alone, _ = run(params, tx.init(params), 4)

    mesh = jax.make_mesh((2,), ("x",), axis_types=(axes,))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    whole = NamedSharding(mesh, PartitionSpec())
    params = {"w": jax.device_put(params["w"], rows), "b": jax.device_put(params["b"], whole)}
    together, state = run(params, tx.init(params), 4)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), together, alone)
    assert together["w"].sharding.is_equivalent_to(rows, 2)
    statistics = [x for x in jax.tree.leaves(state) if x.shape[-2:] == (8, 6)]
    assert statistics
    assert all(x.addressable_shards[0].data.shape[-2:] == (4, 6) for x in statistics)


@pytest.mark.parametrize("spec", [PartitionSpec("x"), PartitionSpec(None, "x"), PartitionSpec(None, "x", None)])
def test_explicit_axes_compile_no_third_time(spec):
    """Once for the params as they were placed, and once for those that a step returns."""
    tx, params = start("mlp")
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    params = {"w": jax.device_put(jnp.zeros((4, 2, 3)), NamedSharding(mesh, spec))}
    step = jax.jit(lambda grads, state: tx.update(grads, state, grads, value=1.0))
    state = tx.init(params)
    for _ in range(4):
        params, state = jax.block_until_ready(step(params, state))
    assert step._cache_size() == 2  # pyright: ignore


LARGE = (512, 256)
LARGE_CASES = {
    "mlp": SETTINGS["mlp"],
    "lstm": SETTINGS["lstm"],
    "rnn_mlp": {"hidden_sizes": (4,), "lstm_size": 3},
    "celo2": SETTINGS["celo2"],
    "adafac_mlp": {"hidden_sizes": (9,)},  # wide: by matrix products
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", LARGE_CASES)
def test_a_large_sharded_tensor_is_collected_on_no_device(monkeypatch, name):
    monkeypatch.setattr(blocks, "LARGE", 2**16)
    monkeypatch.setattr(blocks, "LARGE_BLOCK", 2**15)
    optimizer = OPTIMIZERS[name](**LARGE_CASES[name])
    theta = optimizer.init_theta(jax.random.key(1))
    # A mean of 0 would be rounding, and its sign and logarithm anything.
    params = jnp.asarray(np.linspace(-1, 1.5, math.prod(LARGE), dtype=np.float32).reshape(LARGE))
    update = jax.jit(functools.partial(optimizer.update, value=jnp.ones(())))

    def arguments(params):
        return theta, params + 0.5, optimizer.init(theta, params, num_steps=None), params

    alone = update(*arguments(params))
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    for axes in (PartitionSpec("x"), PartitionSpec(None, "x")):
        place = NamedSharding(mesh, axes)
        program = update.lower(*arguments(jax.device_put(params, place))).compile()
        # The results of what moves numbers between devices.
        moved = re.findall(r"= (.*) (?:all-|collective-|reduce-scatter)", program.as_text() or "")
        sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", " ".join(moved))]
        assert moved or name == "lstm"  # which reads one parameter at a time
        assert max(sizes, default=0) <= 2 * max(LARGE)  # sums of rows and columns
        together = program(*arguments(jax.device_put(params, place)))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=3e-8), together, alone)
        update_and_statistics = [x for x in jax.tree.leaves(together) if x.shape[-2:] == LARGE]
        assert len(update_and_statistics) > 1
        assert all(x.addressable_shards[0].data.size == x.size // 2 for x in update_and_statistics)
